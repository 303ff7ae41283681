package service_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// A world is all that a store holds.
type world struct {
	services map[store.ObjectName]*store.Service
	slices   map[store.ObjectName]*store.EndpointSlice
}

func worldOf(objects ...any) world {
	w := world{map[store.ObjectName]*store.Service{}, map[store.ObjectName]*store.EndpointSlice{}}
	for _, o := range objects {
		switch o := o.(type) {
		case *store.Service:
			w.services[o.Name] = o
		case *store.EndpointSlice:
			w.slices[o.Name] = o
		}
	}
	return w
}

// reset tells everything, and change tells some things.
func (w world) reset() store.ServiceChanges {
	return store.ServiceChanges{Reset: true, Services: w.services, Slices: w.slices}
}

func (w world) change() store.ServiceChanges {
	return store.ServiceChanges{Services: w.services, Slices: w.slices}
}

func gone(names ...string) store.ServiceChanges {
	c := worldOf().change()
	for _, n := range names {
		if kind, name, _ := cutKind(n); kind == "slice" {
			c.Slices[objectName(name)] = nil
		} else {
			c.Services[objectName(name)] = nil
		}
	}
	return c
}

func cutKind(s string) (kind, name string, ok bool) {
	n, err := fmt.Sscan(s, &kind, &name)
	return kind, name, n == 2 && err == nil
}

// fresh resolves everything without memory.
func (w world) fresh(node *service.Node) (claimed, effective []*service.Service) {
	of := map[store.ObjectName][]*store.EndpointSlice{}
	for _, s := range w.slices {
		n := store.ObjectName{Namespace: s.Name.Namespace, Name: s.Service}
		of[n] = append(of[n], s)
	}
	claims := service.NewClaims()
	var changes []service.Change
	for name, s := range w.services {
		if r := service.Resolve(s, of[name], node); r != nil {
			claimed = append(claimed, r)
			changes = append(changes, service.Change{New: r})
		}
	}
	claims.Apply(changes)
	return claimed, claims.All()
}

func named(name string) func(*store.Service) {
	return func(s *store.Service) { s.Name = objectName(name) }
}

func at(clusterIP string) func(*store.Service) {
	return func(s *store.Service) { s.ClusterIPs = addrs(clusterIP) }
}

// told writes changes: the name and the endpoints of the first frontend, before and after.
func told(changes []service.Change) []string {
	var lines []string
	side := func(s *service.Service) string {
		if s == nil {
			return "nothing"
		}
		return backends(s.Frontends[0].Endpoints, s.Frontends[0].Empty)
	}
	for _, c := range changes {
		name := c.New
		if name == nil {
			name = c.Old
		}
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", name.Name.Name, side(c.Old), side(c.New)))
	}
	return lines
}

