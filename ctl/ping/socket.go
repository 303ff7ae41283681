package ping

import (
	"fmt"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// icmpFilter is the kernel's ICMP_FILTER, an option of raw sockets at level SOL_RAW (include/uapi/linux/icmp.h, raw(7)).
const icmpFilter = 1

// tune lets only those messages through that can be an answer, and makes room for many of them. A raw socket is handed every ICMP
// message of its namespace, the requests that others send among them; when its buffer is full, replies look lost.
func tune(socket *net.IPConn, v6 bool) error {
	const room = 4 << 20 // bytes
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("tune the socket for echo requests: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room); failed != nil {
			return
		}
		if v6 {
			failed = unix.SetsockoptICMPv6Filter(int(fd), unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, answersV6())
			return
		}
		failed = unix.SetsockoptInt(int(fd), unix.SOL_RAW, icmpFilter, answersV4())
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("tune the socket for echo requests: %w", err)
	}
	return nil
}

// answersV4 is a mask with the bits of all types set that are kept away.
func answersV4() int {
	mask := ^uint32(0)
	for _, t := range []ipv4.ICMPType{ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeDestinationUnreachable, ipv4.ICMPTypeTimeExceeded} {
		mask &^= 1 << uint(t)
	}
	return int(int32(mask))
}

// answersV6 is the same for IPv6, one bit for each of 256 types (RFC 3542, 3.2).
func answersV6() *unix.ICMPv6Filter {
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	for _, t := range []ipv6.ICMPType{ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeDestinationUnreachable, ipv6.ICMPTypePacketTooBig,
		ipv6.ICMPTypeTimeExceeded} {
		filter.Data[t>>5] &^= 1 << (uint(t) & 31)
	}
	return &filter
}
