package gobgp

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

// The names of the two policies that the library applies to what neighbours announce and to what is announced to them.
const (
	importPolicy = "import"
	exportPolicy = "export"
)

// filters is what decides about announcements. The library has one list of statements for all neighbours and each direction; each
// statement of ours begins with the neighbours that it is for:
//
//	import: own AS in the path -> reject; wrong first AS -> reject; rules of peer a; accept a; rules of peer b; accept b; ... ranges
//	export: next hops; rules of peer a; accept a; ...; ranges
//
// What no statement decides about is accepted.
type filters struct {
	as     uint32
	own4   netip.Addr // the node as a next hop
	own6   netip.Addr
	peers  map[netip.Addr]filter
	ranges map[netip.Prefix]filter
}

// filter is one neighbour's part.
type filter struct {
	as               uint32
	nextHopSelf      bool
	imports, exports []bgp.Rule
}

// filtersOf takes the parts out of an instance.
func filtersOf(in bgp.Instance) filters {
	f := filters{as: in.AS, peers: make(map[netip.Addr]filter), ranges: make(map[netip.Prefix]filter)}
	for _, a := range in.Announcements {
		own := &f.own6
		if a.Prefix.Addr().Is4() {
			own = &f.own4
		}
		if a.NextHop.IsValid() && (!own.IsValid() || a.NextHop.Less(*own)) {
			*own = a.NextHop
		}
	}
	of := func(s bgp.Settings) filter {
		return filter{as: s.AS, nextHopSelf: s.NextHopSelf, imports: s.Import, exports: s.Export}
	}
	for _, p := range in.Peers {
		f.peers[p.Address] = of(p.Settings)
	}
	for _, r := range in.Ranges {
		f.ranges[r.Prefix] = of(r.Settings)
	}
	return f
}

// checkRules finds rules that cannot be had.
func checkRules(s bgp.Settings) error {
	var errs []error
	for _, r := range slices.Concat(s.Import, s.Export) {
		for _, expr := range r.ASPath {
			if _, err := regexp.Compile(expr); err != nil {
				errs = append(errs, fmt.Errorf("AS path %q: %w", expr, err))
			}
		}
		for _, p := range r.Prefixes {
			if !p.Prefix.IsValid() || p.Min > p.Max || p.Min < 0 || p.Max > p.Prefix.Addr().BitLen() {
				errs = append(errs, fmt.Errorf("prefix %v with a length from %d to %d makes no sense", p.Prefix, p.Min, p.Max))
			}
		}
	}
	return errors.Join(errs...)
}

// unit is a set of neighbours that share a filter, in the library's notation.
type unit struct {
	neighbours []string
	v4         bool // the sessions' own family
	filter
}

