package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/store"
)

// The default route may move to another link while nothing happens to the old one.
func TestDefaultRouteMoves(t *testing.T) {
	tests := []struct {
		name    string
		event   kernel.Event
		follows bool
	}{
		{"added", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Route: kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0")}}, true},
		{"deleted", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Deleted: true, Route: kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0")}}, true},
		{"of IPv6", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Route: kernel.Route{Dst: netip.MustParsePrefix("::/0")}}, true},
		{"another route", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Route: kernel.Route{Dst: netip.MustParsePrefix("203.0.113.0/24")}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				w.start()
				w.pass(time.Minute)
				w.kernel.PutLink(kernel.Link{Name: "eth1", MTU: 1400, Up: true}, kerneltest.Foreign)
				w.uplink.set(kernel.Uplink{Name: "eth1", MTU: 1400, Addresses: []netip.Prefix{
					netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")}})
				w.monitor.event(tt.event)
				w.pass(100 * time.Millisecond)
				if follows := w.host.last(t).MTU == 1330; follows != tt.follows {
					t.Fatalf("the uplink is followed: %v, want %v", follows, tt.follows)
				}
				if watched := slices.Contains(w.monitor.links, "eth1"); watched != tt.follows {
					t.Errorf("the links of interest are %v", w.monitor.links)
				}
				w.wantReady()
			})
		})
	}
}

// An uplink with routes is one by which a backend finds next hops: it is looked at again when they change, and when one of their links goes down.
func TestRoutesOfTheUplinkAreFollowed(t *testing.T) {
	route := func(dst, link string) kernel.Route {
		return kernel.Route{Dst: netip.MustParsePrefix(dst), NextHops: []kernel.NextHop{{Link: link}}}
	}
	down := func(link string) kernel.Event { return kernel.Event{Kind: kernel.KindLink, Link: link} }
	tests := []struct {
		name    string
		event   kernel.Event
		follows bool
	}{
		{"a route was added", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Route: route("203.0.113.0/24", "eth0")}, true},
		{"a route was deleted", kernel.Event{Kind: kernel.KindRoute, Foreign: true, Deleted: true, Route: route("203.0.113.0/24", "eth1")}, true},
		{"a link of theirs went down", down("eth1"), true},
		{"a link of theirs is as it was", kernel.Event{Kind: kernel.KindLink, Link: "eth1", Intact: true}, false},
		{"another link went down", down("eth2"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				uplink, _ := w.uplink.get()
				uplink.Routes = []kernel.Route{route("192.0.2.0/24", "eth0"), route("198.51.100.0/24", "eth1")}
				w.uplink.set(uplink)
				opts, looks := w.options(), 0
				opts.Uplink = func(store.Network) (kernel.Uplink, error) {
					looks++
					return w.uplink.get()
				}
				w.startWith(opts)
				w.pass(time.Minute)
				if !slices.Contains(w.monitor.links, "eth1") {
					t.Errorf("the links of interest are %v", w.monitor.links)
				}
				looks = 0
				w.monitor.event(tt.event)
				w.pass(time.Second)
				if follows := looks > 0; follows != tt.follows {
					t.Errorf("the uplink was looked at %d times", looks)
				}
			})
		})
	}
}

// A program that changes routes without end costs a few looks at the uplink a second, and only for default routes.
func TestRouteChurnIsBounded(t *testing.T) {
	for dst, most := range map[string]int{"0.0.0.0/0": 40, "::/0": 40, "203.0.113.0/24": 0} {
		t.Run(dst, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				opts := w.options()
				looks := 0
				opts.Uplink = func(store.Network) (kernel.Uplink, error) {
					looks++
					return w.uplink.get()
				}
				w.startWith(opts)
				w.pass(time.Minute)
				looks = 0
				for i := range 20_000 { // in 10 s
					w.monitor.event(kernel.Event{Kind: kernel.KindRoute, Foreign: true, Deleted: i%2 == 1, Route: kernel.Route{Dst: netip.MustParsePrefix(dst)}})
					w.pass(500 * time.Microsecond)
				}
				if looks > most {
					t.Errorf("looked for the uplink %d times in 10 s, want at most %d", looks, most)
				}
				w.wantReady()
			})
		})
	}
}
