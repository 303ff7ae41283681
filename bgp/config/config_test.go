package config

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
)

var compareAddr = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func equal(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, compareAddr); diff != "" {
		t.Error(diff)
	}
}

func ptr[T any](v T) *T { return &v }

func TestAnEmptyFileIsTheDefault(t *testing.T) {
	want := &Config{
		AS: 64512, Port: 179, Mesh: MeshAuto, Overlay: OverlayNever,
		Session: Session{
			Timers:   bgp.Timers{Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second},
			Graceful: &bgp.GracefulRestart{RestartTime: 30 * time.Second, StaleTime: 20 * time.Second},
		},
	}
	for _, text := range []string{"", "# nothing\n", "{}", "peers: []", "as: null"} {
		equal(t, want, parse(t, text))
	}
}

const everything = `
as: 65010
routerID: 192.0.2.1
port: 1790
mesh: on
overlay: cross-subnet
accept: [172.16.0.0/12 le 24, 2001:db8::/32]
passwordFile: /etc/twill/nodes.key
timers: {hold: 30s, connectRetry: 5s}
gracefulRestart: {restartTime: 60s}
bfd: {transmit: 100ms}
nodes:
- match: {names: [a, b], labels: {rack: r1}}
  as: 65001
  routerID: 192.0.2.7
  port: 180
  nextHopSelf: true
  reflector: {clusterID: 1.0.0.1, serves: {labels: {rack: r1}}}
  podSubnets: {communities: [no-export]}
- match: {}
  reflector: {enabled: false}
peers:
- name: tor
  nodes: {labels: {rack: r1}}
  address: 192.0.2.254
  port: 1179
  as: 4200000000
  passwordFile: /etc/twill/tor.key
  multihopTTL: 3
  passive: true
  localAddress: 192.0.2.1
  nextHopSelf: true
  reflectorClient: true
  maxPrefixes: 1000
  timers: {hold: 0s}
  gracefulRestart: {enabled: false}
  bfd: {enabled: false}
  import:
  - prefixes: [10.0.0.0/8 ge 16 le 24, 10.1.0.0/16, fd00::/8 ge 64]
    communities: ["64512:100"]
    largeCommunities: ["4200000000:1:2"]
    asPath: ["^65000 "]
    action: accept
    set: {localPref: 0, med: 5, prepend: 2, communities: ["1:2"], largeCommunities: ["1:2:3"]}
  - action: reject
  export:
  - {originated: true, action: accept}
  - {external: true, action: reject}
- name: rack
  range: 2001:db8:1::/64
  as: 65000
  ttlSecurity: 1
announce:
- {prefix: 10.99.0.0/24, nodes: {names: [a]}, communities: ["64512:10"], localPref: 200, med: 0, prepend: 1}
services:
  nodes: {labels: {edge: "true"}}
  clusterIPs: true
  externalIPs: false
  loadBalancerIPs: [198.51.100.0/24, "2001:db8:f::/64"]
  trafficPolicy: local
  communities: ["64512:20"]
  largeCommunities: ["64512:1:20"]
  localPref: 120
  med: 3
podSubnets: {largeCommunities: ["64512:1:1"], prepend: 2}
aggregate:
- {prefix: 10.5.0.0/16, summaryOnly: true}
- {prefix: 10.6.0.0/16, to: all, nodes: {labels: {edge: "true"}}}
`

