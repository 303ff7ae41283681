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
func (h *Handle) Entries(ctx context.Context, set kernel.SetID, reset func(), each func(kernel.Entry)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := setID{tableID{families[set.Family], set.Table}, set.Set}
	for range attempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		reset()
		err := h.entries(id, each)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			delete(h.unlisted, id)
			return nil
		case !errors.Is(err, kernel.ErrStale):
			return fmt.Errorf("read elements of set %s of table %s: %w", set.Set, set.Table, err)
		}
	}
	return fmt.Errorf("read elements of set %s of table %s: disturbed in each of %d attempts: %w", set.Set, set.Table, attempts, kernel.ErrStale)
}

// entries is one attempt of Entries.
func (h *Handle) entries(id setID, each func(kernel.Entry)) error {
	m := message(unix.NFT_MSG_GETSETELEM, id.table)
	m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, id.name)
	reader := entryReader{each: each, seed: maphash.MakeSeed()}
	if err := h.socket.Dump(m, reader.message); err != nil {
		return err
	}
	// The kernel goes on after each chunk by skipping as many elements as it has listed (nf_tables_dump_set), although a hash table that
	// is being resized has changed their order: for each one that it lists twice it leaves one out.
	slices.Sort(reader.seen)
	if len(slices.Compact(reader.seen)) != len(reader.seen) {
		return kernel.ErrStale
	}
	return nil
}

// entryReader decodes messages of a listing.
type entryReader struct {
	each func(kernel.Entry)
	seed maphash.Seed
	seen []uint64 // hashes of the keys
	text []byte   // keys and values of one message
	ends []int    // in text: of each key, of each value
}

func (r *entryReader) message(m nfnl.Message) error {
	r.text, r.ends = r.text[:0], r.ends[:0]
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
			if err := r.element(element.Value); err != nil {
				return err
			}
		}
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
	r.seen = append(r.seen, maphash.Bytes(r.seed, key))
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
