package nft

import (
	"errors"
	"fmt"
	"math"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// words is how many 4-byte words the kernel's registers have for data (NFT_REG32_00 to NFT_REG32_15).
const words = 16

var errRegisters = errors.New("concatenation is longer than the kernel's registers, 64 bytes")

// load puts the field into the registers from the given word of 4 bytes on.
func (e *ruleEncoder) load(f field, word int) {
	e.add(withRegister(f.load, register(word)))
}

// narrowTo makes the rule match packets only that have all the fields in the operands. It uses a register: it comes before the first
// operand is loaded.
func (e *ruleEncoder) narrowTo(operands []kernel.Operand) error {
	for _, o := range operands {
		parts := []kernel.Field{}
		switch o := o.(type) {
		case kernel.Field:
			parts = append(parts, o)
		case kernel.Hash:
			parts = o.Fields
		}
		for _, part := range parts {
			f, err := fieldOf(part)
			if err != nil {
				return err
			}
			e.narrowToField(f)
		}
	}
	return nil
}

// concat loads the concatenation of operands from the given word on, and returns the word after it.
func (e *ruleEncoder) concat(operands []kernel.Operand, word int) (int, error) {
	if len(operands) == 0 {
		return word, errors.New("nothing to look up")
	}
	for _, o := range operands {
		switch o := o.(type) {
		case kernel.Field:
			f, err := fieldOf(o)
			if err != nil {
				return word, err
			}
			e.load(f, word)
			word += padded(f.size) / 4
		case kernel.Numgen:
			if err := e.numgen(o, word); err != nil {
				return word, err
			}
			word++
		case kernel.Hash:
			if err := e.hash(o, word); err != nil {
				return word, err
			}
			word++
		default:
			return word, fmt.Errorf("unknown operand %T", o)
		}
		if word > words {
			return word, errRegisters
		}
	}
	return word, nil
}

func (e *ruleEncoder) numgen(n kernel.Numgen, word int) error {
	if err := checkModulus(n.Modulus, n.Offset); err != nil {
		return fmt.Errorf("numgen: %w", err)
	}
	kind := uint32(unix.NFT_NG_INCREMENTAL)
	if n.Random {
		kind = unix.NFT_NG_RANDOM
	}
	e.add(&expr.Numgen{Register: register(word), Modulus: n.Modulus, Type: kind, Offset: n.Offset})
	return nil
}

// hash loads the fields into the place of the hash and the words behind it, and hashes them in place: what follows in the
// concatenation is loaded after that.
func (e *ruleEncoder) hash(h kernel.Hash, word int) error {
	if err := checkModulus(h.Modulus, h.Offset); err != nil {
		return fmt.Errorf("hash: %w", err)
	}
	if len(h.Fields) == 0 {
		return errors.New("nothing to hash")
	}
	at, size := word, 0
	for _, part := range h.Fields {
		f, err := fieldOf(part)
		if err != nil {
			return err
		}
		if at+padded(f.size)/4 > words {
			return errRegisters
		}
		e.load(f, at)
		at += padded(f.size) / 4
		size = f.size
	}
	if len(h.Fields) > 1 {
		size = 4 * (at - word)
	}
	e.add(&expr.Hash{SourceRegister: register(word), DestRegister: register(word), Length: uint32(size), Modulus: h.Modulus,
		Seed: h.Seed, Offset: h.Offset, Type: expr.HashTypeJenkins})
	return nil
}

// checkModulus refuses what the kernel refuses with no word about it (ERANGE, EOVERFLOW).
func checkModulus(modulus, offset uint32) error {
	if modulus == 0 {
		return errors.New("modulus is 0")
	}
	if offset > math.MaxUint32-(modulus-1) {
		return fmt.Errorf("offset %d and modulus %d exceed 32 bits", offset, modulus)
	}
	return nil
}

// lookup loads the concatenation of operands and looks it up.
func (e *ruleEncoder) lookup(operands []kernel.Operand, l *expr.Lookup) error {
	if err := e.narrowTo(operands); err != nil {
		return err
	}
	if _, err := e.concat(operands, 0); err != nil {
		return err
	}
	if e.intervals[l.SetName] {
		if err := e.toNetworkOrder(operands); err != nil {
			return err
		}
	}
	l.SourceRegister = unix.NFT_REG_1
	e.add(l)
	return nil
}

// toNetworkOrder turns the numbers of the concatenation that starts at word 0 from the host's byte order into the network's.
func (e *ruleEncoder) toNetworkOrder(operands []kernel.Operand) error {
	word := 0
	for _, o := range operands {
		size, host := 4, true // of a Numgen or a Hash
		if name, ok := o.(kernel.Field); ok {
			f, err := fieldOf(name)
			if err != nil {
				return err
			}
			size, host = padded(f.size), f.host
		}
		if host {
			e.add(&expr.Byteorder{SourceRegister: register(word), DestRegister: register(word), Op: expr.ByteorderHton, Len: 4, Size: 4})
		}
		word += size / 4
	}
	return nil
}

// register numbers the 4-byte word in the way in which the kernel lists it (nft_dump_register): the 16-byte register where a
// word is the first of one, else the 4-byte one.
func register(word int) uint32 {
	if word%4 == 0 {
		return uint32(unix.NFT_REG_1 + word/4)
	}
	return uint32(unix.NFT_REG32_00 + word)
}

// withRegister returns a copy of the load expression with its destination set.
func withRegister(load expr.Any, reg uint32) expr.Any {
	switch x := load.(type) {
	case *expr.Meta:
		y := *x
		y.Register = reg
		return &y
	case *expr.Payload:
		y := *x
		y.DestRegister = reg
		return &y
	case *expr.Ct:
		y := *x
		y.Register = reg
		return &y
	case *expr.Fib:
		y := *x
		y.Register = reg
		return &y
	}
	return load
}
