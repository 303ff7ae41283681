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
	// Dst is where the client sent to, and Endpoint who answers, as in Match.
	Dst, Endpoint netip.AddrPort
	ID            uint32 // the kernel's number for it; another entry can have it when this one has gone
	TCPState      uint8  // enum tcp_conntrack; 0 for what is not TCP
}

// Open reports whether the flow can still carry data: it is not TCP, or neither end has said that it has sent everything.
func (f Flow) Open() bool { return f.TCPState <= tcpEstablished }

// tcpEstablished is TCP_CONNTRACK_ESTABLISHED. Before it are SYN_SENT and SYN_RECV, after it the states of a connection that is ending.
const tcpEstablished = 3

// Flows selects what Each and Sweep look at.
type Flows struct {
	Protocol uint8
	IPv6     bool
	// Dst, when it is valid, is the original destination of all flows that are meant. The kernel compares it, so that nothing else is copied to
	// user space; of an IPv6 destination it compares the port alone.
	Dst netip.AddrPort
}

func (f Flows) request() nfnl.Message {
	if f.Dst.IsValid() {
		return request(msgGet, Match{Protocol: f.Protocol, Dst: f.Dst}.unmapped().byPort())
	}
	m := nfnl.Message{Type: msgGet, Family: unix.AF_INET}
	if f.IPv6 {
		m.Family = unix.AF_INET6
	}
	m.Attrs.Nest(ctaTupleOrig, func(a *nfnl.Attrs) {
		a.Nest(ctaTupleProto, func(a *nfnl.Attrs) { a.Bytes(ctaProtoNum, []byte{f.Protocol}) })
	})
	m.Attrs.Nest(ctaFilter, func(a *nfnl.Attrs) {
		a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, compareProto))
		a.Bytes(ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, 0))
	})
	return m
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
	reader, err := nfnl.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	writer, err := nfnl.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
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
			if flows.Dst.IsValid() && f.Dst.Addr() != flows.Dst.Addr().Unmap() {
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
			f.Dst, err = tupleEnd(a.Value, side{ctaIPv4Dst, ctaIPv6Dst, ctaProtoDstPort})
		case ctaTupleReply:
			f.Endpoint, err = tupleEnd(a.Value, side{ctaIPv4Src, ctaIPv6Src, ctaProtoSrcPort})
		case ctaID:
			f.ID = a.Uint32()
		case ctaProtoInfo:
			f.TCPState, err = tcpState(a.Value)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func tupleEnd(tuple []byte, s side) (netip.AddrPort, error) {
	addr, err := tupleAddr(tuple, s.ipv4, s.ipv6)
	if err != nil {
		return netip.AddrPort{}, err
	}
	t, err := nfnl.Parse(tuple)
	if err != nil {
		return netip.AddrPort{}, err
	}
	proto, err := nfnl.Parse(t[ctaTupleProto].Value)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port uint16
	if v := proto[s.port].Value; len(v) == 2 {
		port = binary.BigEndian.Uint16(v)
	}
	return netip.AddrPortFrom(addr, port), nil
}

func tcpState(info []byte) (uint8, error) {
	attrs, err := nfnl.Parse(info)
	if err != nil {
		return 0, err
	}
	tcp, err := nfnl.Parse(attrs[ctaProtoInfoTCP].Value)
	if err != nil {
		return 0, err
	}
	if v := tcp[ctaProtoInfoTCPState].Value; len(v) == 1 {
		return v[0], nil
	}
	return 0, nil
}
