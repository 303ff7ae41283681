package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

const (
	ctaProtoInfo         = 4
	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1

	// sweepPiece is how many entries are removed at a time, in the middle of a listing.
	sweepPiece = 256
)

// Flow is one entry of the table.
type Flow struct {
	Protocol uint8          // IPPROTO_*
	Src      netip.AddrPort // who opened it, before any translation; port 0 where the protocol has none
	// Dst is where the client sent to, and Endpoint who answers, as in Match.
	Dst, Endpoint netip.AddrPort
	ID            uint32 // the kernel's number for it; another entry can have it when this one has gone
	TCPState      uint8  // enum tcp_conntrack; 0 for what is not TCP
	Mark          uint32
}

// Open reports whether the flow can still carry data: it is not TCP, or neither end has said that it has sent everything.
func (f Flow) Open() bool { return f.TCPState <= tcpEstablished }

// tcpEstablished is TCP_CONNTRACK_ESTABLISHED. Before it are SYN_SENT and SYN_RECV, after it the states of a connection that is ending.
const tcpEstablished = 3

// Flows selects what Each, Sweep and Remark look at.
type Flows struct {
	Protocol uint8 // 0 for all
	IPv6     bool
	// Both are flows of IPv4 and of IPv6, in one listing: the kernel walks its whole table for either. It goes with Protocol alone.
	Both bool
	// Dst, when it is valid, is the original destination of all flows that are meant, which have a Protocol. The kernel compares it, so that nothing else is
	// copied to user space; of an IPv6 destination it compares the port alone.
	Dst netip.AddrPort
	// Src and Endpoint, when they are valid, are the addresses of who opened the flows and of who answers. The kernel compares them, unless
	// they are of IPv6, and walks its whole table for it all the same. They do not go together with Dst.
	Src, Endpoint netip.Addr
}

func (f Flows) request() nfnl.Message {
	if f.Dst.IsValid() {
		return request(msgGet, Match{Protocol: f.Protocol, Dst: f.Dst}.unmapped().byPort())
	}
	m := nfnl.Message{Type: msgGet, Family: unix.AF_INET}
	switch {
	case f.Both:
		m.Family = unix.AF_UNSPEC
	case f.IPv6:
		m.Family = unix.AF_INET6
	}
	orig := f.appendSource(&m.Attrs, ctaTupleOrig, f.Src)
	reply := f.appendSource(&m.Attrs, ctaTupleReply, f.Endpoint)
	if orig|reply != 0 {
		m.Attrs.Nest(ctaFilter, func(a *nfnl.Attrs) {
			a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, orig))
			a.Bytes(ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, reply))
		})
	}
	return m
}

// appendSource appends the tuple of one direction, as far as it is said and the kernel can compare it, and returns what is to be compared.
func (f Flows) appendSource(a *nfnl.Attrs, direction uint16, src netip.Addr) (compare uint32) {
	if src = src.Unmap(); src.Is4() {
		compare |= compareSrc
	}
	if f.Protocol != 0 && direction == ctaTupleOrig {
		compare |= compareProto
	}
	if compare == 0 {
		return 0
	}
	a.Nest(direction, func(a *nfnl.Attrs) {
		if compare&compareSrc != 0 {
			a.Nest(ctaTupleIP, func(a *nfnl.Attrs) { a.Bytes(ctaIPv4Src, src.AsSlice()) })
		}
		if compare&compareProto != 0 {
			a.Nest(ctaTupleProto, func(a *nfnl.Attrs) { a.Bytes(ctaProtoNum, []byte{f.Protocol}) })
		}
	})
	return compare
}

// meant reports whether a flow that the kernel listed is one of those: it compares less than is asked of it.
func (f Flows) meant(flow Flow) bool {
	return (!f.Dst.IsValid() || flow.Dst.Addr() == f.Dst.Addr().Unmap()) &&
		(!f.Src.IsValid() || flow.Src.Addr() == f.Src.Unmap()) &&
		(!f.Endpoint.IsValid() || flow.Endpoint.Addr() == f.Endpoint.Unmap())
}

// Each calls each with the flows that are meant. They are read as a stream: memory does not grow with the table. A listing that the kernel
// calls inconsistent is repeated, with a call of reset before each. It works on the network namespace of the calling thread.
func Each(ctx context.Context, flows Flows, reset func(), each func(Flow)) (err error) {
	socket, err := nfnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	return dump(ctx, socket, flows, reset, func(f Flow, _ nfnl.Message) error {
		each(f)
		return nil
	})
}

