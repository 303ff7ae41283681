package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// FindElements looks elements up by key in a set or map and returns those that are there, as the kernel has them, in the order in
// which they were asked for. Each costs one round trip, however many the set holds. A set or table that is not there holds
// nothing. It is not for sets of intervals, where the kernel would answer with the range around a key.
func (h *Handle) FindElements(family kernel.TableFamily, table, set string, elems []kernel.Element) ([]kernel.Element, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := tableID{families[family], table}
	spec, shape, err := h.setOf(id, set)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []kernel.Element
	for _, e := range elems {
		key, _, err := encodeElement(kernel.Set{Key: shape.Key}, kernel.Element{Key: e.Key})
		if err != nil {
			return nil, fmt.Errorf("table %s: set %s: %w", table, set, err)
		}
		value, err := h.findElement(id, set, spec, key)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find element of set %s of table %s: %w", set, table, err)
		}
		have, err := decodeElement(shape, key, value)
		if err != nil {
			return nil, fmt.Errorf("set %s of table %s: %w", set, table, err)
		}
		found = append(found, have)
	}
	return found, nil
}

func (h *Handle) findElement(id tableID, set string, spec setSpec, key elementKey) (elementValue, error) {
	var list nfnl.Attrs
	appendElement(&list, spec, key, elementValue{}, true)
	m := message(unix.NFT_MSG_GETSETELEM, id)
	m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	m.Attrs.Bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
	answer, err := h.socket.Get(m)
	if err != nil {
		return elementValue{}, err
	}
	attrs, err := nfnl.Parse(answer.Attrs)
	if err != nil {
		return elementValue{}, err
	}
	for element, err := range nfnl.Each(attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS].Value) {
		if err != nil {
			return elementValue{}, err
		}
		b, err := decodeBoundary(element.Value)
		return b.value, err
	}
	return elementValue{}, unix.ENOENT
}
