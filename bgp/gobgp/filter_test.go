package gobgp

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/api"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// render prints policies as text, one statement a line, with sets spelt out.
func render(p *api.SetPoliciesRequest) []string {
	sets := make(map[string]string)
	for _, s := range p.DefinedSets {
		items := slices.Clone(s.List)
		for _, p := range s.Prefixes {
			items = append(items, fmt.Sprintf("%s{%d,%d}", p.IpPrefix, p.MaskLengthMin, p.MaskLengthMax))
		}
		sets[s.Name] = strings.Join(items, " ")
	}
	var out []string
	for _, policy := range p.Policies {
		for _, st := range policy.Statements {
			words := []string{policy.Name + ":"}
			set := func(name string, m *api.MatchSet) {
				if m == nil {
					return
				}
				if m.Type == api.MatchSet_TYPE_INVERT {
					name = "not " + name
				}
				words = append(words, name+" "+sets[m.Name])
			}
			c, a := st.Conditions, st.Actions
			set("neighbour", c.NeighborSet)
			set("prefix", c.PrefixSet)
			set("path", c.AsPathSet)
			set("community", c.CommunitySet)
			set("large", c.LargeCommunitySet)
			for _, f := range c.AfiSafiIn {
				words = append(words, f.Afi.String())
			}
			if c.RouteType != 0 {
				words = append(words, strings.TrimPrefix(c.RouteType.String(), "ROUTE_TYPE_"))
			}
			words = append(words, "=>")
			if n := a.Nexthop; n != nil {
				words = append(words, fmt.Sprintf("via %s self %v", n.Address, n.Self))
			}
			if a.Community != nil {
				words = append(words, "add", strings.Join(a.Community.Communities, " "))
			}
			if a.LargeCommunity != nil {
				words = append(words, "add", strings.Join(a.LargeCommunity.Communities, " "))
			}
			if a.LocalPref != nil {
				words = append(words, fmt.Sprint("preference ", a.LocalPref.Value))
			}
			if a.Med != nil {
				words = append(words, fmt.Sprint("MED ", a.Med.Value))
			}
			if a.AsPrepend != nil {
				words = append(words, fmt.Sprintf("prepend %d x %d", a.AsPrepend.Repeat, a.AsPrepend.Asn))
			}
			if a.RouteAction != 0 {
				words = append(words, strings.ToLower(strings.TrimPrefix(a.RouteAction.String(), "ROUTE_ACTION_")))
			}
			out = append(out, strings.Join(words, " "))
		}
	}
	return out
}

func TestPolicies(t *testing.T) {
	const own = "import: path _64512_ \\{([0-9]+,)*64512[,}] \\(([0-9]+ )*64512[ )] => reject"
	first := func(neighbours string) string {
		return "import: neighbour " + neighbours + " not path ^64513_ => reject"
	}
	med, pref := uint32(7), uint32(200)
	external := func(a string, change func(*bgp.Settings)) bgp.Peer {
		p := bgp.Peer{Address: addr(a), Settings: bgp.Settings{AS: theirAS}}
		change(&p.Settings)
		return p
	}
	internal := func(a string, change func(*bgp.Settings)) bgp.Peer {
		return external(a, func(s *bgp.Settings) { s.AS = ourAS; change(s) })
	}
	plain := func(*bgp.Settings) {}
	for _, c := range []struct {
		name string
		in   bgp.Instance
		want []string
	}{
		{"internal peers", bgp.Instance{Peers: []bgp.Peer{internal("192.0.2.3", plain), internal("192.0.2.2", plain)}}, []string{own}},
		{
			"external peers share statements, and their IPv6 next hops are this node's",
			bgp.Instance{
				Peers:         []bgp.Peer{external("192.0.2.3", plain), external("192.0.2.2", plain)},
				Announcements: []bgp.Announcement{{Prefix: prefix("fd00:1::/64"), NextHop: addr(ourAddr6)}},
			},
			[]string{
				own, first("192.0.2.2/32 192.0.2.3/32"),
				"export: neighbour 192.0.2.2/32 192.0.2.3/32 AFI_IP6 INTERNAL => via 2001:db8::1 self false",
				"export: neighbour 192.0.2.2/32 192.0.2.3/32 AFI_IP6 EXTERNAL => via 2001:db8::1 self false",
			},
		},
		{
			"next hop self, without an IPv6 address",
			bgp.Instance{Peers: []bgp.Peer{internal("192.0.2.2", func(s *bgp.Settings) { s.NextHopSelf = true })}},
			[]string{
				own,
				"export: neighbour 192.0.2.2/32 AFI_IP INTERNAL => via  self true",
				"export: neighbour 192.0.2.2/32 AFI_IP EXTERNAL => via  self true",
				"export: neighbour 192.0.2.2/32 AFI_IP6 INTERNAL => reject",
				"export: neighbour 192.0.2.2/32 AFI_IP6 EXTERNAL => reject",
			},
		},
		{
			"rules of a peer within a range, and the range's",
			bgp.Instance{
				Peers: []bgp.Peer{
					internal("192.0.2.66", func(s *bgp.Settings) {
						s.Import = []bgp.Rule{
							{Prefixes: []bgp.PrefixMatch{{Prefix: prefix("10.0.0.0/8"), Min: 16, Max: 24}, {Prefix: prefix("fd00::/8"), Min: 64, Max: 64}}, LocalPref: &pref},
							{Reject: true},
						}
					}),
					internal("192.0.2.67", plain),
				},
				Ranges: []bgp.Range{{Prefix: prefix("192.0.2.64/26"), Settings: bgp.Settings{AS: ourAS, Import: []bgp.Rule{{ASPath: []string{"65000"}, Reject: true}}}}},
			},
			[]string{
				own,
				"import: neighbour 192.0.2.66/32 prefix 10.0.0.0/8{16,24} => preference 200 accept",
				"import: neighbour 192.0.2.66/32 prefix fd00::/8{64,64} => preference 200 accept",
				"import: neighbour 192.0.2.66/32 => reject",
				"import: neighbour 192.0.2.66/32 => accept",
				"import: neighbour 192.0.2.67/32 => accept",
				"import: neighbour 192.0.2.64/26 path 65000 => reject",
				"import: neighbour 192.0.2.64/26 => accept",
			},
		},
		{
			"export of what the node announces itself",
			bgp.Instance{Peers: []bgp.Peer{internal("192.0.2.2", func(s *bgp.Settings) {
				s.Export = []bgp.Rule{
					{Communities: []bgp.Community{64512<<16 | 9}, LargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}, Reject: true},
					{Originated: true, AddCommunities: []bgp.Community{64512<<16 | 1}, AddLargeCommunities: []bgp.LargeCommunity{{Global: 4, Local1: 5, Local2: 6}}, MED: &med, Prepend: 2},
				}
			})}},
			[]string{
				own,
				"export: neighbour 192.0.2.2/32 community ^64512:9$ large ^1:2:3$ => reject",
				"export: neighbour 192.0.2.2/32 LOCAL => add 64512:1 add 4:5:6 MED 7 prepend 2 x 64512 accept",
				"export: neighbour 192.0.2.2/32 => accept",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.AS = ourAS
			if d := cmp.Diff(c.want, render(filtersOf(c.in).policies())); d != "" {
				t.Errorf("policies (-want +got):\n%s", d)
			}
			slices.Reverse(c.in.Peers)
			if d := cmp.Diff(c.want, render(filtersOf(c.in).policies())); d != "" {
				t.Errorf("policies, peers in reverse order (-want +got):\n%s", d)
			}
		})
	}
}

