package policy

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

const (
	chatPort  = 7000
	chatEvery = 10 * time.Millisecond
	cutWithin = time.Second
)

// chat is a connection, or a pair of UDP sockets, both ends of which say something all the time, whether or not the other one does.
type chat struct {
	name  string
	heard [2]atomic.Int64 // when the client and the server heard something last, in nanoseconds since 1970
	conns [2]net.Conn
	ended sync.WaitGroup
}

// talk starts a chat, which ends with the test.
func talk(t *testing.T, network string, client, server *pod, v6 bool) *chat {
	t.Helper()
	to := netip.AddrPortFrom(server.record.Addrs[0], chatPort)
	if v6 {
		to = netip.AddrPortFrom(server.record.Addrs[1], chatPort)
	}
	c := &chat{name: fmt.Sprintf("%s from %s to %s at %v", network, client.name, server.name, to)}
	c.conns[1] = nil
	accepted := make(chan net.Conn, 1)
	switch network {
	case "tcp":
		var listener net.Listener
		must(t, server.ns.Do(func() (err error) { listener, err = net.Listen("tcp", to.String()); return err }))
		go func() {
			defer listener.Close()
			if conn, err := listener.Accept(); err == nil {
				accepted <- conn
			}
		}()
		t.Cleanup(func() { _ = listener.Close() })
		c.conns[0] = dial(t, client.ns, "tcp", to)
	case "udp":
		var first *net.UDPConn
		must(t, server.ns.Do(func() (err error) { first, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to)); return err }))
		c.conns[0] = dial(t, client.ns, "udp", to)
		_, err := c.conns[0].Write([]byte("hello"))
		must(t, err)
		must(t, first.SetReadDeadline(time.Now().Add(patience)))
		_, from, err := first.ReadFromUDPAddrPort(make([]byte, 16))
		must(t, err)
		must(t, first.Close())
		var conn *net.UDPConn
		must(t, server.ns.Do(func() (err error) {
			conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(to), net.UDPAddrFromAddrPort(from))
			return err
		}))
		accepted <- conn
	}
	select {
	case c.conns[1] = <-accepted:
	case <-time.After(patience):
		t.Fatalf("%s: no connection", c.name)
	}
	for i := range c.conns {
		c.ended.Go(func() { c.hear(i) })
		c.ended.Go(func() { c.say(i) })
	}
	t.Cleanup(c.end)
	within(t, patience, func() error { return c.heardSince(time.Now().Add(-100 * time.Millisecond)) })
	return c
}

func dial(t *testing.T, ns netns.Namespace, network string, to netip.AddrPort) (conn net.Conn) {
	t.Helper()
	must(t, ns.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience}).DialContext(t.Context(), network, to.String())
		return err
	}))
	return conn
}

func (c *chat) end() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.ended.Wait()
}

func (c *chat) hear(i int) {
	buffer := make([]byte, 4096)
	for {
		n, err := c.conns[i].Read(buffer)
		if n > 0 {
			c.heard[i].Store(time.Now().UnixNano())
		}
		if err != nil && n == 0 && !temporary(err) {
			return
		}
	}
}

// temporary reports whether an error of a socket tells of a packet, and not of the socket.
func temporary(err error) bool {
	e, ok := err.(*net.OpError)
	return ok && e.Net == "udp" && e.Err != net.ErrClosed && e.Err.Error() != "use of closed network connection"
}

func (c *chat) say(i int) {
	tick := time.NewTicker(chatEvery)
	defer tick.Stop()
	for range tick.C {
		_ = c.conns[i].SetWriteDeadline(time.Now().Add(chatEvery)) // a cut connection's buffer fills up
		if _, err := c.conns[i].Write([]byte("x")); err != nil {
			if e, ok := err.(net.Error); (!ok || !e.Timeout()) && !temporary(err) {
				return
			}
		}
	}
}

