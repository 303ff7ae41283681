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
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig = 1
	ctaID        = 12
	ctaZone      = 18
	ctaFilter    = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Dst = 2
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoDstPort = 3

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
)

// What CTA_FILTER_ORIG_FLAGS says is to be compared (net/netfilter/nf_internals.h).
const (
	compareDst     = 1 << 1
	compareProto   = 1 << 3
	compareDstPort = 1 << 5
)

// attempts is how often a listing that the kernel called inconsistent is repeated.
const attempts = 10

// FlushUDP removes the UDP entries whose original destination, the one that the client sent to before any translation, is dst.
// An unspecified address (0.0.0.0 or ::) stands for every address of its family. It works on the network namespace of the
// calling thread. That there is no such entry is no error.
func FlushUDP(ctx context.Context, dst netip.AddrPort) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	socket, err := nfnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if filtersByAddress(dst.Addr()) {
		err = socket.Do(request(msgDelete, dst))
	} else {
		err = flushListed(ctx, socket, dst)
	}
	if errors.Is(err, unix.EINVAL) {
		err = flushListed(ctx, socket, dst) // an older kernel looks for one entry and misses the tuple's source
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove conntrack entries of UDP to %s: %w", dst, err)
	}
	return nil
}

// filtersByAddress reports whether the kernel compares dst with entries correctly. For a given IPv6 address it does not: up to
// 6.18 at least, ctnetlink_filter_match_tuple takes ipv6_addr_cmp's 0, which means equal, for a mismatch, and so selects
// the entries of all addresses but the given one.
func filtersByAddress(dst netip.Addr) bool { return dst.Is4() || dst.IsUnspecified() }

// request asks for all UDP entries to dst.
func request(typ uint16, dst netip.AddrPort) nfnl.Message {
	m := nfnl.Message{Type: typ, Family: unix.AF_INET}
	if dst.Addr().Is6() {
		m.Family = unix.AF_INET6
	}
	flags := uint32(compareProto | compareDstPort)
	m.Attrs.Nest(ctaTupleOrig, func(a *nfnl.Attrs) {
		if !dst.Addr().IsUnspecified() {
			flags |= compareDst
		}
		// The address is sent in any case: it says nothing unless the flags do.
		a.Nest(ctaTupleIP, func(a *nfnl.Attrs) {
			if dst.Addr().Is4() {
				a.Bytes(ctaIPv4Dst, dst.Addr().AsSlice())
			} else {
				a.Bytes(ctaIPv6Dst, dst.Addr().AsSlice())
			}
		})
		a.Nest(ctaTupleProto, func(a *nfnl.Attrs) {
			a.Bytes(ctaProtoNum, []byte{unix.IPPROTO_UDP})
			a.Uint16(ctaProtoDstPort, dst.Port())
		})
	})
	m.Attrs.Nest(ctaFilter, func(a *nfnl.Attrs) {
		a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags))
		a.Bytes(ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, 0))
	})
	return m
}

// flushListed has the entries for dst's port listed, and removes those that are for its address, each by its tuple and id.
func flushListed(ctx context.Context, socket *nfnl.Socket, dst netip.AddrPort) error {
	filter := dst
	if !filtersByAddress(dst.Addr()) {
		filter = netip.AddrPortFrom(netip.IPv6Unspecified(), dst.Port())
	}
	var found []nfnl.Message
	err := kernel.ErrStale
	for i := 0; i < attempts && errors.Is(err, kernel.ErrStale); i++ {
		found = found[:0]
		err = socket.Dump(request(msgGet, filter), func(m nfnl.Message) error {
			entry, addr, err := deletion(m)
			if addr == dst.Addr() || dst.Addr().IsUnspecified() {
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

// deletion turns a listed entry into the request to remove it, and returns its original destination.
func deletion(m nfnl.Message) (out nfnl.Message, dst netip.Addr, err error) {
	out = nfnl.Message{Type: msgDelete, Family: m.Family}
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return out, dst, err
		}
		switch a.Type {
		case ctaTupleOrig:
			out.Attrs.Bytes(a.Type|unix.NLA_F_NESTED, a.Value)
			if dst, err = destination(a.Value); err != nil {
				return out, dst, err
			}
		case ctaID, ctaZone:
			out.Attrs.Bytes(a.Type, a.Value)
		}
	}
	return out, dst, nil
}

// destination reads the address that a tuple goes to.
func destination(tuple []byte) (netip.Addr, error) {
	t, err := nfnl.Parse(tuple)
	if err != nil {
		return netip.Addr{}, err
	}
	ip, err := nfnl.Parse(t[ctaTupleIP].Value)
	if err != nil {
		return netip.Addr{}, err
	}
	dst, ok := netip.AddrFromSlice(ip[ctaIPv4Dst].Value)
	if !ok {
		dst, _ = netip.AddrFromSlice(ip[ctaIPv6Dst].Value)
	}
	return dst, nil
}
