package gobgp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// Only sessions are hung up on: a neighbour may be where the datastore is.
func TestHangUpLeavesOtherConnections(t *testing.T) {
	connect := func() (conn net.Conn, server uint16) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		conn, err = net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(); accepted.Close() })
		return conn, netip.MustParseAddrPort(l.Addr().String()).Port()
	}
	ended := func(c net.Conn) bool {
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		return errors.Is(err, io.EOF)
	}
	out, neighbour := connect() // to the neighbour's listener
	in, listener := connect()   // stands for one that came to this node's listener
	other, _ := connect()
	if err := hangUp(map[netip.Addr]uint16{netip.MustParseAddr("192.0.2.9"): neighbour}, listener); err != nil {
		t.Fatal(err)
	}
	if ended(out) || ended(in) {
		t.Error("a connection with another host has ended")
	}
	if err := hangUp(map[netip.Addr]uint16{netip.MustParseAddr("127.0.0.1"): neighbour}, listener); err != nil {
		t.Fatal(err)
	}
	if !ended(out) || !ended(in) {
		t.Error("a session goes on")
	}
	if ended(other) {
		t.Error("a connection of something else has ended")
	}
}
