package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// maxElements is how many elements of a Bulk set go into one message: a refusal is about a message.
const maxElements = 1000

var _ kernel.BulkTables = (*Handle)(nil)

// setID identifies a set in the kernel.
type setID struct {
	table tableID
	name  string
}

// ChangeElements implements kernel.BulkTables. The elements are written straight into the buffer of one sendto. A running Monitor hears
// nothing of the change, and what the next SyncTables remembers stays true.
//
// ENOENT is also the answer for a set that SyncTables has made, for the first time or anew because its shape changed or somebody had removed
// it, until Entries has listed it: what its writer remembers of it may not be there.
func (h *Handle) ChangeElements(ctx context.Context, family kernel.TableFamily, table string, changes []kernel.SetChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := tableID{families[family], table}
	size := 0
	for _, c := range changes {
		if h.unlisted[setID{id, c.Set}] {
			return fmt.Errorf("change elements of set %s of table %s: the set was made anew: %w", c.Set, table, unix.ENOENT)
		}
		size += sizeOf(c)
	}
	w := bulkWriter{batch: h.socket.Begin(unix.NFNL_SUBSYS_NFTABLES, 0, size), id: id}
	for _, c := range changes {
		w.write(unix.NFT_MSG_DELSETELEM, c.Set, len(c.Remove), func(i int) kernel.Entry { return kernel.Entry{Key: c.Remove[i]} })
	}
	for _, c := range changes {
		w.write(unix.NFT_MSG_NEWSETELEM, c.Set, len(c.Add), func(i int) kernel.Entry { return c.Add[i] })
	}
	if w.batch.Len() == 0 {
		return nil
	}
	err := w.batch.Commit()
	var refused *nfnl.Error
	switch {
	case err == nil:
		h.generation = successor(h.generation)
		h.log.Debug("nftables elements changed", "table", table, "messages", w.batch.Len())
		return nil
	case errors.As(err, &refused) && refused.Index >= 0 && refused.Index < len(w.what):
		what := w.what[refused.Index]
		return fmt.Errorf("%s elements of set %s of table %s: %w", verbs[what.typ], what.set, table, err)
	}
	return fmt.Errorf("change elements of table %s: %w", table, err)
}

var verbs = map[uint16]string{unix.NFT_MSG_NEWSETELEM: "add", unix.NFT_MSG_DELSETELEM: "remove"}

// sizeOf estimates how many bytes a change is.
func sizeOf(c kernel.SetChange) int {
	size := 0
	for _, key := range c.Remove {
		size += entrySize(kernel.Entry{Key: key})
	}
	for _, e := range c.Add {
		size += entrySize(e)
	}
	const head = 256 // of a message: header, names of table and set, begun list
	return size + head*(2+len(c.Remove)/maxElements+len(c.Add)/maxElements+size/maxList)
}

// bulkWriter writes messages with elements.
type bulkWriter struct {
	batch *nfnl.Batch
	id    tableID
	what  []struct { // of each message
		typ uint16
		set string
	}
}

// write writes n elements of one set, as many messages as they need.
func (w *bulkWriter) write(typ uint16, set string, n int, entry func(int) kernel.Entry) {
	for i := 0; i < n; {
		m := message(typ, w.id)
		if typ == unix.NFT_MSG_NEWSETELEM {
			m.Flags = unix.NLM_F_CREATE
		}
		m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		w.batch.Add(m)
		w.what = append(w.what, struct {
			typ uint16
			set string
		}{typ, set})
		w.batch.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *nfnl.Attrs) {
			start := len(*a)
			for first := i; i < n && i-first < maxElements && len(*a)-start < maxList; i++ {
				*a = appendEntry(*a, entry(i))
			}
		})
	}
}

const (
	attrHeader = 4
	nested     = unix.NLA_F_NESTED
)

// entrySize is how many bytes appendEntry appends.
func entrySize(e kernel.Entry) int {
	size := attrHeader + 2*attrHeader + padded(len(e.Key))
	if e.Value != "" {
		size += 2*attrHeader + padded(len(e.Value))
	}
	return size
}

// appendEntry appends one element of a list:
//
//	LIST_ELEM { KEY { VALUE key }, DATA { VALUE value } }
//
// An entry without a key is the element for every key that no other is for, which nft writes as `*`.
func appendEntry(b []byte, e kernel.Entry) []byte {
	b = appendHeader(b, entrySize(e), unix.NFTA_LIST_ELEM|nested)
	if e.Key == "" {
		b = appendHeader(b, 2*attrHeader, unix.NFTA_SET_ELEM_FLAGS)
		b = binary.BigEndian.AppendUint32(b, nftSetElemCatchAll)
	} else {
		b = appendValue(b, unix.NFTA_SET_ELEM_KEY, e.Key)
	}
	if e.Value != "" {
		b = appendValue(b, unix.NFTA_SET_ELEM_DATA, e.Value)
	}
	return b
}

// appendValue appends struct-like data; the length of a value counts without its padding, that of what holds it with it.
func appendValue(b []byte, typ int, value string) []byte {
	b = appendHeader(b, 2*attrHeader+padded(len(value)), typ|nested)
	b = appendHeader(b, attrHeader+len(value), unix.NFTA_DATA_VALUE)
	b = append(b, value...)
	return append(b, "\x00\x00\x00"[:padded(len(value))-len(value)]...)
}

func appendHeader(b []byte, size, typ int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(size))
	return binary.NativeEndian.AppendUint16(b, uint16(typ))
}
