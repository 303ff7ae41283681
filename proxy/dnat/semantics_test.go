package dnat

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// family is what a test needs of one: the same tests run for both.
type family struct {
	name   string
	config Config
	text   func(v4 string) string // an address of this family for one of IPv4
}

func families() []family {
	networks := func(text func(string) string, bits int, addrs ...string) (out []netip.Prefix) {
		for _, a := range addrs {
			out = append(out, netip.PrefixFrom(netip.MustParseAddr(text(a)), bits))
		}
		return out
	}
	four := func(a string) string { return a }
	six := func(a string) string { return "fd00::" + strings.NewReplacer(".", ":").Replace(a) }
	config := func(f kernel.TableFamily, text func(string) string, bits int) Config {
		return Config{Family: f, PodNetworks: networks(text, bits-16, "10.1.0.0"), NodePodNetworks: networks(text, bits-8, "10.1.1.0"),
			ServiceNetworks: networks(text, bits-16, "10.96.0.0"), MasqueradeBit: 14, AffinitySize: 1000, DropInvalid: true}
	}
	// An IPv6 address here has a group for each number of the IPv4 address, so a /16 there is a /96 here, and a /24 a /112.
	c6 := config(kernel.FamilyIPv6, six, 128)
	c6.PodNetworks, c6.NodePodNetworks = networks(six, 96, "10.1.0.0"), networks(six, 112, "10.1.1.0")
	c6.ServiceNetworks = networks(six, 96, "10.96.0.0")
	return []family{{"IPv4", config(kernel.FamilyIPv4, four, 32), four}, {"IPv6", c6, six}}
}

func (f family) addr(v4 string) netip.Addr { return netip.MustParseAddr(f.text(v4)) }

// at returns an address and a port, written ADDRESS:PORT in IPv4.
func (f family) at(s string) netip.AddrPort {
	four := netip.MustParseAddrPort(s)
	return netip.AddrPortFrom(f.addr(four.Addr().String()), four.Port())
}

// key returns a TCP frontend.
func (f family) key(s string) service.FrontendKey {
	at := f.at(s)
	return service.FrontendKey{Addr: at.Addr(), Protocol: store.TCP, Port: at.Port()}
}

// backends returns endpoints of weight 1, local ones when they are in the node's own network 10.1.1.0/24.
func (f family) backends(all ...string) (out []service.Endpoint) {
	for _, s := range all {
		out = append(out, service.Endpoint{Addr: f.at(s), Local: strings.HasPrefix(s, "10.1.1."), Weight: 1})
	}
	return out
}

// frontend returns one of type ClusterIP.
func (f family) frontend(at string, endpoints ...string) service.Frontend {
	return service.Frontend{FrontendKey: f.key(at), Endpoints: f.backends(endpoints...), Masquerade: service.MasqueradeOffCluster, Scheduler: service.Random}
}

func svc(name string, frontends ...service.Frontend) *service.Service {
	return &service.Service{Name: store.ObjectName{Namespace: "ns", Name: name}, Frontends: frontends}
}

func changes(all ...*service.Service) (out []Change) {
	for _, s := range all {
		out = append(out, Change{s.Name, s})
	}
	return out
}

// targets returns where packets of a client go, over all choices that chance can make and many of the client's ports.
func (w *world) targets(client, dst netip.AddrPort, fromNode bool) map[string]int {
	out := map[string]int{}
	for i := range 600 {
		src := netip.AddrPortFrom(client.Addr(), uint16(10000+i))
		r := w.trace(packet{src: src, dst: dst, proto: 6, fromNode: fromNode, random: func(mod uint32) uint32 { return uint32(i) % mod }})
		s := r.verdict
		if s == "dnat" {
			s = r.to.String()
			if r.masquerade {
				s += " masqueraded"
			}
		}
		out[s]++
	}
	return out
}

func TestWhereClientsGo(t *testing.T) {
	for _, f := range families() {
		for _, test := range scenarios() {
			t.Run(f.name+"/"+test.name, func(t *testing.T) {
				w, table := newWorld(t, f.config), New(f.config)
				w.apply(table, table.Set(changes(svc("it", test.frontends(f)...))))
				for client := range test.want {
					have := slices.Sorted(maps.Keys(w.targets(f.at(client), f.at(test.to), client == theNode)))
					if d := cmp.Diff(test.targets(f, client), have); d != "" {
						t.Errorf("from %s (-want +have):\n%s", client, d)
					}
				}
			})
		}
	}
}

