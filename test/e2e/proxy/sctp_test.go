package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// The kernels that these tests run on have no SCTP sockets, but they track and translate SCTP. So tests speak the first two chunks of an association
// (RFC 9260, section 5.1) through raw sockets: the client's INIT, and the server's INIT ACK, in whose cookie stands what serve's answers say.

const (
	sctpHeader    = 12 // bytes: ports, verification tag, checksum
	sctpChunk     = 20 // bytes of INIT and INIT ACK without parameters
	sctpInit      = 1  // types of chunks
	sctpInitAck   = 2
	sctpCookie    = 7 // a type of parameters
	sctpTagAt     = 4
	sctpCookieAt  = sctpHeader + sctpChunk
	sctpOwnTagAt  = sctpHeader + 4
	sctpParameter = 4 // bytes before a parameter's value
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket returns a packet with one chunk, and a cookie if it has one.
func sctpPacket(from, to uint16, tag uint32, kind byte, own uint32, cookie string) []byte {
	b := make([]byte, sctpCookieAt)
	if cookie != "" {
		b = binary.BigEndian.AppendUint16(b, sctpCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(sctpParameter+len(cookie)))
		b = append(b, cookie...)
	}
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[sctpTagAt:], tag)
	b[sctpHeader] = kind
	binary.BigEndian.PutUint16(b[sctpHeader+2:], uint16(len(b)-sctpHeader))
	binary.BigEndian.PutUint32(b[sctpOwnTagAt:], own)
	binary.BigEndian.PutUint32(b[sctpHeader+8:], 1<<16) // window
	binary.BigEndian.PutUint16(b[sctpHeader+12:], 1)    // streams out and in
	binary.BigEndian.PutUint16(b[sctpHeader+14:], 1)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// sctpSocket opens a raw socket in the namespace of the calling thread.
func sctpSocket(v6 bool) (int, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	return unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16()}
	}
	return &unix.SockaddrInet4{Addr: a.As4()}
}

func addrIn(s unix.Sockaddr) netip.Addr {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr)
	}
	return netip.Addr{}
}

// receive returns a packet of SCTP that is whole, and its sender; nothing when there is none.
func receive(fd int, v6 bool, buffer []byte) ([]byte, netip.Addr, error) {
	n, from, err := unix.Recvfrom(fd, buffer, 0)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	b := buffer[:n]
	if !v6 && n > 0 { // with its header
		b = b[min(n, int(b[0]&0xf)*4):]
	}
	if len(b) < sctpCookieAt {
		return nil, netip.Addr{}, nil
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, netip.Addr{}, nil
	}
	return b, addrIn(from), nil
}

// serveSCTP answers each INIT to one address and port.
func serveSCTP(t *testing.T, ns netns.Namespace, at netip.AddrPort, name string) {
	t.Helper()
	fd := -1
	must(t, ns.Do(func() (err error) {
		if fd, err = sctpSocket(at.Addr().Is6()); err != nil {
			return err
		}
		return unix.Bind(fd, sockaddr(at.Addr()))
	}))
	const poll = 100 * time.Millisecond // how soon the end is noticed
	timeout := unix.NsecToTimeval(poll.Nanoseconds())
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	var server sync.WaitGroup
	t.Cleanup(func() {
		server.Wait()
		_ = unix.Close(fd)
	})
	ctx := t.Context()
	server.Go(func() {
		buffer := make([]byte, 2048)
		for ctx.Err() == nil {
			b, from, err := receive(fd, at.Addr().Is6(), buffer)
			if err != nil || b == nil || b[sctpHeader] != sctpInit || binary.BigEndian.Uint16(b[2:]) != at.Port() {
				continue
			}
			port, tag := binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[sctpOwnTagAt:])
			_ = unix.Sendto(fd, sctpPacket(at.Port(), port, tag, sctpInitAck, rand.Uint32()|1, fmt.Sprintf("%s %v", name, from)), 0, sockaddr(from)) // the client notices
		}
	})
}

// tellApart has the kernel keep ICMP errors with what they are about: a raw socket hears those of all ports.
func tellApart(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
}

// refusedPort reports whether an ICMP error that came is about what was sent from a port.
func refusedPort(fd int, port uint16) bool {
	buffer, control := make([]byte, 2048), make([]byte, 512)
	for {
		n, _, _, _, err := unix.Recvmsg(fd, buffer, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return false
		}
		if n >= 2 && binary.BigEndian.Uint16(buffer) == port {
			return true
		}
	}
}

// associate sends an INIT and says who answers it. It must run in the machine's namespace.
func associate(to netip.AddrPort, patience time.Duration) string {
	v6 := to.Addr().Is6()
	fd, err := sctpSocket(v6)
	if err != nil {
		return verdict(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to.Addr())); err != nil {
		return verdict(err)
	}
	me, err := unix.Getsockname(fd)
	if err != nil {
		return verdict(err)
	}
	port, tag := uint16(20_000+rand.IntN(40_000)), rand.Uint32()|1
	if err := tellApart(fd, v6); err != nil {
		return verdict(err)
	}
	_, err = unix.Write(fd, sctpPacket(port, to.Port(), 0, sctpInit, tag, ""))
	for errors.Is(err, unix.ECONNREFUSED) && !refusedPort(fd, port) { // it was somebody else's, and nothing was sent
		_, err = unix.Write(fd, sctpPacket(port, to.Port(), 0, sctpInit, tag, ""))
	}
	if err != nil && !errors.Is(err, syscall.EPERM) { // see greeted
		return verdict(err)
	}
	buffer := make([]byte, 2048)
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return dropped
		}
		timeout := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return verdict(err)
		}
		b, _, err := receive(fd, v6, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return dropped
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && refusedPort(fd, port):
			return verdict(err)
		case err != nil:
			continue
		case b == nil || b[sctpHeader] != sctpInitAck || binary.BigEndian.Uint16(b) != to.Port() || binary.BigEndian.Uint16(b[2:]) != port ||
			binary.BigEndian.Uint32(b[sctpTagAt:]) != tag || len(b) < sctpCookieAt+sctpParameter:
			continue
		}
		name, from, _ := strings.Cut(strings.TrimRight(string(b[sctpCookieAt+sctpParameter:]), "\x00"), " ")
		if from != addrIn(me).String() {
			name += "~"
		}
		return name
	}
}
