//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const vxlanNetwork = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`

// dial opens a connection from inside the namespace.
func (s *netspace) dial(_ context.Context, network, address string) (conn net.Conn, err error) {
	err = s.run(func() error {
		conn, err = net.DialTimeout(network, address, 2*time.Second)
		return err
	})
	return conn, err
}

// reaches sends a datagram from n to the bridge address of o and waits for the echo.
func (n *testNode) reaches(o *testNode) string {
	gateway := o.gateway()
	if gateway == "" {
		return "no subnet.env on " + o.name
	}
	var echo net.PacketConn
	if err := o.run(func() (err error) {
		echo, err = net.ListenPacket("udp", net.JoinHostPort(gateway, "7"))
		return err
	}); err != nil {
		return err.Error()
	}
	defer echo.Close()
	conn, err := n.dial(context.Background(), "udp", echo.LocalAddr().String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err.Error()
	}
	buf := make([]byte, 16)
	if err := echo.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return err.Error()
	}
	_, from, err := echo.ReadFrom(buf)
	if err != nil {
		return n.name + " to " + o.name + ": " + err.Error()
	}
	if _, err := echo.WriteTo(buf, from); err != nil {
		return err.Error()
	}
	if err := conn.SetDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return err.Error()
	}
	if _, err := conn.Read(buf); err != nil {
		return o.name + " back to " + n.name + ": " + err.Error()
	}
	return ""
}

// gateway returns the first gateway address in subnet.env.
func (n *testNode) gateway() string {
	data, err := os.ReadFile(n.file("subnet.env"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if _, value, ok := strings.Cut(line, "SUBNET="); ok {
			addr, _, _ := strings.Cut(value, "/")
			return addr
		}
	}
	return ""
}

func TestTwoNodes(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.addNode(), c.addNode()
	a.start()
	b.start()
	a.eventuallyReady()
	b.eventuallyReady()
	c.eventually("a reaches b", func() string { return a.reaches(b) })
	c.eventually("b reaches a", func() string { return b.reaches(a) })
	if err := a.signal(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if why := a.reaches(b); why != "" {
		t.Errorf("after the daemon's end: %s", why)
	}
}
