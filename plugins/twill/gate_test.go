//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/delegate"
	"github.com/twill-cni/twill/policy/gate"
)

// many is how many datagrams a test sends before it believes that none gets through.
const many = 300

// A pod that sends, and is sent to, from its first instant gets nothing through while nobody knows its policies, and everything once they are known.
func TestNoLeakAtStart(t *testing.T) {
	silent := func(g *gated) {
		g.serve(func(context.Context, []netip.Addr, func(gate.State)) {})
	}
	ready := func(g *gated) {
		g.serve(func(_ context.Context, addrs []netip.Addr, tell func(gate.State)) {
			tell(gate.StateClosed)
			if err := g.open(addrs...); err != nil {
				t.Error(err)
			}
			tell(gate.StateReady)
		})
	}
	for name, tt := range map[string]struct {
		daemon func(*gated)
		opens  bool
	}{
		"no daemon":                  {func(*gated) {}, false},
		"a daemon that says nothing": {silent, false},
		"a daemon that is ready":     {ready, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGated(t)
			neighbour := g.neighbour()
			to4, to6 := neighbour.result.IPs[0].Address.Addr(), neighbour.result.IPs[1].Address.Addr()
			tt.daemon(g)
			p := newNetns(t)
			out, across, in := g.outside.sink(9), neighbour.sink(9), p.sink(7)
			sent := p.stream(5000, ends(9, outside4.Addr(), outside6.Addr(), to4, to6)...)
			g.outside.stream(5000, ends(7, addr4, addr6)...)
			neighbour.stream(5001, ends(7, addr4, addr6)...)
			start := time.Now()
			g.must(call{verb: "ADD", id: "a", netns: p.path, keys: forced(addr4, addr6)})
			took := time.Since(start)
			if tt.opens {
				if took > gate.MaxWait/2 {
					t.Errorf("ADD took %s", took)
				}
				eventually(t, "datagrams come through", func() bool { return out.Load() > many && across.Load() > many && in.Load() > many })
				return
			}
			if took < gate.MaxWait || took > gate.MaxWait+700*time.Millisecond {
				t.Errorf("ADD took %s", took)
			}
			eventually(t, "everybody sends", func() bool { return sent.Load() > many && g.refused() > 5*many })
			if out.Load()+across.Load()+in.Load() != 0 {
				t.Errorf("came through: %d to outside, %d to the neighbour, %d to the pod", out.Load(), across.Load(), in.Load())
			}
			t.Logf("ADD took %s; refused %d, came through 0", took, g.refused())
		})
	}
}

// neighbour is a pod whose policies are known to allow everything.
func (g *gated) neighbour() pod {
	g.t.Helper()
	p := g.addUngated("neighbour", nil)
	if err := g.open(p.result.IPs[0].Address.Addr(), p.result.IPs[1].Address.Addr()); err != nil {
		g.t.Fatal(err)
	}
	return p
}

// addUngated attaches a pod as if the daemon were there.
func (g *gated) addUngated(id string, keys map[string]any) pod {
	g.t.Helper()
	policy := g.conf["policy"]
	delete(g.conf, "policy")
	p := g.add(id, keys)
	g.conf["policy"] = policy
	return p
}

// forced asks for addresses.
func forced(addrs ...netip.Addr) map[string]any {
	var ips []string
	for _, a := range addrs {
		ips = append(ips, a.String())
	}
	return map[string]any{"runtimeConfig": map[string]any{"ips": ips}}
}

var addr4, addr6 = netip.MustParseAddr("10.5.1.77"), netip.MustParseAddr("fd00:5:1::77")

// used leaves what a pod with the addresses leaves when it goes while no daemon runs: open elements, and connections of a machine outside that goes on
// sending. seen counts what gets to whoever has the addresses.
func (g *gated) used() (stop func()) {
	g.t.Helper()
	if err := g.open(addr4, addr6); err != nil {
		g.t.Fatal(err)
	}
	seen := g.addUngated("before", forced(addr4, addr6)).sink(7)
	g.outside.stream(5000, ends(7, addr4, addr6)...)
	eventually(g.t, "the earlier pod is reached", func() bool { return seen.Load() > many })
	return func() {
		g.t.Helper()
		g.must(call{verb: "DEL", id: "before"})
		if n := g.opened(); n != 6 {
			g.t.Fatalf("the earlier pod left %d open elements, want 6", n)
		}
	}
}

// A pod with the addresses of one that has gone inherits nothing from it, whether the daemon is dead or hangs.
func TestNoLeakFromEarlierPod(t *testing.T) {
	for name, daemon := range map[string]func(g *gated){
		"no daemon":                  func(*gated) {},
		"a daemon that says nothing": func(g *gated) { g.serve(func(context.Context, []netip.Addr, func(gate.State)) {}) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGated(t)
			leave := g.used()
			p := newNetns(t)
			in, out := p.sink(7), g.outside.sink(9)
			sent := p.stream(5000, ends(9, outside4.Addr(), outside6.Addr())...)
			leave()
			daemon(g)
			g.must(call{verb: "ADD", id: "a", netns: p.path, keys: forced(addr4, addr6)})
			refused := g.refused()
			eventually(t, "both send", func() bool { return sent.Load() > many && g.refused() > refused+many })
			if in.Load() != 0 || out.Load() != 0 {
				t.Errorf("%d datagrams reached the pod, %d left it", in.Load(), out.Load())
			}
			if n := g.opened(); n != 0 {
				t.Errorf("%d elements are open", n)
			}
		})
	}
}

