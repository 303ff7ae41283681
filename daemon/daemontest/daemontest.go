package daemontest

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Patience is for what takes milliseconds on an idle machine.
const Patience = 20 * time.Second

// Start runs run in a goroutine of its own until the test ends or stop is called, which waits for its end. The test fails when run returns an error,
// or does not return when its context has ended.
func Start(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(Patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// Until waits until ok reports true. When that takes too long, it fails the test with what state says.
func Until(t testing.TB, what string, ok func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s\n%s", what, state())
		}
		time.Sleep(time.Millisecond)
	}
}

// Source stands for a source of the store: what Tell is given comes out of Watch.
type Source[T any] chan telling[T]

type telling[T any] struct {
	changes T
	told    chan struct{} // closed when they were
}

// Watch calls emit with what Tell is given, until ctx ends.
func (s Source[T]) Watch(ctx context.Context, emit func(T)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-s:
			emit(c.changes)
			close(c.told)
		}
	}
}

// Tell returns when Watch's emit has returned.
func (s Source[T]) Tell(t testing.TB, changes T) {
	t.Helper()
	told := make(chan struct{})
	select {
	case s <- telling[T]{changes, told}:
		<-told
	case <-time.After(Patience):
		t.Fatal("nobody listens to the source")
	}
}

// Log is a log that can be read while it is written.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String returns all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Count returns how often a text was written.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// Figure returns a metric's value, summed over its labels: a histogram's is how often it observed.
func Figure(t testing.TB, registry prometheus.Gatherer, name string) float64 {
	t.Helper()
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
			return sum
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// Addrs returns addresses.
func Addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Prefixes returns prefixes.
func Prefixes(all ...string) (out []netip.Prefix) {
	for _, p := range all {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
