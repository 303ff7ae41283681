package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// The kernels that these tests run on have no SCTP sockets, but they track SCTP. So probers speak the first two chunks of an association (RFC 9260,
// section 5.1) through raw sockets: the client's INIT, and the server's INIT ACK.

const (
	sctpHeader  = 12 // bytes: ports, verification tag, checksum
	sctpPacket  = sctpHeader + 20
	sctpInit    = 1 // types of chunks
	sctpInitAck = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpEnd answers INITs to the ports that it serves, and sends INITs.
type sctpEnd struct {
	fd int
	v6 bool

	mu      sync.Mutex
	served  []uint16
	waiting map[uint32]*sctpWait // by the tag of the INIT
}

// sctpWait is an INIT that was sent.
type sctpWait struct{ answered atomic.Bool }

// newSCTPEnd makes one inside the namespace, which ends with the test.
func newSCTPEnd(t testing.TB, ns netns.Namespace, v6 bool) *sctpEnd {
	t.Helper()
	e := &sctpEnd{v6: v6, waiting: map[uint32]*sctpWait{}}
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	must(t, ns.Do(func() (err error) {
		e.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return err
	}))
	const poll = 100 * time.Millisecond // how soon the end is noticed
	timeout := unix.NsecToTimeval(poll.Nanoseconds())
	must(t, unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	var reader sync.WaitGroup
	t.Cleanup(func() {
		reader.Wait()
		_ = unix.Close(e.fd)
	})
	ctx := t.Context()
	reader.Go(func() {
		for ctx.Err() == nil {
			e.receive()
		}
	})
	return e
}

// serve has an INIT to the port answered from now on.
func (e *sctpEnd) serve(port uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.served = append(e.served, port)
}

// begin sends an INIT.
func (e *sctpEnd) begin(from uint16, to netip.AddrPort) (*sctpWait, error) {
	w, tag := &sctpWait{}, rand.Uint32()|1
	e.mu.Lock()
	e.waiting[tag] = w
	e.mu.Unlock()
	if err := unix.Sendto(e.fd, newSCTPPacket([2]uint16{from, to.Port()}, 0, sctpInit, tag), 0, sockaddr(netip.AddrPortFrom(to.Addr(), 0))); err != nil {
		return nil, fmt.Errorf("send SCTP: %w", err)
	}
	return w, nil
}

// receive takes one packet, if one comes.
func (e *sctpEnd) receive() {
	buffer := make([]byte, 2048)
	n, from, err := unix.Recvfrom(e.fd, buffer, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || err != nil {
		return
	}
	b := buffer[:n]
	if !e.v6 && n > 0 { // with its header
		b = b[min(n, int(b[0]&0xf)*4):]
	}
	if len(b) < sctpPacket {
		return
	}
	ports := [2]uint16{binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b)}
	tag, own := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[sctpHeader+4:])
	e.mu.Lock()
	defer e.mu.Unlock()
	switch b[sctpHeader] {
	case sctpInit:
		if slices.Contains(e.served, ports[0]) {
			_ = unix.Sendto(e.fd, newSCTPPacket(ports, own, sctpInitAck, rand.Uint32()|1), 0, withoutPort(from)) // the client notices
		}
	case sctpInitAck:
		if w := e.waiting[tag]; w != nil {
			w.answered.Store(true)
			delete(e.waiting, tag)
		}
	}
}

func withoutPort(from unix.Sockaddr) unix.Sockaddr {
	switch s := from.(type) {
	case *unix.SockaddrInet4:
		return &unix.SockaddrInet4{Addr: s.Addr}
	case *unix.SockaddrInet6:
		return &unix.SockaddrInet6{Addr: s.Addr}
	}
	return from
}

// newSCTPPacket returns a packet with one chunk, from the first of the ports to the second.
func newSCTPPacket(ports [2]uint16, tag uint32, kind byte, own uint32) []byte {
	b := make([]byte, sctpPacket)
	binary.BigEndian.PutUint16(b, ports[0])
	binary.BigEndian.PutUint16(b[2:], ports[1])
	binary.BigEndian.PutUint32(b[4:], tag)
	b[sctpHeader] = kind
	binary.BigEndian.PutUint16(b[sctpHeader+2:], uint16(len(b)-sctpHeader))
	binary.BigEndian.PutUint32(b[sctpHeader+4:], own)
	binary.BigEndian.PutUint32(b[sctpHeader+8:], 1<<16) // window
	binary.BigEndian.PutUint16(b[sctpHeader+12:], 1)    // streams out and in
	binary.BigEndian.PutUint16(b[sctpHeader+14:], 1)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}
