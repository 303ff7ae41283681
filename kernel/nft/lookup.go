package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// Lookup returns those of a set's elements with the given keys that are there, in the order of the keys, with what the kernel notes about
// them. Each costs one round trip of some 10 µs, however many elements the set holds. A set that is not there has none. It is not for sets of
// intervals, where the kernel would answer with the range around a key.
func (h *Handle) Lookup(ctx context.Context, set kernel.SetID, keys []string) ([]kernel.EntryState, error) {
	var found []kernel.EntryState
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		state, err := h.lookup(set, key)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up element of set %s of table %s: %w", set.Set, set.Table, err)
		}
		found = append(found, state)
	}
	return found, nil
}

func (h *Handle) lookup(set kernel.SetID, key string) (state kernel.EntryState, err error) {
	m := message(unix.NFT_MSG_GETSETELEM, tableID{families[set.Family], set.Table})
	m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, set.Set)
	m.Attrs.Bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, appendEntry(nil, kernel.Entry{Key: key}))
	h.mu.Lock() // for each key: a change of elements waits for one at most
	defer h.mu.Unlock()
	answer, err := h.socket.Get(m)
	if err != nil {
		return state, err
	}
	return state, eachElement(answer, func(b []byte) error {
		state, err = decodeState(b)
		return err
	})
}
