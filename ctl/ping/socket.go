package ping

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// icmpFilter is the kernel's ICMP_FILTER, an option of raw sockets at level SOL_RAW (include/uapi/linux/icmp.h, raw(7)).
const icmpFilter = 1

// open opens a socket for echo requests, and says with which identifier they leave.
func open(v6 bool) (net.PacketConn, uint16, error) {
	network := "ip4:icmp"
	if v6 {
		network = "ip6:ipv6-icmp"
	}
	socket, err := net.ListenIP(network, nil)
	if errors.Is(err, os.ErrPermission) {
		return openUnprivileged(v6, err)
	}
	if err != nil {
		return nil, 0, err
	}
	if err := tune(socket, v6); err != nil {
		return nil, 0, errors.Join(err, socket.Close())
	}
	return socket, uint16(rand.Uint32()), nil
}

// openUnprivileged opens a socket that the kernel lets any user have whose group is in the sysctl net.ipv4.ping_group_range (icmp(7)), for IPv6, too. It chooses the identifier, and gives
// the socket replies to that alone.
func openUnprivileged(v6 bool, refused error) (net.PacketConn, uint16, error) {
	domain, protocol, local := unix.AF_INET, unix.IPPROTO_ICMP, unix.Sockaddr(&unix.SockaddrInet4{})
	if v6 {
		domain, protocol, local = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if errors.Is(err, os.ErrPermission) {
		return nil, 0, fmt.Errorf("%w: it needs CAP_NET_RAW, or a group in the sysctl net.ipv4.ping_group_range", refused)
	}
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "echo requests")
	defer file.Close() // FilePacketConn duplicates it
	if err := unix.Bind(fd, local); err != nil {
		return nil, 0, os.NewSyscallError("bind", err)
	}
	socket, err := net.FilePacketConn(file)
	if err != nil {
		return nil, 0, err
	}
	return socket, uint16(socket.LocalAddr().(*net.UDPAddr).Port), nil // net takes a datagram socket for one of UDP
}

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
		// Beyond net.core.rmem_max needs CAP_NET_ADMIN.
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)
		if errors.Is(failed, unix.EPERM) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, room)
		}
		if failed != nil {
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