func TestEveryKey(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	timers := bgp.Timers{Hold: 30 * time.Second, Keepalive: 10 * time.Second, ConnectRetry: 5 * time.Second}
	graceful := &bgp.GracefulRestart{RestartTime: time.Minute, StaleTime: 20 * time.Second}
	bfd := &bgp.BFD{Transmit: 100 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}
	want := &Config{
		AS: 65010, RouterID: addr("192.0.2.1"), Port: 1790, Mesh: MeshOn, Overlay: OverlayCrossSubnet,
		Accept:       []bgp.PrefixMatch{{Prefix: prefix("172.16.0.0/12"), Min: 12, Max: 24}, {Prefix: prefix("2001:db8::/32"), Min: 32, Max: 32}},
		PasswordFile: "/etc/twill/nodes.key",
		Session:      Session{Timers: timers, Graceful: graceful, BFD: bfd},
		Nodes: []NodeRule{{
			Match: bgp.Selector{Names: []string{"a", "b"}, Labels: map[string]string{"rack": "r1"}},
			NodeSettings: NodeSettings{
				AS: 65001, RouterID: addr("192.0.2.7"), Port: 180, NextHopSelf: ptr(true),
				Reflector:  &Reflector{Enabled: true, ClusterID: addr("1.0.0.1"), Serves: bgp.Selector{Labels: map[string]string{"rack": "r1"}}},
				PodSubnets: &Attributes{Communities: []bgp.Community{0xffffff01}},
			},
		}, {NodeSettings: NodeSettings{Reflector: &Reflector{}}}},
		Peers: []Peer{{
			Name: "tor", Nodes: bgp.Selector{Labels: map[string]string{"rack": "r1"}}, Address: addr("192.0.2.254"), Port: 1179,
			PasswordFile: "/etc/twill/tor.key", ReflectorClient: true,
			Settings: bgp.Settings{
				AS: 4200000000, LocalAddress: addr("192.0.2.1"), Passive: true, Timers: bgp.Timers{ConnectRetry: 5 * time.Second},
				MultihopTTL: 3, NextHopSelf: true, MaxPrefixes: 1000,
				Import: []bgp.Rule{{
					Prefixes: []bgp.PrefixMatch{{Prefix: prefix("10.0.0.0/8"), Min: 16, Max: 24}, {Prefix: prefix("10.1.0.0/16"), Min: 16, Max: 16},
						{Prefix: prefix("fd00::/8"), Min: 64, Max: 128}},
					Communities: []bgp.Community{64512<<16 | 100}, LargeCommunities: []bgp.LargeCommunity{{Global: 4200000000, Local1: 1, Local2: 2}},
					ASPath: []string{"^65000 "}, AddCommunities: []bgp.Community{1<<16 | 2},
					AddLargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}, LocalPref: ptr(uint32(0)), MED: ptr(uint32(5)), Prepend: 2,
				}, {Reject: true}},
				Export: []bgp.Rule{{Originated: true}, {External: true, Reject: true}},
			},
		}, {
			Name: "rack", Range: prefix("2001:db8:1::/64"),
			Settings: bgp.Settings{AS: 65000, TTLSecurity: 1, Timers: timers, Graceful: graceful, BFD: bfd},
		}},
		Announce: []Announcement{{Prefix: prefix("10.99.0.0/24"), Nodes: bgp.Selector{Names: []string{"a"}},
			Attributes: Attributes{Communities: []bgp.Community{64512<<16 | 10}, LocalPref: 200, MED: ptr(uint32(0)), Prepend: 1}}},
		Services: Services{
			Nodes: bgp.Selector{Labels: map[string]string{"edge": "true"}}, ClusterIPs: []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")},
			LoadBalancerIPs: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:f::/64")}, LocalOnly: true,
			Attributes: Attributes{Communities: []bgp.Community{64512<<16 | 20},
				LargeCommunities: []bgp.LargeCommunity{{Global: 64512, Local1: 1, Local2: 20}}, LocalPref: 120, MED: ptr(uint32(3))},
		},
		PodSubnets: Attributes{LargeCommunities: []bgp.LargeCommunity{{Global: 64512, Local1: 1, Local2: 1}}, Prepend: 2},
		Aggregates: []Aggregate{{Prefix: prefix("10.5.0.0/16"), SummaryOnly: true, ToExternal: true},
			{Prefix: prefix("10.6.0.0/16"), ToExternal: true, ToNodes: true, Nodes: bgp.Selector{Labels: map[string]string{"edge": "true"}}}},
	}
	equal(t, want, parse(t, everything))
}

