package peertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BGP message types (RFC 4271, section 4.1).
const (
	typeOpen         = 1
	typeUpdate       = 2
	typeNotification = 3
	typeKeepalive    = 4
)

// Raw is a neighbour that says whatever the test wants.
type Raw struct {
	t    testing.TB
	conn net.Conn
	// Closed is closed when the other side ended the connection, after Notification was set.
	Closed chan struct{}
	// Notification is the code and subcode that came last.
	Notification [2]byte
}

// DialRaw connects from a host to a speaker, opens the session and keeps it. The other side has to have accepted the OPEN, with
// four-octet AS numbers and both families, within ten seconds.
func DialRaw(t testing.TB, h *Host, to netip.AddrPort, as uint32) *Raw {
	t.Helper()
	var r *Raw
	var last error
	Eventually(t, "raw session", 10*time.Second, func() bool {
		conn, err := h.dial(to)
		if err != nil {
			last = err
			return false
		}
		if err := open(conn, as); err != nil {
			last = err
			conn.Close()
			return false
		}
		r = &Raw{t: t, conn: conn, Closed: make(chan struct{})}
		return true
	})
	if r == nil {
		t.Fatalf("raw session: %v", last)
	}
	go r.read()
	t.Cleanup(func() {
		r.conn.Close()
		<-r.Closed
	})
	return r
}

// dial connects from the host's namespace.
func (h *Host) dial(to netip.AddrPort) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	ch := make(chan dialled)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(h.file.Fd()), unix.CLONE_NEWNET); err != nil {
			ch <- dialled{nil, err}
			return
		}
		conn, err := net.DialTimeout("tcp", to.String(), time.Second)
		ch <- dialled{conn, err}
	}()
	d := <-ch
	return d.conn, d.err
}

// open exchanges OPEN and KEEPALIVE.
func open(conn net.Conn, as uint32) error {
	capabilities := []byte{
		1, 4, 0, 1, 0, 1, // IPv4 unicast
		1, 4, 0, 2, 0, 1, // IPv6 unicast
		65, 4, byte(as >> 24), byte(as >> 16), byte(as >> 8), byte(as),
	}
	id := [4]byte{192, 0, 2, 250}
	if own, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil && own.Addr().Is4() {
		id = own.Addr().As4()
	}
	body := slices.Concat([]byte{4, byte(as >> 8), byte(as), 0, 90}, id[:], []byte{byte(len(capabilities) + 2), 2, byte(len(capabilities))})
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(Message(typeOpen, append(body, capabilities...))); err != nil {
		return err
	}
	if typ, _, err := readMessage(conn); err != nil || typ != typeOpen {
		return fmt.Errorf("expected an OPEN, got type %d: %w", typ, errors.Join(err))
	}
	if _, err := conn.Write(Message(typeKeepalive, nil)); err != nil {
		return err
	}
	if typ, _, err := readMessage(conn); err != nil || typ != typeKeepalive {
		return fmt.Errorf("expected a KEEPALIVE, got type %d: %w", typ, errors.Join(err))
	}
	return conn.SetDeadline(time.Time{})
}

func (r *Raw) read() {
	defer close(r.Closed)
	for {
		typ, body, err := readMessage(r.conn)
		if err != nil {
			return
		}
		if typ == typeNotification && len(body) >= 2 {
			r.Notification = [2]byte{body[0], body[1]}
		}
	}
}

// Send writes bytes as they are.
func (r *Raw) Send(b []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(b); err != nil {
		select {
		case <-r.Closed: // the other side did not like what came before
		case <-time.After(5 * time.Second):
			r.t.Fatalf("write to the speaker: %v", err)
		}
	}
}

// Message makes a message with its header.
func Message(typ byte, body []byte) []byte {
	m := make([]byte, 19, 19+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(19+len(body)))
	m[18] = typ
	return append(m, body...)
}

// Update makes an UPDATE without withdrawals. Prefixes are IPv4.
func Update(attributes []byte, prefixes ...netip.Prefix) []byte {
	body := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attributes)))
	body = append(body, attributes...)
	for _, p := range prefixes {
		a := p.Addr().As4()
		body = append(body, byte(p.Bits()))
		body = append(body, a[:(p.Bits()+7)/8]...)
	}
	return Message(typeUpdate, body)
}

// Attribute makes a path attribute.
func Attribute(flags, typ byte, value ...byte) []byte {
	return append([]byte{flags, typ, byte(len(value))}, value...)
}

func readMessage(conn net.Conn) (typ byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(conn, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, max(0, int(binary.BigEndian.Uint16(header[16:]))-19))
	_, err = io.ReadFull(conn, body)
	return header[18], body, err
}

// Hangup closes the connection.
func (r *Raw) Hangup() { r.conn.Close() }
