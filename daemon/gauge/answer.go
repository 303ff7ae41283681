//go:build linux

package gauge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel/freebind"
)

const (
	// answerRate is how many questions are answered in a second at most. On average nodes ask fewer than askRate.
	answerRate  = 20 * askRate
	answerBurst = answerRate
	// peerRate is how many of one peer's are: who sends in its name takes nothing from others. Each asks once a second at most.
	peerRate  = 2
	peerBurst = 5
	// listenAgain is the pause before the port is opened again after that failed.
	listenAgain = 5 * time.Second
)

// answer answers on the node's own addresses until ctx ends. What it cannot do does not keep the node from measuring.
func (g *Gauge) answer(ctx context.Context) error {
	limit := rate.NewLimiter(answerRate, answerBurst)
	told := ""
	for ctx.Err() == nil {
		err := g.answerHere(ctx, limit)
		if err == nil {
			continue
		}
		if err.Error() != told {
			told = err.Error()
			g.log.Warn("other nodes cannot measure how they reach this one; trying again", "err", err)
		}
		syncloop.Sleep(ctx, listenAgain)
	}
	return nil
}

// answerHere answers until the node's addresses change or ctx ends.
func (g *Gauge) answerHere(ctx context.Context, limit *rate.Limiter) error {
	g.mu.Lock()
	self := g.self
	g.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg, ctx := errgroup.WithContext(ctx)
	for _, subnet := range []netip.Prefix{self.IPv4, self.IPv6} {
		if !subnet.IsValid() {
			continue
		}
		network := "udp4"
		if subnet.Addr().Is6() {
			network = "udp6"
		}
		config := net.ListenConfig{Control: freebind.Control}
		conn, err := config.ListenPacket(ctx, network, netip.AddrPortFrom(subnet.Addr().Next(), Port).String())
		if err != nil {
			cancel()
			return errors.Join(fmt.Errorf("listen for measurements: %w", err), wg.Wait())
		}
		wg.Go(func() error { return g.serve(ctx, conn.(*net.UDPConn), limit) })
	}
	wg.Go(func() error {
		select {
		case <-ctx.Done():
		case <-g.moved:
			cancel()
		}
		return nil
	})
	return wg.Wait()
}

// serve answers on one address.
func (g *Gauge) serve(ctx context.Context, conn *net.UDPConn, limit *rate.Limiter) error {
	defer conn.Close() // nothing is lost with it
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	buffer := make([]byte, questionSize+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read questions: %w", err)
		}
		nonce, err := readQuestion(buffer[:n])
		if err != nil {
			continue
		}
		if said := g.say(from.Addr().Unmap(), nonce, limit); said != nil {
			_, _ = conn.WriteToUDPAddrPort(said, from) // who asks counts what is lost
		}
	}
}

// say returns the answer for a peer; nil for anybody else, and when there were too many.
func (g *Gauge) say(to netip.Addr, nonce uint64, limit *rate.Limiter) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.peers[to]; p == nil || !p.limit.Allow() || !limit.Allow() {
		return nil
	}
	said := append([]byte(nil), g.worst(time.Now())...)
	putHead(said, answer, nonce)
	return said
}