// units groups the peers, and then lists the ranges with the longest prefixes first. The order is that of the addresses.
func (f filters) units() []unit {
	var out []unit
	addrs := make([]netip.Addr, 0, len(f.peers))
	for a := range f.peers {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range addrs {
		p := f.peers[a]
		i := slices.IndexFunc(out, func(u unit) bool { return u.v4 == a.Is4() && same(u.filter, p) })
		if i < 0 {
			i = len(out)
			out = append(out, unit{v4: a.Is4(), filter: p})
		}
		out[i].neighbours = append(out[i].neighbours, netip.PrefixFrom(a, a.BitLen()).String())
	}
	prefixes := make([]netip.Prefix, 0, len(f.ranges))
	for p := range f.ranges {
		prefixes = append(prefixes, p)
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if c := b.Bits() - a.Bits(); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	for _, p := range prefixes {
		out = append(out, unit{neighbours: []string{p.String()}, v4: p.Addr().Is4(), filter: f.ranges[p]})
	}
	return out
}

// policies translates the filters.
func (f filters) policies() *api.SetPoliciesRequest {
	b := &builder{as: f.as}
	units := f.units()

	b.begin(importPolicy)
	b.add(&api.Conditions{AsPathSet: b.asPaths(api.MatchSet_TYPE_ANY, through(f.as)...)}, reject())
	for _, u := range units {
		if u.as != f.as {
			b.add(&api.Conditions{
				NeighborSet: b.neighbours(u), AsPathSet: b.asPaths(api.MatchSet_TYPE_INVERT, fmt.Sprintf("^%d_", u.as)),
			}, reject())
		}
	}
	guard := slices.ContainsFunc(units, func(u unit) bool { return len(u.imports) > 0 })
	for _, u := range units {
		b.rules(u, u.imports, guard)
	}
	b.end()

	b.begin(exportPolicy)
	for _, u := range units {
		b.nextHops(u, f)
	}
	guard = slices.ContainsFunc(units, func(u unit) bool { return len(u.exports) > 0 })
	for _, u := range units {
		b.rules(u, u.exports, guard)
	}
	b.end()
	return &b.out
}

// builder collects the sets and statements of the policies.
type builder struct {
	as     uint32
	out    api.SetPoliciesRequest
	policy *api.Policy
}

func (b *builder) begin(name string) { b.policy = &api.Policy{Name: name} }

func (b *builder) end() { b.out.Policies = append(b.out.Policies, b.policy) }

func (b *builder) add(c *api.Conditions, a *api.Actions) {
	name := b.policy.Name + " " + strconv.Itoa(len(b.policy.Statements))
	b.policy.Statements = append(b.policy.Statements, &api.Statement{Name: name, Conditions: c, Actions: a})
}

// set defines a set, or finds the one that is the same.
func (b *builder) set(typ api.DefinedType, match api.MatchSet_Type, list []string, prefixes ...*api.Prefix) *api.MatchSet {
	if len(list)+len(prefixes) == 0 {
		return nil
	}
	for _, s := range b.out.DefinedSets {
		if s.DefinedType == typ && len(prefixes) == 0 && slices.Equal(s.List, list) {
			return &api.MatchSet{Type: match, Name: s.Name}
		}
	}
	name := fmt.Sprintf("set %d", len(b.out.DefinedSets))
	b.out.DefinedSets = append(b.out.DefinedSets, &api.DefinedSet{DefinedType: typ, Name: name, List: list, Prefixes: prefixes})
	return &api.MatchSet{Type: match, Name: name}
}

// through matches paths with an AS in a sequence, a set, or a confederation's sequence. The library writes these 1 2, {1,2} and (1 2), and looks
// through the numbers of sequences for the first expression. For the others it is quick when there is no bracket. Each path that a
// neighbour announces is looked at; an expression for all three, _(as)_, takes a microsecond and more, which is a tenth of all that is
// done about it.
func through(as uint32) []string {
	return []string{fmt.Sprintf("_%d_", as), fmt.Sprintf(`\{([0-9]+,)*%d[,}]`, as), fmt.Sprintf(`\(([0-9]+ )*%d[ )]`, as)}
}

func (b *builder) neighbours(u unit) *api.MatchSet {
	return b.set(api.DefinedType_DEFINED_TYPE_NEIGHBOR, api.MatchSet_TYPE_ANY, u.neighbours)
}

func (b *builder) asPaths(match api.MatchSet_Type, expr ...string) *api.MatchSet {
	return b.set(api.DefinedType_DEFINED_TYPE_AS_PATH, match, expr)
}

// rules adds the rules of a unit, and then accepts the rest, lest the rules of a range around these neighbours apply to them too.
func (b *builder) rules(u unit, rules []bgp.Rule, guard bool) {
	for _, r := range rules {
		var v4, v6 []*api.Prefix
		for _, p := range r.Prefixes {
			out := &api.Prefix{IpPrefix: p.Prefix.Masked().String(), MaskLengthMin: uint32(p.Min), MaskLengthMax: uint32(p.Max)}
			if p.Prefix.Addr().Is4() {
				v4 = append(v4, out)
			} else {
				v6 = append(v6, out)
			}
		}
		// A set has prefixes of one family.
		for _, prefixes := range [][]*api.Prefix{v4, v6} {
			if len(prefixes) > 0 {
				b.rule(u, r, b.set(api.DefinedType_DEFINED_TYPE_PREFIX, api.MatchSet_TYPE_ANY, nil, prefixes...))
			}
		}
		if len(r.Prefixes) == 0 {
			b.rule(u, r, nil)
		}
	}
	if guard {
		b.add(&api.Conditions{NeighborSet: b.neighbours(u)}, &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT})
	}
}

func (b *builder) rule(u unit, r bgp.Rule, prefixes *api.MatchSet) {
	c := &api.Conditions{
		NeighborSet: b.neighbours(u), PrefixSet: prefixes, AsPathSet: b.asPaths(api.MatchSet_TYPE_ANY, r.ASPath...),
		CommunitySet:      b.set(api.DefinedType_DEFINED_TYPE_COMMUNITY, api.MatchSet_TYPE_ANY, anchored(communityNames(r.Communities))),
		LargeCommunitySet: b.set(api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, api.MatchSet_TYPE_ANY, anchored(largeNames(r.LargeCommunities))),
	}
	if r.Originated {
		c.RouteType = api.Conditions_ROUTE_TYPE_LOCAL
	}
	if r.External {
		c.RouteType = api.Conditions_ROUTE_TYPE_EXTERNAL
	}
	if r.Reject {
		b.add(c, reject())
		return
	}
	a := &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT}
	if len(r.AddCommunities) > 0 {
		a.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: communityNames(r.AddCommunities)}
	}
	if len(r.AddLargeCommunities) > 0 {
		a.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: largeNames(r.AddLargeCommunities)}
	}
	if r.LocalPref != nil {
		a.LocalPref = &api.LocalPrefAction{Value: *r.LocalPref}
	}
	if r.MED != nil {
		a.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*r.MED)}
	}
	if r.Prepend > 0 {
		a.AsPrepend = &api.AsPrependAction{Asn: b.as, Repeat: uint32(r.Prepend)}
	}
	b.add(c, a)
}

