package status

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/daemon/api"
)

// Node is what is known of a node.
type Node struct {
	Name   string // as it was asked for; Status has its own
	Status api.NodeStatus
	Err    error // why there is no Status
}

// Severity is how bad a finding is.
type Severity int

// The severities.
const (
	Broken   Severity = iota // pods do not reach something, or will not soon
	Degraded                 // what works goes on, changes may not arrive
	Notice                   // worth knowing
)

func (s Severity) String() string { return [...]string{"broken", "degraded", "notice"}[s] }

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is something that is wrong, with what to do about it.
type Finding struct {
	Severity Severity `json:"severity"`
	Node     string   `json:"node,omitempty"` // empty: it concerns several
	What     string   `json:"what"`
	Mend     string   `json:"mend"`
}

func (f Finding) String() string {
	where := ""
	if f.Node != "" {
		where = f.Node + ": "
	}
	return where + f.What + ": " + f.Mend
}

// Thresholds of Judge.
const (
	late       = time.Minute      // for a change of Services or policies
	stale      = 10 * time.Minute // for the last good sync of a node, which has one every five to six minutes
	fullRange  = 90               // percent of the addresses of a range
	fullTable  = 80               // percent of the connections that the kernel tracks
	newlyBegun = 30 * time.Second // since the start of a daemon: it may be waiting for BGP peers, or for the first snapshot
)

// Judge returns what is wrong with the nodes, the worst first, and of the same kind in their order.
func Judge(nodes []Node, now time.Time) []Finding {
	var all []Finding
	for _, n := range nodes {
		all = append(all, ofNode(n, now)...)
	}
	all = append(all, ofCluster(nodes)...)
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return all
}

// judge collects what is wrong with a node.
type judge struct {
	name  string
	now   time.Time
	found []Finding
}

func (j *judge) find(severity Severity, mend, format string, args ...any) {
	j.found = append(j.found, Finding{severity, j.name, fmt.Sprintf(format, args...), mend})
}

func ofNode(n Node, now time.Time) []Finding {
	j := &judge{name: n.Name, now: now}
	if n.Err != nil {
		j.find(Broken, "`systemctl status twilld` there, or `kubectl -n kube-system logs` of its pod, says why; pods that run keep their network", "%v", n.Err)
		return j.found
	}
	s := n.Status
	if s.Datastore.Error != "" {
		j.find(Degraded, "see that it runs and that this node reaches it; what is programmed stays in force meanwhile",
			"the datastore (%s) does not answer: %s", s.Datastore.Kind, s.Datastore.Error)
	}
	for _, reason := range s.NotReady {
		j.notReady(reason, s)
	}
	j.peers(s.Peers)
	if s.BGP != nil {
		j.routing(*s.BGP, len(s.NotReady) > 0 && now.Sub(s.Started) < newlyBegun)
	}
	j.loop("Services", "twillctl service", s.Services)
	j.loop("policies", "twillctl policy show", s.Policies)
	j.resources(s)
	for _, u := range s.Unknown {
		j.find(Notice, "the daemon could not look at it", "%s", u)
	}
	return j.found
}

func (j *judge) notReady(reason string, s api.NodeStatus) {
	switch since := j.now.Sub(s.Started); {
	case explained(reason, s):
	case since < newlyBegun:
		j.find(Degraded, "look again in half a minute", "not ready yet, %s after the daemon's start: %s", since.Truncate(time.Second), reason)
	default:
		j.find(Broken, "the daemon tries again by itself; its log has more", "not ready: %s", reason)
	}
}

func (j *judge) peers(p api.PeerStatus) {
	if missing := p.Desired - p.Programmed; missing > 0 {
		j.find(Broken, "the daemon's log names them", "%d of %d links, routes, neighbours and forwarding entries are not in the kernel (%s)", missing, p.Desired, firstLine(p.Error))
	}
	if p.Rejected > 0 {
		j.find(Degraded, "the daemon's log names them: correct or remove those records", "%d records of other nodes cannot be used", p.Rejected)
	}
	if age := j.now.Sub(p.LastSync); !p.LastSync.IsZero() && age > stale {
		j.find(Degraded, "the daemon's log says why; restarting it does no harm to pods", "the last good sync was %s ago", age.Truncate(time.Second))
	}
}

// routing judges sessions, of which a node that starts has some that come up yet.
func (j *judge) routing(b api.BGPStatus, starts bool) {
	if down := b.Sessions - b.Established; down > 0 && !starts {
		j.find(Broken, "`twillctl bgp peers` on that node says why", "%d of %d BGP sessions are not established", down, b.Sessions)
	}
	if b.LeftOut > 0 {
		j.find(Degraded, "`twillctl bgp peers` on that node names them", "%d BGP peers have no session, for something is wrong with their configuration", b.LeftOut)
	}
}

func (j *judge) loop(what, see string, l *api.LoopStatus) {
	switch {
	case l == nil:
	case l.Error != "":
		j.find(Broken, "it is tried until it works; `"+see+"` shows what the kernel has", "%s are not programmed: %s", what, firstLine(l.Error))
	case l.WaitingSeconds > late.Seconds():
		j.find(Broken, "the daemon's log says what it waits for", "a change of %s has been waiting for %.0f s", what, l.WaitingSeconds)
	}
}

