package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/matrix"
	"github.com/twill-cni/twill/ctl/ping"
)

// enough is a deadline for what must happen, when how soon is not the question.
const enough = 15 * time.Second

// holds checks that a condition stays true for a while.
func holds(t *testing.T, duration time.Duration, condition func() error) {
	t.Helper()
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := condition(); err != nil {
			t.Fatalf("did not hold for %v: %v", duration, err)
		}
	}
}

// wantMatrix checks that everybody reaches everybody, now.
func wantMatrix(t *testing.T, l *lab.Lab) {
	t.Helper()
	report, err := matrix.Run(t.Context(), l, ping.Options{Count: 1, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if report.Total == 0 {
		t.Fatal("the lab has no pods to ask")
	}
	for _, p := range report.Probes {
		if !p.OK() {
			t.Errorf("%s: %s does not reach %s at %v: %s", p.Kind, p.From, p.To, p.Address, p.Error)
		}
	}
}

// echo sends one request from a namespace, with size bytes of payload.
func echo(ctx context.Context, from netns.Namespace, to netip.Addr, size int) error {
	var conn *ping.Conn
	if err := from.Do(func() (err error) { conn, err = ping.Listen(to); return err }); err != nil {
		return err
	}
	defer conn.Close()
	s := conn.Ping(ctx, to, ping.Options{Count: 1, Timeout: time.Second, Size: size})
	return s.Err
}

// load is a stream of echo requests that runs while something is done.
type load struct {
	from, to string
	stop     context.CancelFunc
	stats    chan ping.Stats
}

// startLoad starts a stream of echo requests from a pod. The test ends it with end; the test's own end does too.
func startLoad(t *testing.T, from *lab.Pod, to netip.Addr, interval time.Duration) *load {
	t.Helper()
	return startLoadIn(t, from.Netns(), to, interval)
}

// startLoadIn starts it from any namespace.
func startLoadIn(t *testing.T, from netns.Namespace, to netip.Addr, interval time.Duration) *load {
	t.Helper()
	var conn *ping.Conn
	must(t, from.Do(func() (err error) { conn, err = ping.Listen(to); return err }))
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{from: strings.TrimPrefix(from.Name(), runName), to: to.String(), stop: cancel, stats: make(chan ping.Stats, 1)}
	go func() {
		defer conn.Close()
		l.stats <- conn.Stream(ctx, to, ping.Options{Interval: interval, Timeout: 2 * time.Second})
	}()
	t.Cleanup(cancel)
	return l
}

// end ends the stream and returns what became of it.
func (l *load) end(t *testing.T) ping.Stats {
	t.Helper()
	l.stop()
	select {
	case s := <-l.stats:
		t.Logf("%s to %s: %d sent, %d lost, longest gap %v", l.from, l.to, s.Sent, s.Lost(), s.Gap.Round(time.Millisecond))
		return s
	case <-time.After(enough):
		t.Fatal("the stream of echo requests did not end")
		panic("unreachable")
	}
}

// endWhole ends the stream and checks that it lost nothing.
func (l *load) endWhole(t *testing.T) {
	t.Helper()
	if s := l.end(t); s.Lost() > 0 || s.Sent == 0 {
		t.Errorf("%s to %s: lost %d of %d packets, the last because: %v", l.from, l.to, s.Lost(), s.Sent, s.Err)
	}
}

// addr returns the pod's address of a family.
func addr(t *testing.T, p *lab.Pod, v6 bool) netip.Addr {
	t.Helper()
	for _, a := range p.Addrs() {
		if a.Is6() == v6 {
			return a
		}
	}
	t.Fatalf("%s has no such address: %v", p.Name, p.Addrs())
	panic("unreachable")
}

// ready asks the daemon once.
func ready(t *testing.T, n *lab.Node) error {
	_, err := n.Get(t.Context(), n.HealthURL("/readyz"))
	return err
}

// metric returns the value of one metric, for example `twill_peers` or `twill_desired_entries{kind="route"}`.
func metric(t *testing.T, n *lab.Node, name string) float64 {
	t.Helper()
	text, err := n.Get(t.Context(), n.MetricsURL())
	must(t, err)
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest, &value); err != nil {
			t.Fatalf("metric %s: %v", name, err)
		}
		return value
	}
	t.Fatalf("there is no metric %s", name)
	panic("unreachable")
}
