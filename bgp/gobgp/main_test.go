package gobgp

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

func TestMain(m *testing.M) {
	if conf := os.Getenv(speakerEnv); conf != "" {
		os.Exit(speakerMain(conf))
	}
	os.Exit(peertest.Main(m))
}

const (
	ourAS    = 64512
	theirAS  = 64513
	ourAddr  = "192.0.2.1"
	ourAddr6 = "2001:db8::1"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// instance returns an Instance with two announcements and the peers.
func instance(peers ...bgp.Peer) bgp.Instance {
	return bgp.Instance{
		AS: ourAS, RouterID: addr(ourAddr), Port: 179, IPv4: true, IPv6: true, Peers: peers,
		Announcements: []bgp.Announcement{
			{Prefix: prefix("10.1.0.0/24"), NextHop: addr(ourAddr)},
			{Prefix: prefix("fd00:1::/64"), NextHop: addr(ourAddr6)},
		},
	}
}

var quick = bgp.Timers{Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second}

// peer returns a peer of another AS with graceful restart.
func peer(address string, change ...func(*bgp.Peer)) bgp.Peer {
	p := bgp.Peer{Name: "n" + address, Address: addr(address), Settings: bgp.Settings{
		AS: theirAS, Timers: quick, Graceful: &bgp.GracefulRestart{RestartTime: 60 * time.Second, StaleTime: 20 * time.Second},
	}}
	for _, c := range change {
		c(&p)
	}
	return p
}

// running is a Speaker that the test runs.
type running struct {
	*Speaker
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
	news   chan struct{}
	log    *logBuffer
	lowest atomic.Int64 // the smallest number of learned routes that was told since it was set
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a speaker with an instance. The test's end stops it.
func start(t *testing.T, want bgp.Instance) *running {
	t.Helper()
	r := &running{t: t, done: make(chan error, 1), news: make(chan struct{}, 1), log: &logBuffer{}}
	r.Speaker = New(slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		r.done <- r.Run(ctx, func() {
			if n := int64(len(r.learned())); n < r.lowest.Load() {
				r.lowest.Store(n)
			}
			select {
			case r.news <- struct{}{}:
			default:
			}
		})
	}()
	r.set(want)
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("speaker's log:\n%s", r.log)
		}
	})
	return r
}

func (r *running) set(want bgp.Instance) {
	r.t.Helper()
	if err := r.Set(context.Background(), want); err != nil {
		r.t.Fatalf("Set: %v", err)
	}
}

// stop ends the speaker as the daemon does.
func (r *running) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	if err := <-r.done; err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

// eventually waits until ok. It is asked after each call of changed, and now and then.
func (r *running) eventually(what string, limit time.Duration, ok func() bool) {
	r.t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-r.news:
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: not within %v; learned %v, sessions %+v", what, limit, r.learned(), r.Sessions())
		}
	}
}

// learned returns the routes as text, without the announcements of the node itself.
func (r *running) learned() []string {
	out := []string{}
	for _, l := range r.Learned() {
		if !l.Local {
			out = append(out, fmt.Sprintf("%v via %v", l.Prefix, l.NextHops))
		}
	}
	return out
}

func (r *running) session(address string) bgp.SessionState {
	for _, s := range r.Sessions() {
		if s.Address == addr(address) {
			return s
		}
	}
	return bgp.SessionState{}
}