func (j *judge) resources(s api.NodeStatus) {
	j.found = append(j.found, OfRanges(j.name, s.Addresses)...)
	if c := s.Conntrack; percent(uint64(c.Used), uint64(c.Max)) >= fullTable {
		j.find(Broken, fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d, and the same in /etc/sysctl.d", 2*c.Max),
			"%d of %d connections are tracked: beyond that, packets of new ones are dropped", c.Used, c.Max)
	}
	if s.PodMTU > s.UplinkMTU && s.UplinkMTU > 0 {
		j.find(Broken, fmt.Sprintf("set the MTU of %s to %d or more, or restart twilld, which then takes the smaller one over", s.Uplink, s.PodMTU),
			"pods may send packets of %d bytes, and the uplink %s takes %d", s.PodMTU, s.Uplink, s.UplinkMTU)
	}
}

// OfRanges returns which ranges of a node's addresses are full, or nearly so.
func OfRanges(node string, ranges []api.RangeUse) []Finding {
	j := &judge{name: node}
	for _, r := range ranges {
		switch {
		case r.Size > 0 && r.Used >= r.Size:
			j.find(Broken, "delete pods here, or move them; a smaller SubnetLen gives nodes that join later more", "all %d addresses %s are taken: new pods do not start", r.Size, r.Range)
		case percent(r.Used, r.Size) >= fullRange:
			j.find(Degraded, "a smaller SubnetLen gives nodes that join later more; move pods to other nodes", "%d of the %d addresses %s are taken", r.Used, r.Size, r.Range)
		}
	}
	return j.found
}

// explained reports whether what keeps a node from being ready is said in another way already.
func explained(reason string, s api.NodeStatus) bool {
	return s.Datastore.Error != "" && strings.HasPrefix(reason, "datastore: ") ||
		s.Services != nil && s.Services.Error != "" && strings.Contains(reason, s.Services.Error) ||
		s.Policies != nil && s.Policies.Error != "" && strings.Contains(reason, s.Policies.Error) ||
		s.Peers.Programmed < s.Peers.Desired && isPart(reason, s.Peers.Error)
}

// isPart reports whether a reason is one of those that were joined to whole (errors.Join), a line or several.
func isPart(reason, whole string) bool { return strings.Contains("\n"+whole+"\n", "\n"+reason+"\n") }

// ofCluster compares the nodes with each other.
func ofCluster(nodes []Node) []Finding {
	versions, mtus := map[string][]string{}, map[int][]string{}
	var held []holding
	for _, n := range nodes {
		if n.Err != nil {
			continue
		}
		versions[n.Status.Version] = append(versions[n.Status.Version], n.Name)
		if n.Status.PodMTU > 0 {
			mtus[n.Status.PodMTU] = append(mtus[n.Status.PodMTU], n.Name)
		}
		for _, p := range n.Status.Subnets {
			held = append(held, holding{n.Name, p})
		}
	}
	all := overlaps(held)
	if len(mtus) > 1 {
		all = append(all, Finding{Degraded, "", "pods have different MTUs: " + spread(mtus), "give all uplinks one MTU: large packets to the smaller ones depend on path MTU discovery"})
	}
	if len(versions) > 1 {
		all = append(all, Finding{Notice, "", "nodes run different versions: " + spread(versions), "finish the upgrade"})
	}
	return all
}

// holding is a subnet that a node gives its pods.
type holding struct {
	node   string
	subnet netip.Prefix
}

// overlaps finds subnets that lie in others. Sorted, they come behind the first that they lie in: prefixes nest or are apart.
func overlaps(held []holding) []Finding {
	slices.SortStableFunc(held, func(a, b holding) int {
		return cmp.Or(a.subnet.Addr().Compare(b.subnet.Addr()), cmp.Compare(a.subnet.Bits(), b.subnet.Bits()))
	})
	var all []Finding
	var first holding
	for _, h := range held {
		if !first.subnet.Overlaps(h.subnet) {
			first = h
			continue
		}
		all = append(all, Finding{Broken, "", fmt.Sprintf("%s has pods in %s, and %s in %s", first.node, first.subnet, h.node, h.subnet),
			"drain one of the two, remove its lease, and restart its twilld"})
	}
	return all
}

func spread[K cmp.Ordered](by map[K][]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(by)) {
		names := by[key]
		if len(names) > 3 {
			names = append(slices.Clone(names[:3]), fmt.Sprintf("%d more", len(names)-3))
		}
		parts = append(parts, fmt.Sprintf("%v (%s)", key, strings.Join(names, ", ")))
	}
	return strings.Join(parts, ", ")
}

func percent(used, size uint64) uint64 {
	if size == 0 {
		return 0
	}
	return uint64(float64(used) / float64(size) * 100)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if line == "" {
		return "no reason is known"
	}
	return line
}
