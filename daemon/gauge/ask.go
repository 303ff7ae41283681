//go:build linux

package gauge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// askRate is how many questions are asked in a second at most.
	askRate = 50
	// askPeriod is how often each peer is asked at most.
	askPeriod = time.Second
	// patience is how long an answer may take.
	patience = time.Second
)

// pause is how long to wait between two questions when there are n peers.
func pause(n int) time.Duration {
	return max(askPeriod/time.Duration(max(n, 1)), time.Second/askRate)
}

// ask asks each peer in turn until ctx ends.
func (g *Gauge) ask(ctx context.Context) error {
	var asking errgroup.Group
	asking.SetLimit(askRate*int(patience/time.Second) + 10) // a peer that does not answer holds up nobody
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return asking.Wait()
		case <-next.C:
		}
		p, self, n := g.turn(time.Now())
		if p != nil {
			asking.Go(func() error {
				g.took(p, exchange(ctx, self, p.address))
				return nil
			})
		}
		if n == 0 {
			select {
			case <-ctx.Done():
			case <-g.changed:
			}
		}
		next.Reset(pause(n))
	}
}

// turn returns whose turn it is, or nil when that one was asked a moment ago, the address that it is asked from, and how many peers there are. Where a round takes
// longer than askPeriod, every other turn is a suspect's, if there is one.
func (g *Gauge) turn(now time.Time) (p *peer, self netip.Addr, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n = len(g.order)
	if n == 0 {
		return nil, self, 0
	}
	if p = g.suspected(now); p == nil {
		g.next = (g.next + 1) % n
		p = g.peers[g.order[g.next]]
		if p.busy || n > askRate && now.Sub(p.asked) < askPeriod {
			return nil, self, n
		}
	}
	p.busy, p.asked = true, now
	return p, p.self, n
}

// suspected returns the suspect whose turn it is; nil: it is nobody's. mu is held.
func (g *Gauge) suspected(now time.Time) *peer {
	if g.again {
		g.again = false
		return nil
	}
	for len(g.suspects) > 0 {
		p := g.suspects[0]
		switch {
		case g.peers[p.address] == p && p.inDoubt() && (p.busy || now.Sub(p.asked) < askPeriod):
			return nil // those behind it have not waited longer
		case g.peers[p.address] == p && p.inDoubt():
			g.again = true
		}
		g.suspects[0] = nil
		g.suspects, p.suspect = g.suspects[1:], false
		if g.again {
			return p
		}
	}
	return nil
}

// inDoubt reports whether a peer did not answer, and the next answers will tell whether it is reached no more.
func (p *peer) inDoubt() bool { return p.window.missed > 0 && p.window.missed < downAfter }

// doubt has a peer that is in doubt asked again soon; mu is held.
func (g *Gauge) doubt(p *peer) {
	if len(g.order) > askRate && !p.suspect && p.inDoubt() && g.peers[p.address] == p {
		p.suspect = true
		g.suspects = append(g.suspects, p)
	}
}

// outcome is that of a question.
type outcome struct {
	rtt     time.Duration // 0: no answer
	refused bool          // the node is there, and nobody answers on it
	node    string
	edges   []Edge
	err     error // what the kernel said: there is no way, or this node has not got its own address
}

// took takes in an outcome.
func (g *Gauge) took(p *peer, o outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.busy, p.trouble = false, ""
	if o.err != nil {
		p.trouble = o.err.Error()
	}
	p.window.add(o.rtt)
	g.doubt(p)
	g.metrics.took(o)
	if o.rtt == 0 {
		return
	}
	p.refused, p.answered, p.edges = o.refused, time.Now(), o.edges
	if len(g.order) > maxEdges { // nobody could look at them all
		p.edges = slices.DeleteFunc(o.edges, func(e Edge) bool { return e.State == Unknown || e.State == Up && e.Loss == 0 })
	}
	if o.node != "" {
		p.node = o.node
	}
}

// exchange asks once.
func exchange(ctx context.Context, self, to netip.Addr) outcome {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	network := "udp4"
	if to.Is6() {
		network = "udp6"
	}
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(self, 0))}
	conn, err := dialer.DialContext(ctx, network, netip.AddrPortFrom(to, Port).String())
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close() // nothing is lost with it
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	nonce := rand.Uint64()
	begin := time.Now()
	if _, err := conn.Write(newQuestion(nonce)); err != nil {
		return outcome{err: err}
	}
	buffer := make([]byte, questionSize+1)
	for {
		n, err := conn.Read(buffer)
		rtt := max(time.Since(begin), 1)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return outcome{rtt: rtt, refused: true}
		case err != nil && ctx.Err() != nil:
			return outcome{}
		case err != nil:
			return outcome{err: err}
		}
		if node, edges, err := readAnswer(buffer[:n], nonce); err == nil {
			return outcome{rtt: rtt, node: node, edges: edges}
		}
	}
}
