package hostport

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

var addrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func dual(mappings ...netconf.PortMapping) Pod {
	return Pod{Bridge: "cni0", Mappings: mappings, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("10.0.0.3/24"),
		netip.MustParsePrefix("fd00::2/64")}}
}

func v4Only(mappings ...netconf.PortMapping) Pod {
	p := dual(mappings...)
	p.Addresses = p.Addresses[:1]
	return p
}

func mapping(hostIP string) netconf.PortMapping {
	m := netconf.PortMapping{Protocol: netconf.TCP, HostPort: 80, ContainerPort: 8080}
	if hostIP != "" {
		m.HostIP = netip.MustParseAddr(hostIP)
	}
	return m
}

// port is an element of a map that leads to port 8080 of addr; host is empty for the maps of all addresses.
func port(host, addr string) kernel.Element {
	e := kernel.Element{Value: []kernel.Datum{{Addr: netip.MustParseAddr(addr)}, {Number: 8080}}}
	if host != "" {
		e.Key = append(e.Key, kernel.Datum{Addr: netip.MustParseAddr(host)})
	}
	e.Key = append(e.Key, kernel.Datum{Number: 6}, kernel.Datum{Number: 80})
	return e
}

func TestPorts(t *testing.T) {
	tests := []struct {
		name string
		pod  Pod
		want Elements // nil: an error
	}{
		{"all addresses, dual stack", dual(mapping("")), Elements{"ports4": {port("", "10.0.0.2")}, "ports6": {port("", "fd00::2")}}},
		{"all addresses, IPv4", v4Only(mapping("")), Elements{"ports4": {port("", "10.0.0.2")}}},
		{"all IPv4 addresses", dual(mapping("0.0.0.0")), Elements{"ports4": {port("", "10.0.0.2")}}},
		{"all IPv6 addresses", dual(mapping("::")), Elements{"ports6": {port("", "fd00::2")}}},
		{"one IPv4 address", dual(mapping("192.0.2.1")), Elements{"addr_ports4": {port("192.0.2.1", "10.0.0.2")}}},
		{"one IPv6 address", dual(mapping("2001:db8::1")), Elements{"addr_ports6": {port("2001:db8::1", "fd00::2")}}},
		{"an address of a family that the pod has not", v4Only(mapping("2001:db8::1")), nil},
		{"none", dual(), Elements{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.pod.Ports()
			if (err != nil) != (test.want == nil) {
				t.Fatalf("have error %v", err)
			}
			if diff := cmp.Diff(test.want, got, addrs); err == nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLeads(t *testing.T) {
	pod := dual(mapping(""))
	for addr, want := range map[string]bool{"10.0.0.2": true, "fd00::2": true, "10.0.0.9": false, "fd00::9": false} {
		if got := pod.Leads(port("", addr)); got != want {
			t.Errorf("%s: %t, want %t", addr, got, want)
		}
	}
}

func TestUDP(t *testing.T) {
	udp := func(host string) netconf.PortMapping {
		m := mapping(host)
		m.Protocol, m.HostPort = netconf.UDP, 53
		return m
	}
	want := []string{"0.0.0.0:53", "[::]:53", "192.0.2.1:53"}
	var got []string
	for _, a := range dual(mapping(""), udp(""), udp("192.0.2.1")).UDP() {
		got = append(got, a.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := v4Only(udp("2001:db8::1")).UDP(); got != nil {
		t.Errorf("have %v of a family that the pod has not", got)
	}
}

func TestDescribe(t *testing.T) {
	for want, e := range map[string]kernel.Element{"tcp * port 80": port("", "10.0.0.2"), "tcp 192.0.2.1 port 80": port("192.0.2.1", "10.0.0.2")} {
		if got := Describe(e); got != want {
			t.Errorf("have %q, want %q", got, want)
		}
	}
}

// Everything that rules look up is a set of the table, of as many fields, and every element fits its set.
func TestTableIsOfOnePiece(t *testing.T) {
	table := Table()
	sets := map[string]kernel.Set{}
	for _, s := range table.Sets {
		if !s.Foreign {
			t.Errorf("set %s: a reconciler would empty it", s.Name)
		}
		sets[s.Name] = s
	}
	use := func(name string, fields []kernel.Operand, values int) {
		s, ok := sets[name]
		if !ok || len(s.Key) != len(fields) || len(s.Value) != values {
			t.Errorf("set %s of %d fields and %d values is not in the table", name, len(fields), values)
		}
	}
	chains := map[string]bool{}
	for _, c := range table.Chains {
		chains[c.Name] = true
	}
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			for _, e := range r.Exprs {
				switch e := e.(type) {
				case kernel.Lookup:
					use(e.Set, e.Fields, 0)
				case kernel.DNAT:
					use(e.Map, e.Fields, 2)
				case kernel.Verdict:
					if e.Chain != "" && !chains[e.Chain] {
						t.Errorf("chain %s is not in the table", e.Chain)
					}
				}
			}
		}
	}
	pod := dual(mapping(""), mapping("192.0.2.1"), mapping("2001:db8::1"))
	ports, err := pod.Ports()
	if err != nil {
		t.Fatal(err)
	}
	for name, elems := range ports.With(pod.Own()).With(pod.Shared()) {
		for _, e := range elems {
			if s := sets[name]; len(e.Key) != len(s.Key) || len(e.Value) != len(s.Value) {
				t.Errorf("element %+v does not fit set %s", e, name)
			}
		}
	}
}

// route_localnet is set only behind the guard, so the guard has to see packets before they are routed or translated.
func TestGuardComesFirst(t *testing.T) {
	table := Table()
	i := slices.IndexFunc(table.Chains, func(c kernel.Chain) bool { return c.Name == "guard" })
	guard := table.Chains[i]
	if guard.Hook.Hook != "prerouting" || guard.Hook.Priority >= -200 {
		t.Errorf("guard is at %+v; connection tracking is at -200", *guard.Hook)
	}
	for _, r := range guard.Rules {
		if v, ok := r.Exprs[len(r.Exprs)-1].(kernel.Verdict); !ok || v.Kind != kernel.Drop {
			t.Errorf("rule %+v drops nothing", r)
		}
	}
}

// Whoever finds its own bit on a packet acts upon it. The rules of a plugin that was here before stay behind.
func TestMarkIsNobodyElses(t *testing.T) {
	for name, bits := range map[string]uint32{"portmap": 0x2000, "kube-proxy": 0xc000, "Calico": 0xffff0000, "Cilium": 0x0f00} {
		if Mark&bits != 0 {
			t.Errorf("mark %#x has a bit of %s", Mark, name)
		}
	}
}

// What the elements lead to is told from them: the mappings of each of the pod's addresses that has any. Other sets do not count.
func TestTargets(t *testing.T) {
	at := func(addr string, mappings ...netconf.PortMapping) Pod {
		a := netip.MustParseAddr(addr)
		return Pod{Mappings: mappings, Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}}
	}
	other := v4Only(netconf.PortMapping{Protocol: netconf.UDP, HostPort: 53, ContainerPort: 5353})
	other.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.9/24")}
	tests := []struct {
		name string
		pods []Pod
		want []Pod
	}{
		{"none", nil, nil},
		{"no mapping", []Pod{v4Only()}, []Pod{at("10.0.0.2")}},
		{"all addresses", []Pod{dual(mapping(""))}, []Pod{at("10.0.0.2", mapping("")), at("fd00::2", mapping(""))}},
		{"one address", []Pod{v4Only(mapping("192.0.2.1"))}, []Pod{at("10.0.0.2", mapping("192.0.2.1"))}},
		{"an address of one family", []Pod{dual(mapping("2001:db8::1"))}, []Pod{at("10.0.0.2"), at("fd00::2", mapping("2001:db8::1"))}},
		{"two pods", []Pod{other, v4Only(mapping(""))}, []Pod{at("10.0.0.2", mapping("")), at("10.0.0.9", other.Mappings...)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := Elements{}
			for _, p := range test.pods {
				ports, err := p.Ports()
				if err != nil {
					t.Fatal(err)
				}
				all = all.With(ports).With(p.Own()).With(p.Shared())
			}
			have := Targets(all)
			if diff := cmp.Diff(test.want, have, addrs); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			back := Elements{}
			for _, p := range have {
				ports, err := p.Ports()
				if err != nil {
					t.Fatal(err)
				}
				back = back.With(ports).With(p.Own())
			}
			delete(all, setBridges)
			delete(all, setTurn)
			for _, set := range slices.Concat(PodSets(), slices.Collect(maps.Keys(all))) {
				if len(back[set]) != len(all[set]) {
					t.Errorf("set %s: the way back has %v, want %v", set, back[set], all[set])
				}
			}
		})
	}
}
