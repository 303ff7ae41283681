package gobgp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hangUp ends the TCP connections with these neighbours, all within microseconds, as the kernel would if the process were killed.
//
// The library's own shutdown ends session by session, and tells those that are still up that what it learned from the others is gone: a
// reflector that restarts would have its clients drop each other's routes, and a node would withdraw from its router what other nodes
// announced (server.go, StopBgp and deleteNeighbor in v4.8). A neighbour whose connection is lost is told nothing, and does
// what graceful restart is for. The library gives no access to its connections, hence the way through the table of files.
func hangUp(neighbours map[netip.Addr]bool) error {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("find connections: %w", err)
	}
	var errs []error
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil || !neighbours[remote(fd)] {
			continue
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			errs = append(errs, fmt.Errorf("hang up on %s: %w", remote(fd), err))
		}
	}
	return errors.Join(errs...)
}

// remote returns the address at the other end of a TCP connection; the zero Addr when fd is none.
func remote(fd int) netip.Addr {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || kind != unix.IPPROTO_TCP {
		return netip.Addr{}
	}
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.Addr{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}
