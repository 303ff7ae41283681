package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// echo is a raw socket for one and the same echo request to one IPv4 address, read by the thread that writes: ctl/ping has a goroutine that
// reads, and to wake it takes many times longer than the packets.
type echo struct {
	fd      int
	id      uint16
	request []byte
	buf     [256]byte
}

// newEcho opens the socket in the calling thread's network namespace.
func newEcho(to netip.Addr) (*echo, error) {
	id := uint16(os.Getpid())
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Data: make([]byte, 56)}}).Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("make an echo request: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return nil, fmt.Errorf("open a socket for echo requests: %w", err)
	}
	e := &echo{fd: fd, id: id, request: request}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4()})
	}
	if err != nil {
		e.close()
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	return e, nil
}

func (e *echo) close() { _ = unix.Close(e.fd) } // nothing is lost with it

// roundTrip sends a request and waits for its reply.
func (e *echo) roundTrip() error {
	if _, err := again(unix.Write, e.fd, e.request); err != nil {
		return fmt.Errorf("send an echo request: %w", err)
	}
	for {
		n, err := again(unix.Read, e.fd, e.buf[:])
		if err != nil {
			return fmt.Errorf("wait for an echo reply: %w", err)
		}
		const header = ipv4.HeaderLen // what we are answered has no IP options
		if n < header+8 || e.buf[header] != byte(ipv4.ICMPTypeEchoReply) {
			continue
		}
		if binary.BigEndian.Uint16(e.buf[header+4:]) == e.id {
			return nil
		}
	}
}
