package topology

import (
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/store"
)

// Settle is for how long a session has to be established before its reflector is heard: what the reflector was learning from others
// when it sent its End-of-RIB arrives in that time.
const Settle = 3 * time.Second

// Input is all that a plan follows from.
type Input struct {
	bgp.PlanInput
	Network   store.Network
	Config    *config.Config
	Node      config.Node // this one
	Passwords config.Passwords
	Published bgp.LeaseData // what this node published last; the zero LeaseData for nothing
	Started   time.Time     // when the daemon did
	Now       time.Time

	decode func(*store.Lease) (bgp.LeaseData, error) // nil: bgp.DecodeLease
}

// Plan is what a node should do.
type Plan struct {
	Instance bgp.Instance   // its slices are sorted
	Publish  bgp.LeaseData  // in the node's lease
	Rejects  []store.Reject // leases, peers and announcements that are left out, sorted by key; they affect no other
	Again    time.Duration  // after which the plan may be another although nothing happens; 0: never
}

// Make returns the plan for a node.
func Make(in Input) Plan {
	v := look(in)
	p := Plan{
		Instance: bgp.Instance{
			AS: in.Node.AS, RouterID: v.routerID, Port: in.Node.Port,
			IPv4: in.Network.EnableIPv4, IPv6: in.Network.EnableIPv6,
		},
		Publish: v.publish(),
		Again:   v.again,
	}
	said := v.announcements()
	p.Instance.Announcements = said.all
	p.Instance.Peers, p.Instance.Ranges = v.external(said)
	p.Instance.Peers = append(p.Instance.Peers, v.internal(said, p.Instance.Peers)...)
	slices.SortFunc(p.Instance.Peers, func(a, b bgp.Peer) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(p.Instance.Ranges, func(a, b bgp.Range) int { return a.Prefix.Compare(b.Prefix) })
	slices.SortFunc(v.rejects, func(a, b store.Reject) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Err.Error(), b.Err.Error()))
	})
	p.Rejects = v.rejects
	return p
}

// view is the input as the node sees it.
type view struct {
	Input
	routerID netip.Addr
	sessions map[netip.Addr]bgp.SessionState
	nodes    []*node // the others, sorted by address
	rejects  []store.Reject
	again    time.Duration

	reflectors map[string]*node // the others that reflect within this AS, by name
	hears      map[string]bool  // names of reflectors
}

func look(in Input) *view {
	v := &view{Input: in, routerID: RouterID(in.Node, in.Self.PublicIP), sessions: map[netip.Addr]bgp.SessionState{}}
	if v.decode == nil {
		v.decode = bgp.DecodeLease
	}
	for _, s := range in.Sessions {
		v.sessions[s.Address] = s
	}
	v.readLeases()
	v.listen()
	return v
}

func (v *view) reject(key string, err error) {
	v.rejects = append(v.rejects, store.Reject{Key: key, Err: err})
}

// recheck asks for another plan after d.
func (v *view) recheck(d time.Duration) {
	if v.again == 0 || d < v.again {
		v.again = max(d, time.Millisecond)
	}
}

// RouterID returns the router ID of a node: the configured one, else its IPv4 address, else one that is derived from its name.
func RouterID(n config.Node, public netip.Addr) netip.Addr {
	switch {
	case n.RouterID.IsValid():
		return n.RouterID
	case public.Is4():
		return public
	}
	sum := sha256.Sum256([]byte("twill router ID\x00" + n.Name))
	sum[0] = 1 + sum[0]%223 // the range of unicast addresses, in case a neighbour expects one
	return netip.AddrFrom4([4]byte(sum[:4]))
}

// publicOf returns the lease's address of one family.
func publicOf(l *store.Lease, ipv6 bool) netip.Addr {
	if ipv6 {
		return l.PublicIPv6
	}
	return l.PublicIP
}
