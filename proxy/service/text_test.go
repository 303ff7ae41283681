package service_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// The node in tests is node-a in zone-1. Its pods are 10.244.1.0/24; those of node-b, in zone-1 as well, 10.244.2.0/24; those of node-c,
// in zone-2, 10.244.3.0/24. IPv6 likewise: fd00:1::/64 and so on.
func testNode() *service.Node {
	return &service.Node{
		Name:          "node-a",
		Zone:          "zone-1",
		Addrs:         addrs("192.0.2.1", "2001:db8::1"),
		NodePortAddrs: addrs("192.0.2.1", "2001:db8::1"),
	}
}

func addrs(all ...string) []netip.Addr {
	var as []netip.Addr
	for _, a := range all {
		as = append(as, netip.MustParseAddr(a))
	}
	return as
}

func prefixes(all ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range all {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

func objectName(s string) store.ObjectName {
	ns, name, ok := strings.Cut(s, "/")
	if !ok {
		return store.ObjectName{Namespace: "shop", Name: s}
	}
	return store.ObjectName{Namespace: ns, Name: name}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// web returns the Service shop/web with ClusterIP 10.96.0.7 and the port http, TCP 80, and changes it.
func web(change ...func(*store.Service)) *store.Service {
	s := &store.Service{
		Name:       objectName("web"),
		Created:    epoch,
		Type:       store.ServiceClusterIP,
		ClusterIPs: addrs("10.96.0.7"),
		Ports:      []store.ServicePort{{Name: "http", Protocol: store.TCP, Port: 80}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

// balanced makes it a LoadBalancer with node port 30080 and address 203.0.113.5.
func balanced(s *store.Service) {
	s.Type = store.ServiceLoadBalancer
	s.Ports[0].NodePort = 30080
	s.Ingress = []store.Ingress{{Addr: netip.MustParseAddr("203.0.113.5")}}
}

func externalLocal(s *store.Service) { s.ExternalLocal = true }
func internalLocal(s *store.Service) { s.InternalLocal = true }
func dualStack(s *store.Service)     { s.ClusterIPs = addrs("10.96.0.7", "fd00:96::7") }

// pods returns the EndpointSlice "web-1" of shop/web that has the port http, 8080, on these endpoints; see pod.
func pods(all ...string) *store.EndpointSlice { return podsIn("web-1", all...) }

func podsIn(name string, all ...string) *store.EndpointSlice {
	s := &store.EndpointSlice{
		Name:    objectName(name),
		Service: "web",
		Ports:   []store.EndpointPort{{Name: "http", Protocol: store.TCP, Port: 8080}},
	}
	for _, text := range all {
		s.Endpoints = append(s.Endpoints, pod(text))
	}
	s.IPv6 = len(s.Endpoints) > 0 && s.Endpoints[0].Addr.Is6()
	return s
}

// pod reads an address and what is unusual of an endpoint: "unready", "warming" (serving, but not to be used), "draining" (terminating, still serving), "dying" (terminating,
// serving no more), "published" (terminating, and ready as the Service publishes all), "zones=a,b" and "nodes=a,b" (hints).
func pod(text string) store.Endpoint {
	fields := strings.Fields(text)
	a := netip.MustParseAddr(fields[0])
	e := store.Endpoint{Addr: a, Ready: true, Serving: true}
	third := a.As16()[14]
	if a.Unmap().Is6() {
		third = a.As16()[3]
	}
	switch third {
	case 1:
		e.Node, e.Zone = "node-a", "zone-1"
	case 2:
		e.Node, e.Zone = "node-b", "zone-1"
	case 3:
		e.Node, e.Zone = "node-c", "zone-2"
	}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "unready":
			e.Ready, e.Serving = false, false
		case "warming":
			e.Ready = false
		case "draining":
			e.Ready, e.Terminating = false, true
		case "dying":
			e.Ready, e.Serving, e.Terminating = false, false, true
		case "published":
			e.Serving, e.Terminating = false, true
		case "zones":
			e.HintZones = strings.Split(value, ",")
		case "nodes":
			e.HintNodes = strings.Split(value, ",")
		case "nowhere":
			e.Node, e.Zone = "", ""
		default:
			panic("unknown condition " + f)
		}
	}
	return e
}

// render writes what a Service means, a line for each thing.
func render(s *service.Service) []string {
	if s == nil {
		return nil
	}
	var lines []string
	for _, f := range s.Frontends {
		line := fmt.Sprintf("%s %s: %s", kinds[f.Kind], f.FrontendKey, backends(f.Endpoints, f.Empty))
		if f.Inside != nil {
			line += "; inside: " + backends(f.Inside.Endpoints, f.Inside.Empty)
		}
		line += "; masquerade " + []string{"never", "off-cluster", "always"}[f.Masquerade]
		if f.Allowed != nil {
			line += fmt.Sprintf("; from %v", f.Allowed)
		}
		if f.Affinity != 0 {
			line += "; affinity " + f.Affinity.String()
		}
		if f.Scheduler != service.Random {
			line += "; " + string(f.Scheduler)
		}
		lines = append(lines, line)
	}
	if h := s.HealthCheck; h != nil {
		lines = append(lines, fmt.Sprintf("health check %d: %d", h.Port, h.LocalEndpoints))
	}
	for _, w := range s.Warnings {
		lines = append(lines, "warning: "+w)
	}
	return lines
}

var kinds = map[service.Kind]string{
	service.ClusterIP: "ClusterIP", service.NodePort: "NodePort", service.ExternalIP: "ExternalIP", service.LoadBalancer: "LoadBalancer",
}

// backends writes "ADDRESS:PORT", followed by @ when local and by *WEIGHT.
func backends(all []service.Endpoint, empty service.Empty) string {
	if len(all) == 0 {
		return []string{"reject", "drop"}[empty]
	}
	var words []string
	for _, e := range all {
		w := e.Addr.String()
		if e.Local {
			w += "@"
		}
		if e.Weight != 1 {
			w += fmt.Sprintf("*%d", e.Weight)
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// A resolution is a case of what a Service means.
type resolution struct {
	name   string
	svc    *store.Service
	slices []*store.EndpointSlice
	node   func(*service.Node)
	want   []string
}

func (c resolution) run(t *testing.T) {
	node := testNode()
	if c.node != nil {
		c.node(node)
	}
	got := service.Resolve(c.svc, c.slices, node)
	if diff := cmp.Diff(c.want, render(got)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	for i := range c.slices {
		permuted := slices.Concat(c.slices[i:], c.slices[:i])
		slices.Reverse(permuted)
		for _, s := range permuted {
			slices.Reverse(s.Endpoints)
			slices.Reverse(s.Ports)
		}
		if again := service.Resolve(c.svc, permuted, node); !again.Equal(got) {
			t.Errorf("in another order it is\n%s", strings.Join(render(again), "\n"))
		}
	}
}

func runAll(t *testing.T, cases []resolution) {
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

type sliceList = []*store.EndpointSlice