// Filters come and go while sessions stay, and the reason of a rejection can be seen.
func TestFilters(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	b := peertest.StartBIRD(t, seg.Host("192.0.2.2/24", "2001:db8::2/64"), birdConf("192.0.2.2", "", "10.2.0.0/24", "10.3.0.0/16", "fd00:2::/64"))
	s := start(t, instance(peer("192.0.2.2")))
	all := []string{"10.2.0.0/24 via [192.0.2.2]", "10.3.0.0/16 via [192.0.2.2]", "fd00:2::/64 via [2001:db8::2]"}
	s.eventually("all routes", 10*time.Second, func() bool { return slices.Equal(s.learned(), all) })
	peertest.Eventually(t, "BIRD has ours", 5*time.Second, func() bool { return b.Has("10.1.0.0/24") && b.Has("fd00:1::/64") })

	med := uint32(77)
	filtered := instance(peer("192.0.2.2", func(p *bgp.Peer) {
		p.Import = []bgp.Rule{
			{Prefixes: []bgp.PrefixMatch{{Prefix: prefix("10.0.0.0/8"), Min: 24, Max: 32}}},
			{Reject: true},
		}
		p.Export = []bgp.Rule{
			{Prefixes: []bgp.PrefixMatch{{Prefix: prefix("fd00::/8"), Min: 0, Max: 128}}, Reject: true},
			{Originated: true, MED: &med, Prepend: 1, AddCommunities: []bgp.Community{64512<<16 | 5}},
		}
	}))
	s.set(filtered)
	s.eventually("one route", 5*time.Second, func() bool { return slices.Equal(s.learned(), all[:1]) })
	peertest.Eventually(t, "BIRD has one of ours, changed", 5*time.Second, func() bool {
		return b.Has("10.1.0.0/24", "BGP.as_path: 64512 64512\n", "BGP.med: 77", "(64512,5)") && !b.Has("fd00:1::/64")
	})
	rejected := map[string]string{}
	paths(t, s, bgp.PathQuery{Peer: addr("192.0.2.2")}, func(p bgp.Path) { rejected[p.Prefix.String()] = p.Rejected })
	if d := cmp.Diff(map[string]string{"10.2.0.0/24": "", "10.3.0.0/16": "an import rule rejects it", "fd00:2::/64": "an import rule rejects it"}, rejected); d != "" {
		t.Errorf("what BIRD announces (-want +got):\n%s", d)
	}
	rejected = map[string]string{}
	paths(t, s, bgp.PathQuery{To: addr("192.0.2.2")}, func(p bgp.Path) { rejected[p.Prefix.String()] = p.Rejected })
	if d := cmp.Diff(map[string]string{"10.1.0.0/24": "", "fd00:1::/64": "an export rule rejects it"}, rejected); d != "" {
		t.Errorf("what is announced to BIRD (-want +got):\n%s", d)
	}

	s.set(instance(peer("192.0.2.2")))
	s.eventually("all routes again", 5*time.Second, func() bool { return slices.Equal(s.learned(), all) })
	peertest.Eventually(t, "BIRD has all of ours again", 5*time.Second, func() bool {
		return b.Has("10.1.0.0/24", "BGP.as_path: 64512\n") && b.Has("fd00:1::/64")
	})
	if st := s.session("192.0.2.2"); st.Flaps != 0 {
		t.Errorf("the session went down %d times", st.Flaps)
	}
}

func paths(t *testing.T, s *running, q bgp.PathQuery, visit func(bgp.Path)) {
	t.Helper()
	if err := s.Paths(t.Context(), q, visit); err != nil {
		t.Fatalf("Paths: %v", err)
	}
}
