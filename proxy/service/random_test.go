package service_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// A dice makes random objects from a universe so small that they meet.
type dice struct{ *rand.Rand }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func (d dice) serviceName() store.ObjectName {
	return store.ObjectName{Namespace: pick(d, "shop", "bank"), Name: fmt.Sprintf("s%d", d.IntN(5))}
}

func (d dice) sliceName() store.ObjectName {
	return store.ObjectName{Namespace: pick(d, "shop", "bank"), Name: fmt.Sprintf("e%d", d.IntN(8))}
}

func (d dice) service(name store.ObjectName) *store.Service {
	s := &store.Service{
		Name: name, Created: epoch.Add(time.Duration(d.IntN(3)) * time.Hour), Type: store.ServiceLoadBalancer,
		ClusterIPs:    addrs(fmt.Sprintf("10.96.0.%d", d.IntN(12))),
		ExternalLocal: d.chance(30), InternalLocal: d.chance(30), HealthCheckNodePort: uint16(d.IntN(2) * 32000),
	}
	if d.chance(50) {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(fmt.Sprintf("fd00:96::%d", d.IntN(12))))
	}
	for i := range 1 + d.IntN(2) {
		s.Ports = append(s.Ports, store.ServicePort{
			Name: []string{"http", "dns"}[i], Protocol: []store.Protocol{store.TCP, store.UDP}[i], Port: pick(d, uint16(80), 81), NodePort: pick(d, uint16(0), 30080, 80),
		})
	}
	for range d.IntN(3) {
		s.ExternalIPs = append(s.ExternalIPs, pick(d, addrs("198.51.100.1", "198.51.100.2", "192.0.2.1", "10.96.0.3", "2001:db8:9::9")...))
	}
	for range d.IntN(3) {
		s.Ingress = append(s.Ingress, store.Ingress{Addr: pick(d, addrs("198.51.100.1", "203.0.113.5", "2001:db8:5::5")...), Proxy: d.chance(20)})
	}
	if d.chance(20) {
		s.SourceRanges = prefixes(pick(d, "198.51.100.0/24", "0.0.0.0/0", "192.0.2.0/24"))
	}
	if d.chance(20) {
		s.Weights = map[string]uint32{pick(d, "node-a", "node-b", "zone-2", "10.244.1.1"): uint32(d.IntN(3))}
	}
	switch {
	case d.chance(5):
		s.Headless = true
	case d.chance(5):
		s.ProxyName = "mesh"
	case d.chance(5):
		s.Scheduler = pick(d, "rr", "mh", "what")
	}
	return s
}

func (d dice) slice(name store.ObjectName) *store.EndpointSlice {
	s := &store.EndpointSlice{Name: name, Service: d.serviceName().Name, IPv6: d.chance(30)}
	for i, port := range []string{"http", "dns"} {
		if d.chance(80) {
			s.Ports = append(s.Ports, store.EndpointPort{Name: port, Protocol: []store.Protocol{store.TCP, store.UDP}[i], Port: pick(d, uint16(8080), 8081)})
		}
	}
	for range d.IntN(5) {
		words := []string{fmt.Sprintf("10.244.%d.%d", 1+d.IntN(3), d.IntN(3))}
		if s.IPv6 {
			words[0] = fmt.Sprintf("fd00:%d::%d", 1+d.IntN(3), d.IntN(3))
		}
		if d.chance(40) {
			words = append(words, pick(d, "unready", "draining", "dying", "published", "nowhere"))
		}
		if d.chance(60) {
			words = append(words, "zones="+pick(d, "zone-1", "zone-2"))
		}
		if d.chance(40) {
			words = append(words, "nodes="+pick(d, "node-a", "node-b"))
		}
		s.Endpoints = append(s.Endpoints, pod(strings.Join(words, " ")))
	}
	return s
}

// change changes w at random and returns what a store would tell of it.
func (d dice) change(w world) store.ServiceChanges {
	c := worldOf().change()
	for range 1 + d.IntN(3) {
		if name := d.serviceName(); d.chance(40) {
			delete(w.services, name)
			c.Services[name] = nil
			if d.chance(70) {
				w.services[name] = d.service(name)
				c.Services[name] = w.services[name]
			}
			continue
		}
		name := d.sliceName()
		delete(w.slices, name)
		c.Slices[name] = nil
		if d.chance(80) {
			w.slices[name] = d.slice(name)
			c.Slices[name] = w.slices[name]
		}
	}
	if d.chance(5) {
		return w.reset()
	}
	return c
}

