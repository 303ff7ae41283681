//go:build linux

package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// localPatience is how long an ADD waits for the pod's IPv6 addresses. On an idle node they are there within a millisecond, on a busy one
// within some. When hundreds of pods start together it takes seconds, which no ADD should spend: the addresses come by themselves.
const localPatience = 100 * time.Millisecond

// LocalWatch waits for the moment from which a network namespace takes packets to an IPv6 address of its own.
//
// The kernel puts an address's local route into its table in a work queue, without duplicate address detection too (addrconf_dad_work); until
// then a packet to the address is dropped. It tells of the address itself a little earlier (RTM_NEWADDR, in __ipv6_ifa_notify), and
// of the route when that is in place (RTM_NEWROUTE, at the end of fib6_add). The latter is what the watch listens to.
type LocalWatch struct{ fd int }

// WatchLocals opens a watch on the network namespace of the calling thread. It sees what comes from now on.
func WatchLocals() (*LocalWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_IPV6_ROUTE - 1)}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen to changes of IPv6 routes: %w", err)
	}
	return &LocalWatch{fd}, nil
}

// Close ends the watch.
func (w *LocalWatch) Close() { _ = unix.Close(w.fd) }

// Await returns when the addresses that are IPv6, and were added since the watch was opened, are in use, and also, without an error, when
// patience has passed or notifications were lost.
func (w *LocalWatch) Await(addresses []netip.Prefix, patience time.Duration) error {
	return w.await(nil, addresses, patience)
}

// await returns when all IPv6 ones of the addresses, which were added since the watch was opened, are in use, and also, without an error, when
// patience has passed. s is a socket of the same namespace, which is asked when notifications were lost; nil: they were enough.
func (w *LocalWatch) await(s *socket, addresses []netip.Prefix, patience time.Duration) error {
	var missing []netip.Addr
	for _, p := range addresses {
		if p.Addr().Is6() {
			missing = append(missing, p.Addr())
		}
	}
	deadline := time.Now().Add(patience)
	buf := make([]byte, bufSize)
	for len(missing) > 0 {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch err {
		case nil:
			missing = withoutLocals(missing, buf[:n])
		case unix.ENOBUFS:
			if s == nil {
				return nil
			}
			if missing, err = s.notLocal(missing); err != nil {
				return err
			}
		case unix.EAGAIN:
			left := time.Until(deadline)
			if left <= 0 {
				return nil
			}
			timeout := unix.NsecToTimespec(left.Nanoseconds())
			if _, err := unix.Ppoll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, &timeout, nil); err != nil && err != unix.EINTR {
				return fmt.Errorf("wait for changes of IPv6 routes: %w", err)
			}
		case unix.EINTR:
		default:
			return fmt.Errorf("read changes of IPv6 routes: %w", err)
		}
	}
	return nil
}

// withoutLocals takes the addresses out for which data, what the kernel notified, holds a local route.
func withoutLocals(addresses []netip.Addr, data []byte) []netip.Addr {
	for len(data) >= unix.NLMSG_HDRLEN {
		var m received
		var ok bool
		if m, data, ok = cut(data); !ok {
			break
		}
		if m.typ != unix.RTM_NEWROUTE || len(m.body) < unix.SizeofRtMsg || m.body[7] != unix.RTN_LOCAL || m.body[1] != 128 {
			continue
		}
		attrs(m.body[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			if dst, ok := netip.AddrFromSlice(v); ok && typ == unix.RTA_DST {
				addresses = slices.DeleteFunc(addresses, func(a netip.Addr) bool { return a == dst })
			}
		})
	}
	return addresses
}

// notLocal returns those of the addresses that are not the namespace's own, by the kernel's routes.
func (s *socket) notLocal(addresses []netip.Addr) (missing []netip.Addr, err error) {
	for _, a := range addresses {
		body := make([]byte, unix.SizeofRtMsg)
		body[0], body[1] = family(a), byte(a.BitLen())
		var b batch
		b.add("find route to "+a.String(), unix.RTM_GETROUTE, 0, body)
		b.addr(unix.RTA_DST, a)
		b.allow(unix.ENETUNREACH)
		local := false
		err := s.run(&b, func(_ uint16, body []byte) {
			local = len(body) >= unix.SizeofRtMsg && body[7] == unix.RTN_LOCAL
		})
		if err != nil {
			return nil, err
		}
		if !local {
			missing = append(missing, a)
		}
	}
	return missing, nil
}
