package nft

import (
	"context"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// EntryStates calls each with all elements of a set and what the kernel notes about them: the time that those of a set with Timeout have left,
// and what those of a Counted set have counted. It is for people's eyes, of sets that packets change as well, and costs what Entries
// costs. A set that is not there has none; reset is called before each attempt at an undisturbed listing.
func (h *Handle) EntryStates(ctx context.Context, set kernel.SetID, reset func(), each func(kernel.EntryState)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listing(ctx, set, reset, func(seen *keyHashes) func(nfnl.Message) error {
		return func(m nfnl.Message) error {
			return eachElement(m, func(b []byte) error {
				state, err := decodeState(b)
				if err != nil {
					return err
				}
				seen.add([]byte(state.Key))
				each(state)
				return nil
			})
		}
	})
}

func decodeState(b []byte) (state kernel.EntryState, err error) {
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return state, err
		}
		var data []byte
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			data, err = valueOf(a.Value)
			state.Key = string(data)
		case unix.NFTA_SET_ELEM_DATA:
			data, err = valueOf(a.Value)
			state.Value = string(data)
		case unix.NFTA_SET_ELEM_EXPIRATION:
			state.Expires = time.Duration(uint64Of(a)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPR:
			state.Packets, state.Bytes, err = decodeCounter(a.Value)
		}
		if err != nil {
			return state, err
		}
	}
	return state, nil
}

// decodeCounter reads the expression of a Counted set's element.
func decodeCounter(b []byte) (packets, bytes uint64, err error) {
	e, err := nfnl.Parse(b)
	if err != nil || e[unix.NFTA_EXPR_NAME].String() != exprCounter {
		return 0, 0, err
	}
	counter, err := nfnl.Parse(e[unix.NFTA_EXPR_DATA].Value)
	if err != nil {
		return 0, 0, err
	}
	return uint64Of(counter[unix.NFTA_COUNTER_PACKETS]), uint64Of(counter[unix.NFTA_COUNTER_BYTES]), nil
}

func uint64Of(a nfnl.Attr) uint64 {
	if len(a.Value) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a.Value)
}
