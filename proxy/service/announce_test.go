package service_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

func TestAddresses(t *testing.T) {
	all := func(s *store.Service) {
		balanced(s)
		s.ExternalIPs = addrs("198.51.100.9", "203.0.113.5", "198.51.100.9", "2001:db8:9::9")
		s.Ingress = append(s.Ingress, store.Ingress{Addr: netip.MustParseAddr("203.0.113.6"), Proxy: true})
	}
	twoPorts := func(s *store.Service) {
		s.Ports = []store.ServicePort{{Name: "http", Protocol: store.TCP, Port: 80}, {Name: "dns", Protocol: store.UDP, Port: 53}}
	}
	type A = service.Address
	addr := netip.MustParseAddr
	outer := func(local, ready bool) []A {
		return []A{
			{Addr: addr("10.96.0.7"), Kind: service.ClusterIP, Ready: true},
			{Addr: addr("198.51.100.9"), Kind: service.ExternalIP, Local: local, Ready: ready},
			{Addr: addr("203.0.113.5"), Kind: service.ExternalIP, Local: local, Ready: ready},
			{Addr: addr("203.0.113.5"), Kind: service.LoadBalancer, Local: local, Ready: ready},
		}
	}
	for _, c := range []struct {
		name   string
		svc    *store.Service
		slices sliceList
		want   []A
	}{
		{"Cluster", web(all), sliceList{pods("10.244.2.5")}, outer(false, true)},
		{"Cluster without endpoints", web(), nil, []A{{Addr: addr("10.96.0.7")}}},
		{"Local with a local endpoint", web(all, externalLocal), sliceList{pods("10.244.1.5", "10.244.2.5")}, outer(true, true)},
		{"Local without", web(all, externalLocal), sliceList{pods("10.244.2.5")}, outer(true, false)},
		{"Local, the local one drains beside a ready one elsewhere", web(all, externalLocal), sliceList{pods("10.244.1.5 draining", "10.244.2.5")}, outer(true, false)},
		{"Local, all drain", web(all, externalLocal), sliceList{pods("10.244.1.5 draining", "10.244.2.5 draining")}, outer(true, true)},
		{
			"Local, one of two ports has a local endpoint", web(internalLocal, twoPorts), sliceList{pods("10.244.1.5")},
			[]A{{Addr: addr("10.96.0.7"), Local: true, Ready: true}},
		},
		{"internal Local without", web(internalLocal), sliceList{pods("10.244.2.5")}, []A{{Addr: addr("10.96.0.7"), Local: true}}},
		{
			"of each family by itself", web(internalLocal, dualStack), sliceList{pods("10.244.2.5"), podsIn("web-2", "fd00:1::5")},
			[]A{{Addr: addr("10.96.0.7"), Local: true}, {Addr: addr("fd00:96::7"), Local: true, Ready: true}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := service.Resolve(c.svc, c.slices, testNode()).Addrs
			if !slices.Equal(got, c.want) {
				t.Errorf("addresses are\n%+v, want\n%+v", got, c.want)
			}
		})
	}
}

// announcer resolves a Service named name with an external address.
func announcer(name, external string, local bool, endpoints ...string) *service.Service {
	s := web(func(s *store.Service) {
		s.Name = objectName(name)
		s.ExternalIPs, s.ExternalLocal = addrs(external), local
	})
	return service.Resolve(s, sliceList{pods(endpoints...)}, testNode())
}

// routeList writes routes as in "198.51.100.1/32 ExternalIP Local".
func routeList(all []service.Route) (text []string) {
	names := map[service.Kind]string{service.ClusterIP: "ClusterIP", service.ExternalIP: "ExternalIP", service.LoadBalancer: "LoadBalancer"}
	for _, r := range all {
		t := r.Prefix.String() + " " + names[r.Kind]
		if r.Local {
			t += " Local"
		}
		text = append(text, t)
	}
	return text
}

func TestRoutesOfServices(t *testing.T) {
	dual := service.Resolve(web(dualStack, balanced, func(s *store.Service) { s.ExternalIPs = addrs("198.51.100.9", "203.0.113.5") }), nil, testNode())
	for _, c := range []struct {
		name     string
		services []*service.Service
		want     []string
	}{
		{"none", nil, nil},
		{"each kind, of both families, without endpoints", []*service.Service{dual}, []string{
			"10.96.0.7/32 ClusterIP", "198.51.100.9/32 ExternalIP", "203.0.113.5/32 ExternalIP", "203.0.113.5/32 LoadBalancer", "fd00:96::7/128 ClusterIP",
		}},
		{
			"Local where it is", []*service.Service{announcer("a", "198.51.100.1", true, "10.244.1.5"), announcer("b", "198.51.100.2", true, "10.244.2.5")},
			[]string{"10.96.0.7/32 ClusterIP", "198.51.100.1/32 ExternalIP Local"},
		},
		{
			"one address, two Services, one of them local",
			[]*service.Service{announcer("a", "198.51.100.1", true, "10.244.2.5"), announcer("b", "198.51.100.1", true, "10.244.1.5")},
			[]string{"10.96.0.7/32 ClusterIP", "198.51.100.1/32 ExternalIP Local"},
		},
		{
			"one address, both policies",
			[]*service.Service{announcer("a", "198.51.100.1", false, "10.244.2.5"), announcer("b", "198.51.100.1", true, "10.244.1.5")},
			[]string{"10.96.0.7/32 ClusterIP", "198.51.100.1/32 ExternalIP", "198.51.100.1/32 ExternalIP Local"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := service.NewRoutes()
			for _, s := range c.services {
				r.Apply([]service.Change{{New: s}})
			}
			if got := routeList(r.List()); !slices.Equal(got, c.want) {
				t.Errorf("announces %q, want %q", got, c.want)
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	r := service.NewRoutes()
	external := func(name, external string, endpoints ...string) *service.Service {
		s := announcer(name, external, true, endpoints...)
		s.Addrs = slices.DeleteFunc(slices.Clone(s.Addrs), func(a service.Address) bool { return a.Kind != service.ExternalIP })
		return s
	}
	here, there := external("a", "198.51.100.1", "10.244.1.5"), external("a", "198.51.100.1", "10.244.2.5")
	sharer := external("b", "198.51.100.1", "10.244.1.5")
	moved := external("a", "198.51.100.2", "10.244.1.5")
	const one, two = "198.51.100.1/32 ExternalIP Local", "198.51.100.2/32 ExternalIP Local"
	for _, step := range []struct {
		name    string
		changes []service.Change
		changed bool
		want    []string
	}{
		{"nothing", nil, false, nil},
		{"a Service with a local endpoint", []service.Change{{New: here}}, true, []string{one}},
		{"the endpoint goes", []service.Change{{Old: here, New: there}}, true, nil},
		{"and comes back", []service.Change{{Old: there, New: here}}, true, []string{one}},
		{"another with the same address", []service.Change{{New: sharer}}, false, []string{one}},
		{"the first moves", []service.Change{{Old: here, New: moved}}, true, []string{one, two}},
		{"they change places", []service.Change{{Old: sharer}, {Old: moved, New: here}}, true, []string{one}},
		{"one goes, another comes", []service.Change{{Old: here}, {New: sharer}}, false, []string{one}},
		{"the last goes", []service.Change{{Old: sharer}}, true, nil},
	} {
		if changed := r.Apply(step.changes); changed != step.changed {
			t.Errorf("%s: changed is %v, want %v", step.name, changed, step.changed)
		}
		if got := routeList(r.List()); !slices.Equal(got, step.want) {
			t.Errorf("%s: announces %q, want %q", step.name, got, step.want)
		}
	}
}
