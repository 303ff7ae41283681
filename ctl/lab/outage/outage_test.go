package outage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/ping"
)

func TestOutageOfAWindow(t *testing.T) {
	const interval = 10 * time.Millisecond
	tests := []struct {
		name         string
		requests     string // one every 10 ms: "." answered, "x" lost, "?" under way
		since, until int    // in requests
		want         Outage
	}{
		{"all well", "........", 2, 6, Outage{Sent: 4}},
		{"nothing", "", 0, 0, Outage{}},
		{"one lost", "...x....", 2, 6, Outage{Sent: 4, Lost: 1, Gap: 2 * interval}},
		{"the longest counts", ".x..xxx.", 0, 8, Outage{Sent: 8, Lost: 4, Gap: 4 * interval}},
		{"two gaps do not add up", ".xx.xx.", 0, 7, Outage{Sent: 7, Lost: 4, Gap: 3 * interval}},
		{"lost before and after", ".x....x.", 3, 5, Outage{Sent: 2}},
		{"began before", ".xxx....", 3, 6, Outage{Sent: 3, Lost: 1, Gap: 4 * interval}},
		{"lasts longer", "...xxx..", 1, 4, Outage{Sent: 3, Lost: 1, Gap: 4 * interval}},
		{"lasts on", "...xx???", 1, 5, Outage{Sent: 4, Lost: 2, Gap: 2 * interval}},
		{"never worked", "xxxx", 0, 4, Outage{Sent: 4, Lost: 4, Gap: 3 * interval}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := func(i int) time.Time { return time.Unix(0, 0).Add(time.Duration(i) * interval) }
			var whole, short track
			for i, c := range tt.requests {
				for _, k := range []*track{&whole, &short} {
					r := k.send(at(i))
					switch c {
					case '.':
						k.settle(r, nil)
					case 'x':
						k.settle(r, ping.ErrNoReply)
					}
				}
			}
			ignore := cmpopts.IgnoreFields(Outage{}, "Path", "Err")
			got := whole.outage(at(tt.since), at(tt.until))
			if diff := cmp.Diff(tt.want, got, ignore); diff != "" {
				t.Error(diff)
			}
			if errors.Is(got.Err, ping.ErrNoReply) != (tt.want.Lost > 0) {
				t.Errorf("the reason is %v", got.Err)
			}
			short.forget(at(tt.since))
			if diff := cmp.Diff(tt.want, short.outage(at(tt.since), at(tt.until)), ignore); diff != "" {
				t.Errorf("after what came before was forgotten: %s", diff)
			}
		})
	}
}

func TestSettled(t *testing.T) {
	var k track
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	first, second := k.send(at(10)), k.send(at(20))
	k.settle(second, nil)
	if k.settled(at(15)) || !k.settled(at(10)) {
		t.Error("a request under way counts as settled, or one outside the window does not")
	}
	k.settle(first, ping.ErrNoReply)
	if !k.settled(at(30)) {
		t.Error("a lost request is not settled")
	}
}

func TestWatchSeesAnOutage(t *testing.T) {
	ns, err := netns.Create(fmt.Sprintf("twilltest-%d-outage", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	paths := []Path{
		{From: "a", To: "b", Address: netip.MustParseAddr("127.0.0.1"), Source: ns},
		{From: "a", To: "c", Address: netip.MustParseAddr("127.0.0.2"), Source: ns},
		{From: "a", To: "b", Address: netip.MustParseAddr("::1"), Source: ns},
	}
	w, err := Start(paths, Options{Interval: 2 * time.Millisecond, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	since := time.Now()
	window := func(more int) []Outage { // until each path has sent some more
		for {
			got, until, err := w.Window(ctx, since)
			if err != nil {
				t.Fatal(err)
			}
			if min(got[0].Sent, got[1].Sent, got[2].Sent) >= more {
				since = until
				return got
			}
		}
	}
	silence := func(value string) {
		if err := ns.Sysctl("ipv4/icmp_echo_ignore_all", value); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range window(10) {
		if o.Lost != 0 || o.Gap != 0 || o.Path != paths[i] {
			t.Errorf("before: %+v", o)
		}
	}
	silence("1")
	for i, o := range window(20) {
		if cut := paths[i].Address.Is4(); cut != (o.Lost > 10 && o.Gap >= 20*time.Millisecond) {
			t.Errorf("during: %+v", o)
		}
	}
	silence("0")
	window(20) // the outage's end
	for _, o := range window(10) {
		if o.Lost != 0 {
			t.Errorf("after: %+v", o)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start([]Path{{From: "a", Address: netip.MustParseAddr("::1"), Source: netns.Named("twilltest-nowhere")}}, Options{time.Second, time.Second}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