// play runs random steps against one Tracker and compares it after each with a computation from nothing.
func play(t *testing.T, seed uint64, steps int) {
	d := dice{rand.New(rand.NewPCG(seed, seed))}
	node, w := *testNode(), worldOf()
	tracker, routes := service.NewTracker(node), service.NewRoutes()
	tracker.Apply(w.reset())
	last := map[store.ObjectName]*service.Service{}
	for range steps {
		for range 1 + d.IntN(3) {
			tracker.Apply(d.change(w))
		}
		if d.chance(10) {
			node.Zone, node.Name = pick(d, "zone-1", "zone-2", ""), pick(d, "node-a", "node-b")
			node.NodePortAddrs = addrs(pick(d, "192.0.2.1", "192.0.2.2"))
			tracker.SetNode(node)
		}
		before := routes.List()
		changes := tracker.Next()
		for _, c := range changes {
			name := c.New
			if name == nil {
				name = c.Old
			}
			if c.Old != last[name.Name] || c.Old.Equal(c.New) {
				t.Fatalf("seed %d: %s: the change is from what was not so, or changes nothing", seed, name.Name)
			}
			if last[name.Name] = c.New; c.New == nil {
				delete(last, name.Name)
			}
		}
		claimed, want := w.fresh(&node)
		checkHolders(t, claimed, want)
		compareAll(t, seed, want, tracker.All(), last)
		if moved := routes.Apply(changes); moved != !slices.Equal(before, routes.List()) {
			t.Fatalf("seed %d: routes say changed: %v", seed, moved)
		}
		fresh := service.NewRoutes()
		for _, s := range want {
			fresh.Apply([]service.Change{{New: s}})
		}
		if got, want := routes.List(), fresh.List(); !slices.Equal(got, want) {
			t.Fatalf("seed %d: announces %v, want %v", seed, got, want)
		}
	}
}

// compareAll compares what is there with what should be, and with what the changes added up to.
func compareAll(t *testing.T, seed uint64, want, got []*service.Service, last map[store.ObjectName]*service.Service) {
	t.Helper()
	if len(want) != len(got) || len(want) != len(last) {
		t.Fatalf("seed %d: %d Services, %d by changes, want %d", seed, len(got), len(last), len(want))
	}
	for i := range want {
		if !want[i].Equal(got[i]) || last[got[i].Name] != got[i] {
			t.Fatalf("seed %d: it is\n%s\nwant\n%s", seed, strings.Join(render(got[i]), "\n"), strings.Join(render(want[i]), "\n"))
		}
	}
}

// The Tracker's memory makes no difference.
func TestTrackerRandom(t *testing.T) {
	for seed := range uint64(150) {
		play(t, seed, 40)
	}
}

func FuzzTracker(f *testing.F) {
	f.Add(uint64(1), uint8(10))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) { play(t, seed, int(steps)) })
}

// The same facts told one by one in any order, in pieces, together and twice end in the same.
func TestTrackerOrder(t *testing.T) {
	for seed := range uint64(50) {
		d := dice{rand.New(rand.NewPCG(seed, 7))}
		w := worldOf()
		for range 30 {
			d.change(w)
		}
		_, want := w.fresh(testNode())
		var pieces []store.ServiceChanges
		for _, s := range w.services {
			pieces = append(pieces, worldOf(s).change())
		}
		for _, s := range w.slices {
			pieces = append(pieces, worldOf(s).change())
		}
		pieces = append(pieces, pieces[:len(pieces)/2]...)
		for range 5 {
			d.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			tracker := service.NewTracker(*testNode())
			tracker.Apply(worldOf().reset())
			for _, p := range pieces {
				tracker.Apply(p)
				if d.chance(30) {
					tracker.Next()
				}
			}
			tracker.Next()
			last := map[store.ObjectName]*service.Service{}
			for _, s := range tracker.All() {
				last[s.Name] = s
			}
			compareAll(t, seed, want, tracker.All(), last)
		}
	}
}