// An ADD that is killed on its way leaves no pod that is open by what another left.
func TestNoLeakFromKilledAdd(t *testing.T) {
	for _, failpoint := range []string{"add-ask", "add-alone", "add-shut", "add-closed", "add-dropped", "add-up", "add-pod", "add-announce"} {
		t.Run(failpoint, func(t *testing.T) {
			g := newGated(t)
			leave := g.used()
			p := newNetns(t)
			in, out := p.sink(7), g.outside.sink(9)
			p.stream(5000, ends(9, outside4.Addr(), outside6.Addr())...)
			leave()
			c := call{verb: "ADD", id: "a", netns: p.path, keys: forced(addr4, addr6), failpoint: failpoint}
			before := g.left()
			if _, err := g.run(c); !errors.Is(err, errDied) {
				t.Fatalf("have error %v, want it killed", err)
			}
			g.must(call{verb: "DEL", id: "a", netns: p.path})
			if in.Load() != 0 || out.Load() != 0 {
				t.Errorf("%d datagrams reached the pod, %d left it", in.Load(), out.Load())
			}
			if diff := cmp.Diff(before, g.left()); diff != "" {
				t.Errorf("left behind (+), or lost (-):\n%s", diff)
			}
		})
	}
}

// When the pod cannot be closed it is not attached.
func TestAddThatCannotBeClosed(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(g *gated) error
	}{
		{"somebody holds the table", func(g *gated) error {
			release, err := gate.Hold(t.Context(), g.runDir())
			t.Cleanup(release)
			return err
		}},
		{"the lock cannot be had", func(g *gated) error { return os.Mkdir(gate.LockPath(g.runDir()), 0o700) }},
		{"the table is another", func(g *gated) error {
			return g.tables.SyncTables(t.Context(), []kernel.Table{{Family: gate.Family, Name: gate.TableName,
				Sets: []kernel.Set{{Name: gate.SetEgress4, Key: []kernel.Type{kernel.TypeIPv6Addr, kernel.TypeMark}}}}}, nil)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGated(t)
			if err := tt.spoil(g); err != nil {
				t.Fatal(err)
			}
			before := g.left()
			_, err := g.run(call{verb: "ADD", id: "a", netns: newNetns(t).path})
			var printed *delegate.Error
			if !errors.As(err, &printed) || printed.Code != codeNotClosed {
				t.Fatalf("have error %v, want code %d", err, codeNotClosed)
			}
			t.Log(printed.Msg)
			if diff := cmp.Diff(before, g.left()); diff != "" {
				t.Errorf("left behind (+), or lost (-):\n%s", diff)
			}
		})
	}
}

// The daemon hears of the ADD's end when the record is complete, and of a killed one.
func TestDaemonHearsTheEnd(t *testing.T) {
	g := newGated(t)
	type end struct{ complete, there bool }
	ended := make(chan end, 1)
	g.serve(func(ctx context.Context, addrs []netip.Addr, tell func(gate.State)) {
		tell(gate.StateReady)
		<-ctx.Done()
		path := filepath.Join(g.runDir(), "attachments/net/a:eth0")
		_, complete := os.Stat(path)
		_, adding := os.Stat(path + ":adding")
		ended <- end{complete == nil, complete == nil || adding == nil}
	})
	p := newNetns(t)
	g.must(call{verb: "ADD", id: "a", netns: p.path})
	if e := <-ended; !e.complete {
		t.Error("the daemon hears of the end before the record is complete")
	}
	g.must(call{verb: "DEL", id: "a"})
	if _, err := g.run(call{verb: "ADD", id: "a", netns: p.path, failpoint: "add-up"}); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	<-ended
	if _, err := g.run(call{verb: "ADD", id: "a", netns: "/none"}); err == nil {
		t.Error("an ADD without a namespace succeeds")
	}
}

// BenchmarkAdd is an ADD as a runtime sees it, from the start of the program to its result, with a daemon that opens each pod at once.
func BenchmarkAdd(b *testing.B) {
	for name, policies := range map[string]bool{"without policies": false, "with policies": true} {
		b.Run(name, func(b *testing.B) {
			g := newGated(b)
			if !policies {
				delete(g.conf, "policy")
			}
			g.serve(func(_ context.Context, addrs []netip.Addr, tell func(gate.State)) {
				tell(gate.StateClosed)
				if err := g.open(addrs...); err != nil {
					b.Error(err)
				}
				tell(gate.StateReady)
			})
			p := newNetns(b)
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				g.must(call{verb: "ADD", id: "a", netns: p.path})
				took = append(took, time.Since(start))
				b.StopTimer()
				g.must(call{verb: "DEL", id: "a"})
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
