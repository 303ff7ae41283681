//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

const (
	sizeofNdMsg = 12
	ntfSelf     = 0x02 // NTF_SELF, include/uapi/linux/neighbour.h
	ndaProtocol = 12   // NDA_PROTOCOL
)

// neighborMessage is RTM_NEWNEIGH or RTM_DELNEIGH: an entry of the neighbour table, or with family AF_BRIDGE of a
// forwarding database (struct ndmsg).
type neighborMessage struct {
	family uint8
	index  int32
	state  uint16
	flags  uint8
	dst    attribute
	lladdr attribute
}

func parseNeighborMessage(payload []byte) (n neighborMessage, err error) {
	if len(payload) < sizeofNdMsg {
		return n, errMalformed
	}
	n.family = payload[0]
	n.index = int32(binary.NativeEndian.Uint32(payload[4:]))
	n.state = binary.NativeEndian.Uint16(payload[8:])
	n.flags = payload[10]
	for attrs := payload[sizeofNdMsg:]; len(attrs) > 0; {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			return n, err
		}
		switch a.attrType {
		case unix.NDA_DST:
			n.dst = a
		case unix.NDA_LLADDR:
			n.lladdr = a
		}
		attrs = rest
	}
	return n, nil
}

// neighbor returns the message as an entry of the neighbour table. A deleted or unresolved entry has no MAC.
func (n neighborMessage) neighbor(link string) (kernel.Neighbor, bool) {
	ip, ok := n.dst.addr()
	mac, _ := n.lladdr.mac()
	return kernel.Neighbor{Link: link, IP: ip, MAC: mac}, ok && n.family != unix.AF_BRIDGE && n.flags&unix.NTF_PROXY == 0
}

// fdb returns the message as an entry of a VXLAN device's own table.
func (n neighborMessage) fdb(link string) (kernel.FDBEntry, bool) {
	mac, ok := n.lladdr.mac()
	dst, _ := n.dst.addr()
	return kernel.FDBEntry{Link: link, MAC: mac, Dst: dst}, ok && n.family == unix.AF_BRIDGE && n.flags&ntfSelf != 0
}

func (n neighborMessage) permanent() bool { return n.state&unix.NUD_PERMANENT != 0 }

// Neighbors returns the permanent neighbours of both families on the links, those of flanneld among them.
func (h *Handle) Neighbors(ctx context.Context, links []string) ([]kernel.Neighbor, error) {
	return listOn(ctx, h, links, neighborTable[kernel.Neighbor]{
		kind: kernel.KindNeighbor, what: "neighbors", entry: neighborMessage.neighbor,
		selectLink: func(e *encoder, index int32) {
			e.ndmsg(unix.AF_UNSPEC, 0, 0, 0)
			e.attrU32(unix.NDA_IFINDEX, uint32(index))
		}})
}

// FDB returns the permanent entries of the VXLAN devices' own tables.
func (h *Handle) FDB(ctx context.Context, links []string) ([]kernel.FDBEntry, error) {
	return listOn(ctx, h, links, neighborTable[kernel.FDBEntry]{
		kind: kernel.KindFDB, what: "FDB entries", entry: neighborMessage.fdb,
		// With strict checking, ndm_ifindex selects one device (net/core/rtnetlink.c, valid_fdb_dump_strict).
		selectLink: func(e *encoder, index int32) { e.ndmsg(unix.AF_BRIDGE, index, 0, 0) }})
}

// neighborTable is one of the two tables that the kernel dumps as neighbours.
type neighborTable[T any] struct {
	kind       kernel.Kind
	what       string                                         // it holds, for errors
	selectLink func(e *encoder, index int32)                  // asks for one link's entries
	entry      func(n neighborMessage, link string) (T, bool) // false: it is not of this table
}