// Sweep removes the flows that are stale, and returns how many it has removed. The table is read as a stream, and what is stale is removed in
// between, so that memory grows with neither. It works on the network namespace of the calling thread.
func Sweep(ctx context.Context, flows Flows, stale func(dst, endpoint netip.AddrPort) bool) (removed int, err error) {
	reader, writer, closeBoth, err := openTwo()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	found := make([]nfnl.Message, 0, sweepPiece)
	var errs []error
	remove := func() {
		for _, m := range found {
			switch err := writer.Do(m); {
			case err == nil:
				removed++
			case !errors.Is(err, unix.ENOENT): // gone by itself
				errs = append(errs, err)
			}
		}
		found = found[:0]
	}
	err = dump(ctx, reader, flows, func() {}, func(f Flow, m nfnl.Message) error {
		if !stale(f.Dst, f.Endpoint) {
			return nil
		}
		entry, _, _, err := deletion(m)
		if err != nil {
			return err
		}
		if found = append(found, entry); len(found) == sweepPiece {
			remove()
		}
		return nil
	})
	remove()
	if err := errors.Join(append(errs, err)...); err != nil {
		return removed, fmt.Errorf("remove stale conntrack entries of protocol %d: %w", flows.Protocol, err)
	}
	return removed, nil
}

// openTwo opens a socket for a listing, and one for what is changed in the middle of it.
func openTwo() (reader, writer *nfnl.Socket, closeBoth func() error, err error) {
	if reader, err = nfnl.Open(); err != nil {
		return nil, nil, nil, err
	}
	if writer, err = nfnl.Open(); err != nil {
		return nil, nil, nil, errors.Join(err, reader.Close())
	}
	return reader, writer, func() error { return errors.Join(writer.Close(), reader.Close()) }, nil
}

// dump lists flows.
func dump(ctx context.Context, socket *nfnl.Socket, flows Flows, reset func(), each func(Flow, nfnl.Message) error) error {
	err := kernel.ErrStale
	for i := 0; i < attempts && errors.Is(err, kernel.ErrStale); i++ {
		reset()
		err = socket.Dump(flows.request(), func(m nfnl.Message) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			f, err := flowOf(m)
			if err != nil {
				return err
			}
			if !flows.meant(f) {
				return nil
			}
			return each(f, m)
		})
	}
	if err != nil {
		return fmt.Errorf("list conntrack entries of protocol %d: %w", flows.Protocol, err)
	}
	return nil
}

// flowOf reads an entry.
func flowOf(m nfnl.Message) (f Flow, err error) {
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return f, err
		}
		switch a.Type {
		case ctaTupleOrig:
			var original tuple
			original, err = parseTuple(a.Value)
			f.Protocol, f.Src, f.Dst = original.protocol, original.source(), original.destination()
		case ctaTupleReply:
			var reply tuple
			reply, err = parseTuple(a.Value)
			f.Endpoint = reply.source()
		case ctaID:
			f.ID = a.Uint32()
		case ctaMark:
			f.Mark = a.Uint32()
		case ctaProtoInfo:
			f.TCPState, err = tcpState(a.Value)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// tuple is one direction of a flow.
type tuple struct {
	protocol         uint8
	src, dst         netip.Addr
	srcPort, dstPort uint16 // 0 where the protocol has none
}

func (t tuple) source() netip.AddrPort      { return netip.AddrPortFrom(t.src, t.srcPort) }
func (t tuple) destination() netip.AddrPort { return netip.AddrPortFrom(t.dst, t.dstPort) }

// parseTuple reads the content of CTA_TUPLE_*. There are two of them in each entry of a table of hundreds of thousands: it makes no maps.
func parseTuple(b []byte) (t tuple, err error) {
	for part, err := range nfnl.Each(b) {
		if err != nil {
			return t, err
		}
		if part.Type != ctaTupleIP && part.Type != ctaTupleProto {
			continue
		}
		for a, err := range nfnl.Each(part.Value) {
			if err != nil {
				return t, err
			}
			if part.Type == ctaTupleIP {
				t.readAddr(a)
			} else {
				t.readProto(a)
			}
		}
	}
	return t, nil
}

func (t *tuple) readAddr(a nfnl.Attr) {
	addr, _ := netip.AddrFromSlice(a.Value)
	switch a.Type {
	case ctaIPv4Src, ctaIPv6Src:
		t.src = addr
	case ctaIPv4Dst, ctaIPv6Dst:
		t.dst = addr
	}
}

func (t *tuple) readProto(a nfnl.Attr) {
	switch {
	case a.Type == ctaProtoNum && len(a.Value) == 1:
		t.protocol = a.Value[0]
	case a.Type == ctaProtoSrcPort && len(a.Value) == 2:
		t.srcPort = binary.BigEndian.Uint16(a.Value)
	case a.Type == ctaProtoDstPort && len(a.Value) == 2:
		t.dstPort = binary.BigEndian.Uint16(a.Value)
	}
}

// tcpState reads the content of CTA_PROTOINFO.
func tcpState(info []byte) (uint8, error) {
	for protocol, err := range nfnl.Each(info) {
		if err != nil {
			return 0, err
		}
		if protocol.Type != ctaProtoInfoTCP {
			continue
		}
		for a, err := range nfnl.Each(protocol.Value) {
			if err != nil {
				return 0, err
			}
			if a.Type == ctaProtoInfoTCPState && len(a.Value) == 1 {
				return a.Value[0], nil
			}
		}
	}
	return 0, nil
}
