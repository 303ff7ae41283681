package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// AddElements adds elements to sets of the skeleton, keyed by the set's name, in one transaction: one system call to send it
// and one to read the answer. When the table or one of the sets is missing, what the skeleton says is made first, in
// the same transaction as the elements; programs that do so at the same time do not get into each other's way.
//
// Adding an element that is there with the same value is no error. The error is EEXIST (as errors.Is sees it) when a map has
// the key with another value, or a range overlaps with one that is there; then nothing was added.
func (h *Handle) AddElements(ctx context.Context, skeleton kernel.Table, elems map[string][]kernel.Element) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id := tableID{families[skeleton.Family], skeleton.Name}
	steps, err := additions(id, skeleton, elems)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgetUnlessForeign(id, sorted(elems))
	err = h.commit(id, 0, steps)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	want, err := encode(skeleton)
	if err != nil {
		return err
	}
	return h.apply(id, want, steps)
}

// InsertElements adds elements as AddElements does, to a table that is somebody else's: nothing else is made or changed. The error is ENOENT when
// the table, a set, or a chain that a verdict leads to is missing. Of the table that is given, only the types of the sets count.
func (h *Handle) InsertElements(ctx context.Context, table kernel.Table, elems map[string][]kernel.Element) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id := tableID{families[table.Family], table.Name}
	steps, err := additions(id, table, elems)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forgetUnlessForeign(id, sorted(elems))
	return h.commit(id, 0, steps)
}

// additions returns what adds elements to sets of a table that are as the skeleton says.
func additions(id tableID, skeleton kernel.Table, elems map[string][]kernel.Element) ([]step, error) {
	p := planner{id: id}
	for _, name := range sorted(elems) {
		i := slices.IndexFunc(skeleton.Sets, func(s kernel.Set) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("table %s: the skeleton has no set %s", skeleton.Name, name)
		}
		set := skeleton.Sets[i]
		set.Elements = elems[name]
		encoded, err := encodeSet(set)
		if err != nil {
			return nil, fmt.Errorf("table %s: set %s: %w", skeleton.Name, name, err)
		}
		p.elements(unix.NFT_MSG_NEWSETELEM, name, encoded.setSpec, encoded.elements)
	}
	return p.steps, nil
}

