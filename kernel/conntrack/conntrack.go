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

// Attributes and messages of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaMark       = 8
	ctaID         = 12
	ctaZone       = 18
	ctaMarkMask   = 21
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
)

// What CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS say is to be compared (net/netfilter/nf_internals.h).
const (
	compareSrc     = 1 << 0
	compareDst     = 1 << 1
	compareProto   = 1 << 3
	compareSrcPort = 1 << 4
	compareDstPort = 1 << 5
)

// attempts is how often a listing that the kernel called inconsistent is repeated.
const attempts = 10

// Match says which entries are meant.
type Match struct {
	Protocol uint8 // IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP
	// Dst is the original destination, the one that the client sent to before any translation. An unspecified address (0.0.0.0
	// or ::) stands for every address of its family.
	Dst netip.AddrPort
	// Endpoint is who answers: the source of the replies, before it is translated back. The zero AddrPort stands for everybody.
	Endpoint netip.AddrPort
}

func (m Match) String() string {
	s := fmt.Sprintf("protocol %d to %s", m.Protocol, m.Dst)
	if m.Endpoint.IsValid() {
		s += " answered by " + m.Endpoint.String()
	}
	return s
}

// FlushUDP removes the UDP entries whose original destination is dst.
func FlushUDP(ctx context.Context, dst netip.AddrPort) error {
	return Flush(ctx, Match{Protocol: unix.IPPROTO_UDP, Dst: dst})
}

// Flush removes the entries that match. It works on the network namespace of the calling thread. That there is no such entry
// is no error.
func Flush(ctx context.Context, m Match) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	m = m.unmapped()
	socket, err := nfnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if m.filtersByAddress() {
		err = socket.Do(request(msgDelete, m))
	} else {
		err = flushListed(ctx, socket, m)
	}
	if errors.Is(err, unix.EINVAL) {
		err = flushListed(ctx, socket, m) // an older kernel looks for one entry and misses the tuple's source
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove conntrack entries of %s: %w", m, err)
	}
	return nil
}

func (m Match) unmapped() Match {
	m.Dst = netip.AddrPortFrom(m.Dst.Addr().Unmap(), m.Dst.Port())
	m.Endpoint = netip.AddrPortFrom(m.Endpoint.Addr().Unmap(), m.Endpoint.Port())
	return m
}

// filtersByAddress reports whether the kernel compares addresses with entries correctly. For a given IPv6 address it does not: up to
// 6.18 at least, ctnetlink_filter_match_tuple takes ipv6_addr_cmp's 0, which means equal, for a mismatch, and so selects
// the entries of all addresses but the given one.
func (m Match) filtersByAddress() bool {
	return m.Dst.Addr().Is4() || m.Dst.Addr().IsUnspecified() && !m.Endpoint.IsValid()
}

// byPort is the part of a match that the kernel compares correctly.
func (m Match) byPort() Match {
	if m.filtersByAddress() {
		return m
	}
	m.Dst = netip.AddrPortFrom(netip.IPv6Unspecified(), m.Dst.Port())
	if m.Endpoint.IsValid() {
		m.Endpoint = netip.AddrPortFrom(netip.IPv6Unspecified(), m.Endpoint.Port())
	}
	return m
}

// matches compares the addresses of an entry, whose ports the kernel has compared.
func (m Match) matches(dst, endpoint netip.Addr) bool {
	return (m.Dst.Addr().IsUnspecified() || m.Dst.Addr() == dst) && (!m.Endpoint.IsValid() || m.Endpoint.Addr() == endpoint)
}

// request asks for all entries that match, or for more if the kernel cannot compare addresses.
func request(typ uint16, match Match) nfnl.Message {
	m := nfnl.Message{Type: typ, Family: unix.AF_INET}
	if match.Dst.Addr().Is6() {
		m.Family = unix.AF_INET6
	}
	orig := uint32(compareProto | compareDstPort)
	if !match.Dst.Addr().IsUnspecified() {
		orig |= compareDst
	}
	m.Attrs.Nest(ctaTupleOrig, func(a *nfnl.Attrs) {
		appendTuple(a, match.Protocol, match.Dst, side{ctaIPv4Dst, ctaIPv6Dst, ctaProtoDstPort})
	})
	var reply uint32
	if match.Endpoint.IsValid() {
		reply = compareProto | compareSrcPort
		if !match.Endpoint.Addr().IsUnspecified() {
			reply |= compareSrc
		}
		m.Attrs.Nest(ctaTupleReply, func(a *nfnl.Attrs) {
			appendTuple(a, match.Protocol, match.Endpoint, side{ctaIPv4Src, ctaIPv6Src, ctaProtoSrcPort})
		})
	}
	m.Attrs.Nest(ctaFilter, func(a *nfnl.Attrs) {
		a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, orig))
		a.Bytes(ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, reply))
	})
	return m
}

// side names the attributes of a tuple's source or destination.
type side struct{ ipv4, ipv6, port uint16 }

// appendTuple appends one side of a tuple. The address is sent in any case: it says nothing unless the flags do.
func appendTuple(a *nfnl.Attrs, protocol uint8, end netip.AddrPort, s side) {
	a.Nest(ctaTupleIP, func(a *nfnl.Attrs) {
		if end.Addr().Is4() {
			a.Bytes(s.ipv4, end.Addr().AsSlice())
		} else {
			a.Bytes(s.ipv6, end.Addr().AsSlice())
		}
	})
	a.Nest(ctaTupleProto, func(a *nfnl.Attrs) {
		a.Bytes(ctaProtoNum, []byte{protocol})
		a.Uint16(s.port, end.Port())
	})
}

// flushListed has the entries for the ports listed, and removes those with the addresses, each by its tuple and id.
func flushListed(ctx context.Context, socket *nfnl.Socket, match Match) error {
	var found []nfnl.Message
	err := kernel.ErrStale
	for i := 0; i < attempts && errors.Is(err, kernel.ErrStale); i++ {
		found = found[:0]
		err = socket.Dump(request(msgGet, match.byPort()), func(m nfnl.Message) error {
			entry, dst, endpoint, err := deletion(m)
			if match.matches(dst, endpoint) {
				found = append(found, entry)
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	var errs []error
	for _, m := range found {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := socket.Do(m); !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// deletion turns a listed entry into the request to remove it, and returns its original destination and who answers.
func deletion(m nfnl.Message) (out nfnl.Message, dst, endpoint netip.Addr, err error) {
	out = nfnl.Message{Type: msgDelete, Family: m.Family}
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return out, dst, endpoint, err
		}
		switch a.Type {
		case ctaTupleOrig:
			out.Attrs.Bytes(a.Type|unix.NLA_F_NESTED, a.Value)
			dst, err = tupleAddr(a.Value, ctaIPv4Dst, ctaIPv6Dst)
		case ctaTupleReply:
			endpoint, err = tupleAddr(a.Value, ctaIPv4Src, ctaIPv6Src)
		case ctaID, ctaZone:
			out.Attrs.Bytes(a.Type, a.Value)
		}
		if err != nil {
			return out, dst, endpoint, err
		}
	}
	return out, dst, endpoint, nil
}

// tupleAddr reads the address of a tuple whose attribute is either of the two.
func tupleAddr(b []byte, ipv4, ipv6 uint16) (netip.Addr, error) {
	t, err := parseTuple(b)
	if ipv4 == ctaIPv4Src && ipv6 == ctaIPv6Src {
		return t.src, err
	}
	return t.dst, err
}
