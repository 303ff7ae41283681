package filter

import "github.com/twill-cni/twill/kernel"

// numbers are the numbers of one kind of things. A thing's number is a hash of its text, so that a restarted daemon finds the same. When another thing
// has it, the text is hashed once more; which of the two was first then depends on what came before, and a daemon that is restarted may number
// them the other way round. It then writes both anew.
type numbers struct {
	hash  func(attempt uint64, text string) uint32
	taken map[uint32]bool
}

// take returns a free number. form makes one of a hash; 0 and what it makes of reserved hashes are no number.
func (n *numbers) take(text string, form func(hash uint32) uint32) uint32 {
	for attempt := uint64(0); ; attempt++ {
		number := form(n.hash(attempt, text))
		if !n.taken[number] && number > reserved && number < 1<<32-1 {
			n.taken[number] = true
			return number
		}
	}
}

// reserved is the greatest number with a fixed meaning: class 0 matches no term, and see gate.PortsNone.
const reserved = 2

func (n *numbers) free(number uint32) { delete(n.taken, number) }

func newNumbers(hash func(uint64, string) uint32) numbers {
	return numbers{hash: hash, taken: map[uint32]bool{}}
}

// plain are numbers without flags.
func plain(hash uint32) uint32 { return hash & (1<<31 - 1) }

func hash32(attempt uint64, text string) uint32 { return uint32(kernel.StableHash(attempt, text)) }
