package gobgp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hangUp ends the TCP connections of the sessions with these neighbours, whose ports are given, all within microseconds, as the kernel would if the
// process were killed. listener is this node's port. Other connections with the same hosts, to a datastore that runs there, go on.
//
// The library's own shutdown ends session by session, and tells those that are still up that what it learned from the others is gone: a
// reflector that restarts would have its clients drop each other's routes, and a node would withdraw from its router what other nodes
// announced (server.go, StopBgp and deleteNeighbor in v4.8). A neighbour whose connection is lost is told nothing, and does
// what graceful restart is for. The library gives no access to its connections, hence the way through the table of files.
func hangUp(neighbours map[netip.Addr]uint16, listener uint16) error {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("find connections: %w", err)
	}
	var errs []error
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil {
			continue
		}
		local, remote := ends(fd)
		port, neighbour := neighbours[remote.Addr()]
		if !neighbour || remote.Port() != port && local.Port() != listener {
			continue
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			errs = append(errs, fmt.Errorf("hang up on %s: %w", remote, err))
		}
	}
	return errors.Join(errs...)
}

// ends returns both ends of a TCP connection; zero when fd is none.
func ends(fd int) (local, remote netip.AddrPort) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || kind != unix.IPPROTO_TCP {
		return local, remote
	}
	here, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote
	}
	there, err := unix.Getpeername(fd)
	if err != nil {
		return local, remote
	}
	return addrPort(here), addrPort(there)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