func TestMasqueradeAll(t *testing.T) {
	f := families()[0]
	f.config.MasqueradeAll = true
	w, table := newWorld(t, f.config), New(f.config)
	w.apply(table, table.Set(changes(svc("it", f.frontend("10.96.0.1:80", "10.1.1.2:8080")))))
	want := map[string]int{"10.1.1.2:8080 masqueraded": 600}
	if d := cmp.Diff(want, w.targets(f.at(localPod), f.at("10.96.0.1:80"), false)); d != "" {
		t.Error(d)
	}
}

func TestHashesKeepAClient(t *testing.T) {
	f := families()[0]
	for _, s := range []service.Scheduler{service.SourceHash, service.DestinationHash} {
		w, table := newWorld(t, f.config), New(f.config)
		fe := f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080", "10.1.2.3:8080")
		fe.Scheduler = s
		w.apply(table, table.Set(changes(svc("it", fe))))
		all := map[string]int{}
		for i := range 200 {
			got := w.targets(f.at(fmt.Sprintf("10.1.7.%d:1", i)), f.at("10.96.0.1:80"), false)
			if len(got) != 1 {
				t.Fatalf("%s: one client goes to %v", s, got)
			}
			maps.Copy(all, got)
		}
		if want := map[service.Scheduler]int{service.SourceHash: 3, service.DestinationHash: 1}[s]; len(all) != want {
			t.Errorf("%s: 200 clients go to %v, want %d endpoints", s, all, want)
		}
	}
}

func TestRoundRobinIsExactForEachFrontend(t *testing.T) {
	f := families()[0]
	w, table := newWorld(t, f.config), New(f.config)
	one, two := f.frontend("10.96.0.1:80", "10.1.1.2:1", "10.1.2.2:1", "10.1.2.3:1"), f.frontend("10.96.0.2:80", "10.1.1.2:1", "10.1.2.2:1", "10.1.2.3:1")
	one.Scheduler, two.Scheduler = service.RoundRobin, service.RoundRobin
	w.apply(table, table.Set(changes(svc("one", one), svc("two", two))))
	seen := map[netip.AddrPort]int{}
	for i := range 300 {
		seen[w.trace(packet{src: f.at(localPod), dst: f.at("10.96.0.1:80"), proto: 6}).to]++
		for range i % 5 { // other connections do not matter
			w.trace(packet{src: f.at(localPod), dst: f.at("10.96.0.2:80"), proto: 6})
		}
	}
	for at, n := range seen {
		if n != 100 {
			t.Errorf("%v has %d of 300 connections", at, n)
		}
	}
}

func TestAffinity(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			w, table := newWorld(t, f.config), New(f.config)
			names := []string{"10.1.1.2:8080", "10.1.2.2:8080", "10.1.2.3:8080", "10.1.2.4:8080", "10.1.2.5:8080"}
			set := func(names ...string) {
				fe := f.frontend("10.96.0.1:80", names...)
				fe.Affinity = 10800 * time.Second
				w.apply(table, table.Set(changes(svc("it", fe))))
			}
			where := func() map[int]netip.AddrPort {
				out := map[int]netip.AddrPort{}
				for i := range 100 {
					out[i] = w.trace(packet{src: f.at(fmt.Sprintf("10.1.7.%d:1", i+1)), dst: f.at("10.96.0.1:80"), proto: 6, random: rand.Uint32N}).to
				}
				return out
			}
			set(names...)
			first := where()
			if d := cmp.Diff(first, where(), equateAddrs); d != "" {
				t.Errorf("clients moved: %s", d)
			}
			set(append(names, "10.1.2.6:8080")...) // another hash, but they are remembered
			if d := cmp.Diff(first, where(), equateAddrs); d != "" {
				t.Errorf("clients moved when an endpoint came: %s", d)
			}
			set(names[1:]...)
			gone := f.at(names[0])
			second := where()
			for i, was := range first {
				if now := second[i]; now == gone || !now.IsValid() || was != gone && now != was {
					t.Errorf("client %d: %v -> %v after %v went", i, was, now, gone)
				}
			}
			set(names...) // the endpoint is back: its old clients have others by now
			if d := cmp.Diff(second, where(), equateAddrs); d != "" {
				t.Errorf("clients moved when the endpoint came back: %s", d)
			}
			clear(w.sets[setAffinity])
			w.full = true
			third := where()
			if d := cmp.Diff(third, where(), equateAddrs); d != "" || len(w.sets[setAffinity]) > 0 {
				t.Errorf("clients moved while there was no room: %s", d)
			}
			set()
			if r := w.trace(packet{src: f.at(localPod), dst: f.at("10.96.0.1:80"), proto: 6}); r.verdict != "reject" || len(w.sets[setMembers])+len(w.sets[setSlots]) > 0 {
				t.Errorf("without endpoints: %v, members %v", r, w.sets[setMembers])
			}
		})
	}
}