// listOn returns the permanent entries of all the links. A link that is not there has none.
func listOn[T any](ctx context.Context, h *Handle, links []string, table neighborTable[T]) ([]T, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]T, 0, h.sizes[table.kind])
	names := newNames(h.conn.fd)
	for _, link := range unique(links) {
		index, err := names.index(link)
		if isMissing(err) {
			continue
		}
		if err == nil {
			list, err = dump(ctx, h.conn, list, func(e *encoder, seq uint32) {
				e.begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, seq)
				table.selectLink(e, index)
				e.end()
			}, func(m message) (entry T, ok bool, err error) {
				n, err := parseNeighborMessage(m.payload)
				entry, ok = table.entry(n, link)
				return entry, ok && n.permanent() && n.index == index, err
			})
		}
		if err != nil {
			return nil, fmt.Errorf("list %s on %s: %w", table.what, link, err)
		}
	}
	h.sizes[table.kind] = len(list)
	return list, nil
}

// ApplyNeighbors makes or removes permanent neighbours. They bear kernel.RouteProtocol.
func (h *Handle) ApplyNeighbors(ctx context.Context, changes []kernel.Change[kernel.Neighbor]) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := newNames(h.conn.fd)
	return apply(ctx, h.conn, changes, func(e *encoder, change *kernel.Change[kernel.Neighbor], seq uint32) error {
		n := &change.Value
		index, err := names.index(n.Link)
		if err != nil {
			return err
		}
		if !n.IP.IsValid() {
			return fmt.Errorf("no address is given: %w", unix.EINVAL)
		}
		if change.Delete {
			e.begin(unix.RTM_DELNEIGH, 0, seq)
			e.ndmsg(family(n.IP), index, 0, 0)
		} else {
			e.begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq)
			e.ndmsg(family(n.IP), index, unix.NUD_PERMANENT, 0)
			e.attr(unix.NDA_LLADDR, n.MAC[:])
			e.attr(ndaProtocol, []byte{kernel.RouteProtocol})
		}
		e.attrAddr(unix.NDA_DST, n.IP)
		e.end()
		return nil
	})
}

// ApplyFDB makes or removes permanent entries of VXLAN devices' own tables.
//
// NLM_F_REPLACE changes the one remote that a unicast MAC has (drivers/net/vxlan/vxlan_core.c, vxlan_fdb_replace). Without NDA_DST a
// deletion removes the MAC with whatever remotes it has (__vxlan_fdb_delete).
func (h *Handle) ApplyFDB(ctx context.Context, changes []kernel.Change[kernel.FDBEntry]) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := newNames(h.conn.fd)
	return apply(ctx, h.conn, changes, func(e *encoder, change *kernel.Change[kernel.FDBEntry], seq uint32) error {
		entry := &change.Value
		index, err := names.index(entry.Link)
		if err != nil {
			return err
		}
		if change.Delete {
			e.begin(unix.RTM_DELNEIGH, 0, seq)
			e.ndmsg(unix.AF_BRIDGE, index, unix.NUD_PERMANENT, ntfSelf)
			e.attr(unix.NDA_LLADDR, entry.MAC[:])
			e.end()
			return nil
		}
		if !entry.MAC.IsUnicast() || !entry.Dst.IsValid() {
			return fmt.Errorf("want a unicast MAC and a destination: %w", unix.EINVAL)
		}
		e.begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, seq)
		e.ndmsg(unix.AF_BRIDGE, index, unix.NUD_PERMANENT, ntfSelf)
		e.attr(unix.NDA_LLADDR, entry.MAC[:])
		e.attrAddr(unix.NDA_DST, entry.Dst)
		e.end()
		return nil
	})
}

// ndmsg appends struct ndmsg.
func (e *encoder) ndmsg(family uint8, index int32, state uint16, flags uint8) {
	e.bytes(family, 0, 0, 0)
	e.u32(uint32(index))
	e.u16(state)
	e.bytes(flags, 0)
}

// unique returns the names without duplicates.
func unique(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}
