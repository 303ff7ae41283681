package gauge

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"regexp"
	"time"
)

const (
	// questionSize is the length of a question in bytes; no answer is longer. In VXLAN over IPv6 it fits into 1,280 bytes, the least MTU.
	questionSize = 1024

	magic    = "twg1"
	question = 'q'
	answer   = 'a'

	headSize = len(magic) + 1 + 8 // magic, kind, nonce
	edgeSize = 16 + 1 + 1 + 4     // address, state, loss, round trip

	maxName  = 253
	maxEdges = 32
)

var (
	errNotOurs  = errors.New("no message of a twilld that measures")
	validName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	edgeOctets  = map[State]byte{Unknown: 0, Up: 1, Down: 2, Silent: 3}
	edgeMeaning = []State{Unknown, Up, Down, Silent}
)

// Edge is what a node says of the way from it to another one.
type Edge struct {
	To    netip.Addr    `json:"to"` // in its pod subnet
	State State         `json:"state"`
	Loss  float64       `json:"loss"`  // 0 to 1
	RTT   time.Duration `json:"rttNs"` // the median; 0: not known
}

// newQuestion returns a question with this nonce.
func newQuestion(nonce uint64) []byte {
	q := make([]byte, questionSize)
	putHead(q, question, nonce)
	return q
}

func putHead(to []byte, kind byte, nonce uint64) {
	copy(to, magic)
	to[len(magic)] = kind
	binary.BigEndian.PutUint64(to[len(magic)+1:], nonce)
}

// nonceOf returns the nonce of a message of that kind.
func nonceOf(message []byte, kind byte) (uint64, error) {
	if len(message) < headSize || string(message[:len(magic)]) != magic || message[len(magic)] != kind {
		return 0, errNotOurs
	}
	return binary.BigEndian.Uint64(message[len(magic)+1:]), nil
}

// readQuestion returns the nonce of a question.
func readQuestion(message []byte) (uint64, error) {
	if len(message) != questionSize {
		return 0, errNotOurs
	}
	return nonceOf(message, question)
}

// newAnswer returns what is said to any question, but for its nonce. Edges beyond maxEdges are left out.
func newAnswer(node string, edges []Edge) []byte {
	node = node[:min(len(node), maxName)]
	edges = edges[:min(len(edges), maxEdges)]
	out := make([]byte, headSize, questionSize)
	putHead(out, answer, 0)
	out = append(append(out, byte(len(node))), node...)
	out = append(out, byte(len(edges)))
	for _, e := range edges {
		to := e.To.As16()
		out = append(out, to[:]...)
		out = append(out, edgeOctets[e.State], byte(e.Loss*100+0.5))
		out = binary.BigEndian.AppendUint32(out, uint32(min(max(e.RTT.Microseconds(), 0), 1<<32-1)))
	}
	return out
}

// readAnswer returns the node's name and the edges of the answer to the question with that nonce.
func readAnswer(message []byte, nonce uint64) (node string, edges []Edge, err error) {
	if have, err := nonceOf(message, answer); err != nil || have != nonce || len(message) > questionSize {
		return "", nil, errNotOurs
	}
	rest := message[headSize:]
	if len(rest) < 1 {
		return "", nil, errNotOurs
	}
	length := int(rest[0]) // 1 and an octet can be too much for an octet
	if len(rest) < 1+length+1 {
		return "", nil, errNotOurs
	}
	node, rest = string(rest[1:1+length]), rest[1+length:]
	count := int(rest[0])
	rest = rest[1:]
	if !validName.MatchString(node) || count > maxEdges || len(rest) != count*edgeSize {
		return "", nil, errNotOurs
	}
	for ; len(rest) > 0; rest = rest[edgeSize:] {
		e := Edge{To: netip.AddrFrom16([16]byte(rest)).Unmap(), Loss: float64(min(rest[17], 100)) / 100}
		if int(rest[16]) < len(edgeMeaning) {
			e.State = edgeMeaning[rest[16]]
		} else {
			e.State = Unknown
		}
		e.RTT = time.Duration(binary.BigEndian.Uint32(rest[18:])) * time.Microsecond
		edges = append(edges, e)
	}
	return node, edges, nil
}