// nextHops makes this node the next hop of what other neighbours announced: where it is wanted (RFC 4271, section 5.1.3, leaves it to the
// node), and for external neighbours where the library would write an address of the session's family into a prefix of the other. Without an
// address of that family such a prefix is not announced.
func (b *builder) nextHops(u unit, f filters) {
	external := u.as != f.as
	if !external && !u.nextHopSelf {
		return
	}
	for _, family := range []packet.Family{packet.RF_IPv4_UC, packet.RF_IPv6_UC} {
		v4 := family == packet.RF_IPv4_UC
		if external && v4 == u.v4 {
			continue // the library does it
		}
		own := f.own6
		if v4 {
			own = f.own4
		}
		a := &api.Actions{}
		switch {
		case v4 == u.v4:
			a.Nexthop = &api.NexthopAction{Self: true}
		case own.IsValid():
			a.Nexthop = &api.NexthopAction{Address: own.String()}
		default:
			a = reject()
		}
		for _, origin := range []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_INTERNAL, api.Conditions_ROUTE_TYPE_EXTERNAL} {
			b.add(&api.Conditions{
				NeighborSet: b.neighbours(u), RouteType: origin, AfiSafiIn: []*api.Family{apiutil.ToApiFamily(family.Afi(), family.Safi())},
			}, a)
		}
	}
}

func reject() *api.Actions { return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT} }

func communityNames(cs []bgp.Community) []string {
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = fmt.Sprintf("%d:%d", c>>16, c&0xffff)
	}
	return out
}

func largeNames(cs []bgp.LargeCommunity) []string {
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2)
	}
	return out
}

// anchored makes regular expressions that match the whole.
func anchored(names []string) []string {
	for i, n := range names {
		names[i] = "^" + n + "$"
	}
	return names
}
