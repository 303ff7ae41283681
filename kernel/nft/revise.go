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

// ReviseTable repairs a table whose elements other programs write. It lists the table, asks revise which elements there should be,
// given those that there are, and makes the table hold the skeleton with exactly these, in one transaction; it reports whether that
// changed anything. The kernel refuses the transaction when anybody changed anything in between; then all of it is done
// again, revise included. So what revise finds out while it runs, such as who has asked for an element, is at least as new as the
// elements that it is given, and nothing that comes later is undone.
//
// Elements are keyed by the name of their set. Those of sets that the skeleton does not have, or has in another shape, are not shown. When
// revise returns nil, nothing is changed. It must not call the handle. What is said of sets' elements and Foreign in the
// skeleton does not count.
func (h *Handle) ReviseTable(ctx context.Context, skeleton kernel.Table, revise func(have map[string][]kernel.Element) (
	map[string][]kernel.Element, error)) (changed bool, err error) {
	skeleton.Sets = slices.Clone(skeleton.Sets)
	for i := range skeleton.Sets {
		skeleton.Sets[i].Foreign, skeleton.Sets[i].Elements = false, nil
	}
	bare, err := encode(skeleton)
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := tableID{families[skeleton.Family], skeleton.Name}
	delete(h.known, id)
	for range attempts {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		changed, err = h.revise(id, skeleton, bare, revise)
		if !errors.Is(err, unix.ERESTART) && !errors.Is(err, kernel.ErrStale) {
			return changed, err
		}
	}
	return false, fmt.Errorf("revise table %s: other programs changed nftables during each of %d attempts: %w", id.name, attempts, err)
}

// revise is one attempt of ReviseTable. bare is the skeleton's image.
func (h *Handle) revise(id tableID, skeleton kernel.Table, bare *image, revise func(map[string][]kernel.Element) (
	map[string][]kernel.Element, error)) (bool, error) {
	have, gen, err := h.list(id, bare)
	if err != nil {
		return false, err
	}
	shown := map[string][]kernel.Element{}
	for _, s := range skeleton.Sets {
		if shown[s.Name], err = decodeElements(s, bare.sets[s.Name], have.sets[s.Name]); err != nil {
			return false, fmt.Errorf("table %s: set %s: %w", id.name, s.Name, err)
		}
	}
	elements, err := revise(shown)
	if err != nil || elements == nil {
		return false, err
	}
	filled := skeleton
	filled.Sets = slices.Clone(skeleton.Sets)
	for i, s := range filled.Sets {
		filled.Sets[i].Elements = elements[s.Name]
	}
	want, err := encode(filled)
	if err != nil {
		return false, err
	}
	before := h.generation
	if gen, err = h.early(id, gen, have, want); err == nil {
		err = h.commit(id, gen, plan(id, have, want))
	}
	return err == nil && h.generation != before, err
}

// decodeElements returns the elements of a set in order of their keys; none when it is not there or of another shape.
func decodeElements(s kernel.Set, want, have *set) ([]kernel.Element, error) {
	if have == nil || !have.sameShape(want.setSpec) {
		return nil, nil
	}
	out := make([]kernel.Element, 0, len(have.elements))
	for _, k := range slices.SortedFunc(maps.Keys(have.elements), elementKey.compare) {
		e, err := decodeElement(s, k, have.elements[k])
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
