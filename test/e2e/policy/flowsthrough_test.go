package policy

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/policy/policytest"
)

// TestEstablishedElsewhere has connections cut whose other end is not what the client asked for, or is no pod: through a Service, and to the node.
func TestEstablishedElsewhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2, proxy: "nftables"})
	pods := map[string]*pod{}
	for _, p := range r.addPods(t, modelPods(2)) {
		pods[p.name] = p
	}
	n := r.node(1)
	newProber(t, n.Name, n.Netns()).serve(t, n.Addrs())
	r.applyManifests(t, webService)
	cluster := r.clusterIPs(t)
	r.apply(t, changesOf(policytest.Namespaces()))

	var echoes []*echoing
	for i := range cluster {
		echoes = append(echoes, newEchoing(t, pods["x/a"], netip.AddrPortFrom(cluster[i], 8080)), newEchoing(t, pods["x/a"], netip.AddrPortFrom(n.Addrs()[i], 80)))
	}
	within(t, patience, func() error { return heardAll(echoes, time.Now().Add(-100*time.Millisecond)) })
	soonest := time.Hour
	const rounds = 6
	for round := 0; round < 2 || soonest > cutWithin && round < rounds; round++ {
		began := time.Now()
		r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "deny", ""), false, true)))
		var last time.Time
		within(t, patience, func() error {
			last = time.Time{}
			for _, e := range echoes {
				if h := time.Unix(0, e.heard.Load()); h.After(last) {
					last = h
				}
			}
			if time.Since(last) < time.Second {
				return fmt.Errorf("a connection goes on %v after the policy was written", last.Sub(began))
			}
			return nil
		})
		soonest = min(soonest, last.Sub(began))
		r.apply(t, changesOf(policytest.Namespaces()))
		again := time.Now()
		within(t, patience, func() error { return heardAll(echoes, again) })
	}
	t.Logf("all were cut %v after the policy was written", soonest.Round(time.Millisecond))
	if soonest > cutWithin {
		t.Errorf("connections went on for %v", soonest)
	}
}

// echoing is a connection whose client speaks all the time to a server that repeats it.
type echoing struct {
	to    netip.AddrPort
	heard atomic.Int64 // when the client heard something last, in nanoseconds since 1970
}

func newEchoing(t *testing.T, client *pod, to netip.AddrPort) *echoing {
	t.Helper()
	e := &echoing{to: to}
	var conn net.Conn
	within(t, patience, func() error { // the Service comes over time
		return client.ns.Do(func() (err error) {
			conn, err = net.DialTimeout("tcp", to.String(), quick)
			return err
		})
	})
	c := &chat{name: to.String()}
	c.conns[0] = conn
	c.ended.Go(func() { c.say(0) })
	c.ended.Go(func() {
		buffer := make([]byte, 4096)
		for {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
			e.heard.Store(time.Now().UnixNano())
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		c.ended.Wait()
	})
	return e
}

func heardAll(echoes []*echoing, since time.Time) error {
	for _, e := range echoes {
		if last := time.Unix(0, e.heard.Load()); last.Before(since) {
			return fmt.Errorf("nothing was heard of %v for %v", e.to, time.Since(last).Round(time.Millisecond))
		}
	}
	return nil
}