func TestTracker(t *testing.T) {
	zone := func(z string) store.ServiceChanges { return store.ServiceChanges{Zone: &z} }
	type step struct {
		name  string
		apply any // store.ServiceChanges or service.Node
		want  []string
	}
	cart := func(change ...func(*store.Service)) *store.Service {
		return web(append(slices.Clone(change), named("cart"), at("10.96.0.8"))...)
	}
	renamed := podsIn("web-2", "10.244.1.5")
	ofCart := pods("10.244.1.5")
	ofCart.Service = "cart"
	hinted := pods("10.244.1.5 zones=zone-1", "10.244.3.5 zones=zone-2")
	moved := *testNode()
	moved.NodePortAddrs, moved.Name = addrs("192.0.2.99"), "node-c"
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing before the first reset", []step{
			{"a change", worldOf(web(), pods("10.244.1.5")).change(), nil},
			{"another node", moved, nil},
			{"a reset, without what came before", worldOf(cart()).reset(), []string{"cart: nothing -> reject"}},
		}},
		{"one at a time", []step{
			{"reset to nothing", worldOf().reset(), nil},
			{"slice before its Service", worldOf(pods("10.244.1.5")).change(), nil},
			{"Service", worldOf(web()).change(), []string{"web: nothing -> 10.244.1.5:8080@"}},
			{"the same", worldOf(web(), pods("10.244.1.5")).change(), nil},
			{"another Service", worldOf(cart()).change(), []string{"cart: nothing -> reject"}},
			{"endpoint", worldOf(pods("10.244.1.5", "10.244.2.5")).change(), []string{"web: 10.244.1.5:8080@ -> 10.244.1.5:8080@ 10.244.2.5:8080"}},
			{"second slice", worldOf(podsIn("web-2", "10.244.3.5")).change(),
				[]string{"web: 10.244.1.5:8080@ 10.244.2.5:8080 -> 10.244.1.5:8080@ 10.244.2.5:8080 10.244.3.5:8080"}},
			{"first slice gone", gone("slice web-1"), []string{"web: 10.244.1.5:8080@ 10.244.2.5:8080 10.244.3.5:8080 -> 10.244.3.5:8080"}},
			{"Service gone", gone("service web"), []string{"web: 10.244.3.5:8080 -> nothing"}},
			{"gone again", gone("service web", "service other", "slice other"), nil},
			{"back again, its slice is still there", worldOf(web()).change(), []string{"web: nothing -> 10.244.3.5:8080"}},
		}},
		{"slices that move", []step{
			{"reset", worldOf(web(), cart(), pods("10.244.1.5")).reset(), []string{"cart: nothing -> reject", "web: nothing -> 10.244.1.5:8080@"}},
			{"renamed", store.ServiceChanges{Slices: map[store.ObjectName]*store.EndpointSlice{renamed.Name: renamed, objectName("web-1"): nil}}, nil},
			{"renamed back", store.ServiceChanges{Slices: map[store.ObjectName]*store.EndpointSlice{renamed.Name: nil, objectName("web-1"): pods("10.244.1.5")}}, nil},
			{"to another Service", worldOf(ofCart).change(), []string{"cart: reject -> 10.244.1.5:8080@", "web: 10.244.1.5:8080@ -> reject"}},
			{"to none", worldOf(func() *store.EndpointSlice { s := pods("10.244.1.5"); s.Service = ""; return s }()).change(), []string{"cart: 10.244.1.5:8080@ -> reject"}},
		}},
		{"reset removes what is gone", []step{
			{"reset", worldOf(web(), cart(), pods("10.244.1.5"), podsIn("web-2", "10.244.2.5")).reset(),
				[]string{"cart: nothing -> reject", "web: nothing -> 10.244.1.5:8080@ 10.244.2.5:8080"}},
			{"reset with the same", worldOf(web(), cart(), pods("10.244.1.5"), podsIn("web-2", "10.244.2.5")).reset(), nil},
			{"reset without a slice and a Service", worldOf(web(), podsIn("web-2", "10.244.2.5")).reset(),
				[]string{"cart: reject -> nothing", "web: 10.244.1.5:8080@ 10.244.2.5:8080 -> 10.244.2.5:8080"}},
			{"reset to nothing", worldOf().reset(), []string{"web: 10.244.2.5:8080 -> nothing"}},
		}},
		{"the node", []step{
			{"reset", worldOf(web(), cart(), hinted).reset(), []string{"cart: nothing -> reject", "web: nothing -> 10.244.1.5:8080@"}},
			{"the same node", *testNode(), nil},
			{"another zone from the store", zone("zone-2"), []string{"web: 10.244.1.5:8080@ -> 10.244.3.5:8080"}},
			{"the store's zone goes before the node's", *testNode(), nil},
			{"the same zone", zone("zone-2"), nil},
			{"another name", moved, []string{"web: 10.244.3.5:8080 -> 10.244.3.5:8080@"}},
			{"no zone", zone(""), []string{"web: 10.244.3.5:8080@ -> 10.244.1.5:8080 10.244.3.5:8080@"}},
		}},
		{"to and fro within one step", []step{
			{"reset", worldOf(web(), pods("10.244.1.5")).reset(), []string{"web: nothing -> 10.244.1.5:8080@"}},
			{"to and fro", []store.ServiceChanges{gone("service web", "slice web-1"), worldOf(web(), pods("10.244.1.5")).change()}, nil},
			{"came and went", []store.ServiceChanges{worldOf(cart()).change(), gone("service cart")}, nil},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tracker := service.NewTracker(*testNode())
			for _, s := range c.steps {
				switch a := s.apply.(type) {
				case store.ServiceChanges:
					tracker.Apply(a)
				case []store.ServiceChanges:
					for _, c := range a {
						tracker.Apply(c)
					}
				case service.Node:
					tracker.SetNode(a)
				}
				if diff := cmp.Diff(s.want, told(tracker.Next())); diff != "" {
					t.Errorf("%s: want -, got +:\n%s", s.name, diff)
				}
			}
		})
	}
}

func TestTrackerNetworks(t *testing.T) {
	tracker := service.NewTracker(*testNode())
	tracker.Apply(store.ServiceChanges{Reset: true, Networks: prefixes("10.96.0.0/12")})
	tracker.Apply(store.ServiceChanges{})
	if got := tracker.Networks(); !slices.Equal(got, prefixes("10.96.0.0/12")) {
		t.Errorf("networks are %v", got)
	}
	tracker.Apply(store.ServiceChanges{Networks: []netip.Prefix{}})
	if got := tracker.Networks(); len(got) != 0 {
		t.Errorf("networks are %v", got)
	}
}

func TestTrackerGet(t *testing.T) {
	tracker := service.NewTracker(*testNode())
	tracker.Apply(worldOf(web(), pods("10.244.1.5")).reset())
	changes := tracker.Next()
	if len(changes) != 1 || tracker.Get(objectName("web")) != changes[0].New || tracker.Get(objectName("cart")) != nil {
		t.Error("Get returns what Next told, and nil for others")
	}
	if all := tracker.All(); len(all) != 1 || all[0] != changes[0].New {
		t.Errorf("all are %v", all)
	}
}
