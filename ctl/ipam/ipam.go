package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/ctl/status"
	"github.com/twill-cni/twill/daemon/api"
)

// Leaked reports whether a lease's pod is gone: the daemon releases it.
func Leaked(l api.AddressLease) bool { return l.NetnsGone }

// Check returns what is wrong, the worst first, and of the same kind in the order of the nodes.
func Check(nodes []api.AddressReport) []status.Finding {
	var all []status.Finding
	for _, n := range nodes {
		all = append(all, ofNode(n)...)
	}
	all = append(all, doubles(nodes)...)
	slices.SortStableFunc(all, func(a, b status.Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return all
}

func ofNode(n api.AddressReport) []status.Finding {
	var all []status.Finding
	find := func(severity status.Severity, mend, format string, args ...any) {
		all = append(all, status.Finding{Severity: severity, Node: n.Node, What: fmt.Sprintf(format, args...), Mend: mend})
	}
	for _, l := range n.Leases {
		switch {
		case Leaked(l):
			find(status.Degraded, fmt.Sprintf("twilld releases it %.0f s after it has seen that; --fix has it look now", n.ReleaseDelay),
				"%s holds %s, and its network namespace is gone", Name(l), joined(l.Addresses))
		case !l.Attached:
			find(status.Notice, "an ADD or a DEL runs, or was interrupted: the runtime's next DEL or GC clears it",
				"%s holds %s, and is not attached", Name(l), joined(l.Addresses))
		}
		if l.Outside {
			find(status.Degraded, "start the pod anew, which gives it an address that leads to this node",
				"%s holds %s, which is in none of the node's ranges", Name(l), joined(l.Addresses))
		}
	}
	for _, l := range n.Unleased {
		find(status.Broken, "start the pod anew before another one gets its address",
			"%s has %s, of which there is no lease", Name(l), joined(l.Addresses))
	}
	return append(all, status.OfRanges(n.Node, n.Ranges)...)
}

// doubles finds addresses that two pods have, on whatever nodes.
func doubles(nodes []api.AddressReport) []status.Finding {
	type holder struct {
		node  string
		lease api.AddressLease
	}
	held := map[netip.Addr]holder{}
	var all []status.Finding
	for _, n := range nodes {
		for _, l := range slices.Concat(n.Leases, n.Unleased) {
			for _, addr := range l.Addresses {
				other, twice := held[addr]
				if !twice {
					held[addr] = holder{n.Node, l}
					continue
				}
				all = append(all, status.Finding{Severity: status.Broken, Mend: "start both pods anew, one after the other",
					What: fmt.Sprintf("%s is %s on %s, and %s on %s", addr, Name(other.lease), other.node, Name(l), n.Node)})
			}
		}
	}
	return all
}

// Name is what a lease's pod is called.
func Name(l api.AddressLease) string {
	if l.Pod != "" {
		return "pod " + l.Pod
	}
	const short = 12 // as runtimes print them
	return "container " + l.Container[:min(short, len(l.Container))] + " " + l.Interface
}

func joined(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " and ")
}