// heardSince returns nil when both ends have heard something since then.
func (c *chat) heardSince(when time.Time) error {
	for i, end := range []string{"client", "server"} {
		if last := time.Unix(0, c.heard[i].Load()); last.Before(when) {
			return fmt.Errorf("%s: the %s has heard nothing for %v", c.name, end, time.Since(last).Round(time.Millisecond))
		}
	}
	return nil
}

// silentSince returns nil when both ends have heard nothing since then.
func (c *chat) silentSince(when time.Time) error {
	for i, end := range []string{"client", "server"} {
		if last := time.Unix(0, c.heard[i].Load()); last.After(when) {
			return fmt.Errorf("%s: the %s heard something %v later", c.name, end, last.Sub(when).Round(time.Millisecond))
		}
	}
	return nil
}

// TestEstablished has policies cut connections that they do not allow any more, leave others alone, and let those go on that they allow again.
func TestEstablished(t *testing.T) {
	now := policytest.Namespaces()
	relabelled := append([]*store.Namespace{{Name: "x", Labels: map[string]string{"nth": "8"}}}, now[1:]...)
	fromFirst := labelled("nth", "1")
	onlyFirst := &store.NetworkPolicy{Name: store.ObjectName{Namespace: "y", Name: "first"}, IsolatesIngress: true,
		Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Namespaces: &fromFirst}}}}}
	for name, c := range map[string]struct{ before, after store.PolicyChanges }{
		"ingress of the server": {changesOf(now), changesOf(now, closes(named("y", "deny", ""), true, false))},
		"egress of the client":  {changesOf(now), changesOf(now, closes(named("x", "deny", ""), false, true))},
		"both":                  {changesOf(now), changesOf(now, closes(named("x", "deny", ""), false, true), closes(named("y", "deny", ""), true, false))},
		"one port": {changesOf(now), changesOf(now, &store.NetworkPolicy{Name: store.ObjectName{Namespace: "y", Name: "other"}, IsolatesIngress: true,
			Ingress: []store.PolicyRule{{Ports: []store.PolicyPort{{Protocol: store.TCP, Port: chatPort + 1}}}}})},
		"labels of a namespace": {changesOf(now, onlyFirst), changesOf(relabelled, onlyFirst)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{nodes: 2})
			pods := map[string]*pod{}
			for _, p := range r.addPods(t, modelPods(2)) {
				pods[p.name] = p
			}
			r.apply(t, c.before)
			var cut, left []*chat
			for _, network := range []string{"tcp", "udp"} {
				for _, v6 := range []bool{false, true} {
					server, other := pods["y/b"], pods["z/b"] // on another node
					if v6 == (network == "tcp") {
						server, other = pods["y/a"], pods["z/a"] // on the client's own
					}
					cut = append(cut, talk(t, network, pods["x/a"], server, v6))
					left = append(left, talk(t, network, pods["z/a"], other, v6))
				}
			}
			soonest := time.Hour // a machine with much to do may be late, but not each time
			const rounds = 6
			for round := 0; round < 2 || soonest > cutWithin && round < rounds; round++ {
				began := time.Now()
				r.apply(t, c.after)
				within(t, patience, func() error { // nothing is heard for a second
					for _, c := range cut {
						if err := c.silentSince(time.Now().Add(-time.Second)); err != nil {
							return err
						}
					}
					return nil
				})
				var last time.Time
				for _, c := range cut {
					for i := range c.heard {
						if h := time.Unix(0, c.heard[i].Load()); h.After(last) {
							last = h
						}
					}
				}
				soonest = min(soonest, last.Sub(began))
				for _, c := range left {
					if err := c.heardSince(time.Now().Add(-500 * time.Millisecond)); err != nil {
						t.Errorf("not to be cut: %v", err)
					}
				}
				r.apply(t, c.before)
				began = time.Now()
				within(t, patience, func() error { // TCP sends again after some seconds
					for _, c := range append(cut, left...) {
						if err := c.heardSince(began); err != nil {
							return err
						}
					}
					return nil
				})
			}
			t.Logf("all were cut %v after the policy was written", soonest.Round(time.Millisecond))
			if soonest > cutWithin {
				t.Errorf("connections went on for %v", soonest)
			}
		})
	}
}