// DeleteElements removes elements by key from sets of a table, keyed by the set's name. Elements, sets and tables that are not
// there are no error; Value and Comment of the elements do not count.
//
// Each element, unless it is a range, is looked up first, a round trip of some 10 µs: to take a transaction back because one of them is not
// there, the kernel waits for all packets under way (nf_tables_abort), some 10 ms. Kernels since 6.3 have a message that does not mind
// (NFT_MSG_DESTROYSETELEM), 6.1 has not.
func (h *Handle) DeleteElements(ctx context.Context, family kernel.TableFamily, table string, elems map[string][]kernel.Element) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := tableID{families[family], table}
	h.forgetUnlessForeign(id, sorted(elems))
	all := planner{id: id}
	one := planner{id: id}
	for _, name := range sorted(elems) {
		spec, shape, err := h.setOf(id, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		keys, err := encodeKeys(shape, elems[name])
		if err != nil {
			return fmt.Errorf("table %s: set %s: %w", table, name, err)
		}
		if !shape.Interval {
			if err := h.keepFound(id, name, spec, keys); err != nil {
				return err
			}
		}
		all.elements(unix.NFT_MSG_DELSETELEM, name, spec, keys)
		for k := range keys {
			one.elements(unix.NFT_MSG_DELSETELEM, name, spec, map[elementKey]elementValue{k: {}})
		}
	}
	err := h.commit(id, 0, all.steps)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	// Some have gone, and the kernel has refused the whole transaction for it: remove what is left one by one.
	var errs []error
	for _, s := range one.steps {
		if err := h.commit(id, 0, []step{s}); !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// keepFound deletes from keys those that are not in the set.
func (h *Handle) keepFound(id tableID, set string, spec setSpec, keys map[elementKey]elementValue) error {
	for _, key := range slices.SortedFunc(maps.Keys(keys), elementKey.compare) {
		_, err := h.findElement(id, set, spec, key)
		if errors.Is(err, unix.ENOENT) {
			delete(keys, key)
		} else if err != nil {
			return fmt.Errorf("find element of set %s of table %s: %w", set, id.name, err)
		}
	}
	return nil
}

// ListElements returns the elements of a set, in order of their keys, without one that somebody added for all other keys (`*` to
// nft). A set or table that is not there is ENOENT.
func (h *Handle) ListElements(family kernel.TableFamily, table, set string) ([]kernel.Element, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := tableID{families[family], table}
	spec, shape, err := h.setOf(id, set)
	if err != nil {
		return nil, err
	}
	var found map[elementKey]elementValue
	for range attempts {
		if found, err = readElements(h.socket, id, set, spec); !errors.Is(err, kernel.ErrStale) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read elements of set %s of table %s: %w", set, table, err)
	}
	delete(found, elementKey{})
	elements := make([]kernel.Element, 0, len(found))
	for _, k := range slices.SortedFunc(maps.Keys(found), elementKey.compare) {
		e, err := decodeElement(shape, k, found[k])
		if err != nil {
			return nil, fmt.Errorf("set %s of table %s: %w", set, table, err)
		}
		elements = append(elements, e)
	}
	return elements, nil
}

// forgetUnlessForeign keeps SyncTables from trusting its memory of sets that are written to behind its back.
func (h *Handle) forgetUnlessForeign(id tableID, sets []string) {
	img := h.known[id]
	if img == nil {
		return
	}
	for _, name := range sets {
		if s := img.sets[name]; s == nil || !s.foreign {
			delete(h.known, id)
			return
		}
	}
}

// setOf reads the shape of one set from the kernel: as it lists it, and what that means for keys and values.
func (h *Handle) setOf(id tableID, name string) (spec setSpec, shape kernel.Set, err error) {
	m := message(unix.NFT_MSG_GETSET, id)
	m.Attrs.String(unix.NFTA_SET_NAME, name)
	answer, err := h.socket.Get(m)
	if err == nil {
		_, spec, err = decodeSetSpec(answer.Attrs)
	}
	if err == nil {
		shape, err = spec.shape()
	}
	if err != nil {
		err = fmt.Errorf("read set %s of table %s: %w", name, id.name, err)
	}
	return spec, shape, err
}

// shape returns what is known of a set by its types.
func (s setSpec) shape() (shape kernel.Set, err error) {
	shape.Interval = s.flags&unix.NFT_SET_INTERVAL != 0
	if shape.Key, err = typesOf(s.keyType); err != nil || s.flags&unix.NFT_SET_MAP == 0 {
		return shape, err
	}
	shape.Value, err = typesOf(s.dataType)
	return shape, err
}

// typesOf takes nft's number of a concatenation apart.
func typesOf(number uint32) ([]kernel.Type, error) {
	if number == unix.NFT_DATA_VERDICT {
		return []kernel.Type{kernel.TypeVerdict}, nil
	}
	var out []kernel.Type
	for ; number != 0; number >>= 6 {
		i := slices.IndexFunc(types[:], func(t dataType) bool { return t.number == number&0x3f })
		if i < 0 {
			return nil, fmt.Errorf("unknown data type %d", number&0x3f)
		}
		out = append(out, kernel.Type(i))
	}
	slices.Reverse(out)
	return out, nil
}

func encodeKeys(shape kernel.Set, elements []kernel.Element) (map[elementKey]elementValue, error) {
	shape.Value = nil
	keys := make(map[elementKey]elementValue, len(elements))
	for i, e := range elements {
		k, _, err := encodeElement(shape, kernel.Element{Key: e.Key, KeyEnd: e.KeyEnd})
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i+1, err)
		}
		keys[k] = elementValue{}
	}
	return keys, nil
}

func decodeElement(shape kernel.Set, k elementKey, v elementValue) (kernel.Element, error) {
	e := kernel.Element{Comment: commentOf(v.comment, udataComment)}
	var err error
	if e.Key, err = decodeKey(shape, k.from); err != nil {
		return e, fmt.Errorf("key: %w", err)
	}
	if k.to != k.from {
		if e.KeyEnd, err = decodeKey(shape, k.to); err != nil {
			return e, fmt.Errorf("end of key: %w", err)
		}
	}
	if slices.Equal(shape.Value, []kernel.Type{kernel.TypeVerdict}) {
		e.Value = []kernel.Datum{{Verdict: decodeVerdict(v)}}
		return e, nil
	}
	if len(shape.Value) > 0 {
		if e.Value, err = decodeData(shape.Value, v.data); err != nil {
			return e, fmt.Errorf("value: %w", err)
		}
	}
	return e, nil
}

func decodeVerdict(v elementValue) *kernel.Verdict {
	for kind, code := range verdicts {
		if int32(code) == v.verdict {
			return &kernel.Verdict{Kind: kind, Chain: v.chain}
		}
	}
	return &kernel.Verdict{Chain: v.chain}
}
