//go:build linux

package freebind

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Control is for net.ListenConfig and net.Dialer: the socket may be bound to an address that no link has yet (IP_FREEBIND, ip(7)). It needs no
// capability. The network's name has to end in 4 or 6.
func Control(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if strings.HasSuffix(network, "6") {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, failed)
}
