package nft

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// Entries implements kernel.BulkTables. The strings of entries that one message of the kernel told (some hundreds) share their memory. An
// entry without a key is one that somebody added for all other keys; ChangeElements removes it by that.
//
// The kernel walks a set from its start for each message of at most 32 KiB (nf_tables_dump_set skips what it has told): the time grows with
// the square of the number of elements, from 0.1 s for 50,000 to 3 s for 300,000.
func (h *Handle) Entries(ctx context.Context, set kernel.SetID, reset func(), each func(kernel.Entry)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.listing(ctx, set, reset, func(seen *keyHashes) func(nfnl.Message) error {
		reader := entryReader{each: each, seen: seen}
		return reader.message
	})
	if err == nil {
		delete(h.unlisted, setID{tableID{families[set.Family], set.Table}, set.Set})
	}
	return err
}

// listing lists a set's elements until it is done undisturbed: reader returns what reads the messages of one attempt.
func (h *Handle) listing(ctx context.Context, set kernel.SetID, reset func(), reader func(*keyHashes) func(nfnl.Message) error) error {
	for range attempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		reset()
		m := message(unix.NFT_MSG_GETSETELEM, tableID{families[set.Family], set.Table})
		m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, set.Set)
		seen := keyHashes{seed: maphash.MakeSeed()}
		err := h.socket.Dump(m, reader(&seen))
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case err == nil && seen.distinct():
			return nil
		case err != nil && !errors.Is(err, kernel.ErrStale):
			return fmt.Errorf("read elements of set %s of table %s: %w", set.Set, set.Table, err)
		}
	}
	return fmt.Errorf("read elements of set %s of table %s: disturbed in each of %d attempts: %w", set.Set, set.Table, attempts, kernel.ErrStale)
}

// keyHashes finds out whether a listing has told an element twice. The kernel goes on after each message by skipping as many elements as
// it has listed, although a hash table that is being resized has changed their order: for each one that it lists twice it leaves one out.
type keyHashes struct {
	seed maphash.Seed
	all  []uint64
}

func (k *keyHashes) add(key []byte) { k.all = append(k.all, maphash.Bytes(k.seed, key)) }

func (k *keyHashes) distinct() bool {
	slices.Sort(k.all)
	return len(slices.Compact(k.all)) == len(k.all)
}

// entryReader decodes messages of a listing.
type entryReader struct {
	each func(kernel.Entry)
	seen *keyHashes
	text []byte // keys and values of one message
	ends []int  // in text: of each key, of each value
}

func (r *entryReader) message(m nfnl.Message) error {
	r.text, r.ends = r.text[:0], r.ends[:0]
	if err := eachElement(m, r.element); err != nil {
		return err
	}
	text := string(r.text)
	start := 0
	for i := 0; i < len(r.ends); i += 2 {
		key, end := r.ends[i], r.ends[i+1]
		r.each(kernel.Entry{Key: text[start:key], Value: text[key:end]})
		start = end
	}
	return nil
}

// eachElement walks the elements of one message.
func eachElement(m nfnl.Message, each func([]byte) error) error {
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return err
		}
		if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for element, err := range nfnl.Each(a.Value) {
			if err != nil {
				return err
			}
			if err := each(element.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *entryReader) element(b []byte) error {
	var key, value []byte
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return err
		}
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			key, err = valueOf(a.Value)
		case unix.NFTA_SET_ELEM_DATA:
			value, err = valueOf(a.Value)
		}
		if err != nil {
			return err
		}
	}
	r.seen.add(key)
	r.text = append(r.text, key...)
	r.ends = append(r.ends, len(r.text))
	r.text = append(r.text, value...)
	r.ends = append(r.ends, len(r.text))
	return nil
}

// valueOf returns the NFTA_DATA_VALUE in b.
func valueOf(b []byte) ([]byte, error) {
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return nil, err
		}
		if a.Type == unix.NFTA_DATA_VALUE {
			return a.Value, nil
		}
	}
	return nil, nil
}