func TestWhichServiceAddressesAreAnnounced(t *testing.T) {
	for _, tc := range []struct {
		name, text, address string
		kind                bgp.ServiceKind
		local, want         bool
	}{
		{"none by default", "", "198.51.100.7/32", bgp.LoadBalancerIP, false, false},
		{"of the kind", "services: {loadBalancerIPs: true}", "198.51.100.7/32", bgp.LoadBalancerIP, false, true},
		{"of the kind, IPv6", "services: {loadBalancerIPs: true}", "2001:db8::7/128", bgp.LoadBalancerIP, false, true},
		{"of another kind", "services: {loadBalancerIPs: true}", "198.51.100.7/32", bgp.ExternalIP, false, false},
		{"within", "services: {externalIPs: [198.51.100.0/24]}", "198.51.100.7/32", bgp.ExternalIP, false, true},
		{"without", "services: {externalIPs: [198.51.100.0/24]}", "203.0.113.7/32", bgp.ExternalIP, false, false},
		{"of the other family", "services: {externalIPs: [0.0.0.0/0]}", "2001:db8::7/128", bgp.ExternalIP, false, false},
		{"Local", "services: {clusterIPs: true, trafficPolicy: local}", "10.96.0.7/32", bgp.ClusterIP, true, true},
		{"not Local", "services: {clusterIPs: true, trafficPolicy: local}", "10.96.0.7/32", bgp.ClusterIP, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			services := parse(t, tc.text).Services
			got := services.Announces(bgp.ServiceAddress{Prefix: netip.MustParsePrefix(tc.address), Kind: tc.kind, Local: tc.local})
			if got != tc.want {
				t.Errorf("announces it: %v, want %v", got, tc.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	const peer = "peers: [{name: x, as: 1, address: 192.0.2.1, "
	for _, tc := range []struct{ name, text, want string }{
		{"syntax", "as: [", "did not find"},
		{"twice", "as: 1\nas: 2", `"as" already set`},
		{"no object", "[1]", "the document: have a list, want an object with keys such as timers"},
		{"unknown at the top", "asn: 1", "asn: unknown key; known are accept, aggregate, announce, as, bfd,"},
		{"unknown inside", "peers: [{name: x, as: 1, address: 192.0.2.1, password: geheim}]", "peers[0].password: unknown key; known are address, as,"},
		{"AS of text", "as: many", `as: have "many", want an AS number from 1 to 4294967294`},
		{"AS of a fraction", "as: 1.5", "as: have 1.5, want an AS number"},
		{"AS below", "as: -1", "as: have -1, want an AS number"},
		{"AS 0", "as: 0", "as: have 0, want an AS number"},
		{"AS_TRANS", "as: 23456", "as: have 23456, which is reserved"},
		{"router ID", "routerID: fd00::1", `routerID: have "fd00::1", want an IPv4 address`},
		{"port", "port: 65536", "port: have 65536, want an integer from 1 to 65535"},
		{"mesh", "mesh: full", `mesh: have "full", want auto or on or off`},
		{"overlay", "overlay: 3", "overlay: have 3, want never or cross-subnet or always"},
		{"hold below the least", "timers: {hold: 2s}", `timers.hold: have 2s, want "0s"`},
		{"hold no duration", "timers: {hold: 9}", "timers.hold: have 9, want a duration from 0s to 18h12m15s in steps of 1s"},
		{"hold of fractions", "timers: {hold: 3500ms}", `timers.hold: have "3500ms", want a duration`},
		{"keepalive too slow", "timers: {keepalive: 4s}", "timers.keepalive: have 4s, want at most a third of hold, which is 9s"},
		{"restart time", "gracefulRestart: {restartTime: 4096s}", "gracefulRestart.restartTime: have \"4096s\", want a duration from 1s to 1h8m15s"},
		{"multiplier", "bfd: {multiplier: 0}", "bfd.multiplier: have 0, want an integer from 1 to 255"},
		{"truth", "bfd: {enabled: 1}", "bfd.enabled: have 1, want true or false"},
		{"match missing", "nodes: [{as: 1}]", "nodes[0].match: have nothing, want names or labels of nodes; {} matches all"},
		{"name that YAML changes", "nodes: [{match: {names: [n]}}]", "nodes[0].match.names[0]: have false, want a node's name; y, n, on and off need"},
		{"match of no names", "nodes: [{match: {names: []}}]", "nodes[0].match.names: the list is empty"},
		{"match of no labels", "nodes: [{match: {labels: {}}}]", "nodes[0].match.labels: the object is empty"},
		{"label of a number", "nodes: [{match: {labels: {rack: 1}}}]", "nodes[0].match.labels.rack: have 1, want a text"},
		{"null element", "peers: [null]", "peers[0]: have nothing, want an element"},
		{"no list", "peers: {}", "peers: have an object, want a list"},
		{"peer without name", "peers: [{as: 1, address: 192.0.2.1}]", "peers[0].name: have nothing, want a name"},
		{"peer without AS", "peers: [{name: x, address: 192.0.2.1}]", "peers[0].as: have nothing, want the neighbour's AS number"},
		{"peer nowhere", "peers: [{name: x, as: 1}]", "peers[0]: want either address"},
		{"peer at two places", peer + "range: 192.0.2.0/24}]", "peers[0]: want either address"},
		{"name", "peers: [{name: a b, as: 1, address: 192.0.2.1}]", `peers[0].name: have "a b", want a name`},
		{"same name", "peers: [{name: x, as: 1, address: 192.0.2.1}, {name: x, as: 1, address: 192.0.2.2}]",
			`peers[1].name: have "x", which is the name of peers[0]; want another`},
		{"address", "peers: [{name: x, as: 1, address: 0.0.0.0}]", `peers[0].address: have "0.0.0.0", want the IPv4 or IPv6 address of a host`},
		{"link-local", "peers: [{name: x, as: 1, address: 'fe80::1'}]", `peers[0].address: have "fe80::1", want`},
		{"range", "peers: [{name: x, as: 1, range: 192.0.2.1/24}]", `peers[0].range: have "192.0.2.1/24", want 192.0.2.0/24, or a longer prefix`},
		{"port of a range", "peers: [{name: x, as: 1, range: 192.0.2.0/24, port: 5}]", "peers[0].port: have 5, want none"},
		{"local address", peer + "localAddress: '2001:db8::1'}]", `peers[0].localAddress: have "2001:db8::1", want an address of the neighbour's family`},
		{"hops", peer + "ttlSecurity: 300}]", "peers[0].ttlSecurity: have 300, want an integer from 1 to 254"},
		{"hops twice", peer + "ttlSecurity: 2, multihopTTL: 2}]", "peers[0].ttlSecurity: have 2 beside multihopTTL 2, want one of them"},
		{"BFD over hops", peer + "multihopTTL: 2, bfd: {}}]", "peers[0].bfd: have it on for a neighbour behind routers"},
		{"BFD of a range", "peers: [{name: x, as: 1, range: 192.0.2.0/24, bfd: {}}]", "peers[0].bfd: have it on for a range"},
		{"relative file", peer + "passwordFile: x.key}]", `peers[0].passwordFile: have "x.key", want the absolute path`},
		{"rule without action", peer + "import: [{}]}]", "peers[0].import[0].action: have nothing, want accept or reject"},
		{"change of the rejected", peer + "import: [{action: reject, set: {med: 1}}]}]", "peers[0].import[0].set: what is rejected cannot be changed"},
		{"empty condition", peer + "export: [{action: reject, prefixes: []}]}]", "peers[0].export[0].prefixes: the list is empty"},
		{"external in import", peer + "import: [{action: accept, external: true}]}]", "peers[0].import[0].external: unknown key"},
		{"nobody's", peer + "export: [{action: accept, external: true, originated: true}]}]", "peers[0].export[0].external: have it beside originated"},
		{"prefix", peer + "import: [{action: accept, prefixes: [10.0.0.0]}]}]", `peers[0].import[0].prefixes[0]: have "10.0.0.0", want a prefix such as`},
		{"prefix lengths", peer + "import: [{action: accept, prefixes: [10.0.0.0/8 ge 33]}]}]", "want a length from 8 to 32 after ge"},
		{"prefix lengths crossed", peer + "import: [{action: accept, prefixes: [10.0.0.0/8 ge 24 le 16]}]}]", "want ge to be no more than le"},
		{"prefix word", peer + "import: [{action: accept, prefixes: [10.0.0.0/8 gt 24]}]}]", "want ge and le at most once"},
		{"prefix bits", peer + "import: [{action: accept, prefixes: [10.0.0.1/8]}]}]", "want 10.0.0.0/8, or a longer prefix"},
		{"community", peer + "import: [{action: accept, communities: ['1:65536']}]}]", `communities[0]: have "1:65536", want a community such as`},
		{"community as a number", peer + "import: [{action: accept, communities: [100]}]}]", "communities[0]: have 100, want a community"},
		{"large community", "podSubnets: {largeCommunities: ['1:2']}", `podSubnets.largeCommunities[0]: have "1:2", want a large community`},
		{"AS path", peer + "import: [{action: accept, asPath: ['(']}]}]", `asPath[0]: have "(", want a regular expression`},
		{"announcement of nothing", "announce: [{localPref: 1}]", "announce[0].prefix: have nothing, want the prefix to announce"},
		{"kind of Service addresses", "services: {nodePorts: true}", "services.nodePorts: unknown key; known are clusterIPs, communities, externalIPs,"},
		{"Service addresses of a word", "services: {clusterIPs: local}", `services.clusterIPs: have "local", want true, false, or a list of prefixes`},
		{"Service addresses of nothing", "services: {externalIPs: []}", "services.externalIPs: the list is empty; want a prefix in it, or false"},
		{"Service addresses of no prefix", "services: {loadBalancerIPs: [198.51.100.7]}", `services.loadBalancerIPs[0]: have "198.51.100.7", want a prefix`},
		{"traffic policy", "services: {trafficPolicy: cluster}", `services.trafficPolicy: have "cluster", want all or local`},
		{"prepend for Services", "services: {prepend: 2}", "services.prepend: unknown key"},
		{"aggregate of a host", "aggregate: [{prefix: 10.0.0.1/32}]", "aggregate[0].prefix: have \"10.0.0.1/32\", want a prefix that has more specific ones"},
		{"summary for nodes", "aggregate: [{prefix: 10.0.0.0/8, to: all, summaryOnly: true}]", "aggregate[0].summaryOnly: have true, want false"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Parse([]byte(tc.text))
			if err == nil || c != nil {
				t.Fatalf("Parse returned %v, %v", c, err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is\n%v\nwant\n%s", err, tc.want)
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestAllErrorsAreToldAtOnce(t *testing.T) {
	_, err := Parse([]byte("as: 0\nport: 0\npeers: [{name: x}, {address: 1}]\nmash: on"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, key := range []string{"as:", "port:", "peers[0].as:", "peers[0]:", "peers[1].address:", "peers[1].name:", "mash:"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("no %s in %v", key, err)
		}
	}
}

func TestSizeIsBounded(t *testing.T) {
	if _, err := Parse(slices.Repeat([]byte("#"), MaxSize+1)); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("err = %v", err)
	}
	// Each line is ten times the one before.
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		prev := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+prev+",", 9) + "*" + prev + "]\n"
	}
	if _, err := Parse([]byte(bomb)); err == nil {
		t.Error("no error for a document that grows as its aliases are followed")
	}
}

func TestTheFirstRuleThatMatchesWinsKeyByKey(t *testing.T) {
	c := parse(t, `
as: 65000
podSubnets: {localPref: 1}
nodes:
- {match: {names: [a]}, as: 65001}
- {match: {labels: {rack: r1}}, as: 65002, port: 1791, reflector: {clusterID: 1.1.1.1}}
- {match: {labels: {rack: r1}}, port: 1792, nextHopSelf: true, podSubnets: {localPref: 2}}
`)
	r1 := map[string]string{"rack": "r1", "zone": "z"}
	reflector := &Reflector{Enabled: true, ClusterID: netip.MustParseAddr("1.1.1.1")}
	for _, tc := range []struct {
		name, node string
		labels     map[string]string
		record     string
		want       Node
	}{
		{"no rule", "x", nil, "", Node{AS: 65000, Port: 179, PodSubnets: Attributes{LocalPref: 1}}},
		{"by name", "a", nil, "", Node{AS: 65001, Port: 179, PodSubnets: Attributes{LocalPref: 1}}},
		{"by label", "b", r1, "", Node{AS: 65002, Port: 1791, NextHopSelf: true, Reflector: reflector, ClusterID: reflector.ClusterID, PodSubnets: Attributes{LocalPref: 2}}},
		{"by both", "a", r1, "", Node{AS: 65001, Port: 1791, NextHopSelf: true, Reflector: reflector, ClusterID: reflector.ClusterID, PodSubnets: Attributes{LocalPref: 2}}},
		{"the record first", "a", r1, `{"as":65009,"reflector":{"enabled":false},"nextHopSelf":false}`,
			Node{AS: 65009, Port: 1791, PodSubnets: Attributes{LocalPref: 2}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			record, err := ParseNode(json.RawMessage(tc.record))
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Name, tc.want.Labels = tc.node, tc.labels
			equal(t, tc.want, c.Node(tc.node, tc.labels, record))
		})
	}
}

func TestARecordSaysNothingOfOtherNodes(t *testing.T) {
	for _, text := range []string{`{"match":{}}`, `{"peers":[]}`, `[]`, `{"as":"x"}`} {
		if _, err := ParseNode(json.RawMessage(text)); err == nil {
			t.Errorf("no error for %s", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(everything)
	f.Add("peers: [{}]\nnodes: [{match: {}}]")
	f.Add("as: 1e9\nmesh: on")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if (c == nil) == (err == nil) {
			t.Fatalf("Parse returned %v, %v", c, err)
		}
		if err != nil {
			return
		}
		if c.AS == 0 || c.Port == 0 || c.Timers.Keepalive > c.Timers.Hold/3 {
			t.Errorf("accepted %+v", c)
		}
		for _, p := range c.Peers {
			if p.Name == "" || p.Settings.AS == 0 || p.Address.IsValid() == p.Range.IsValid() {
				t.Errorf("accepted peer %+v", p)
			}
		}
	})
}
