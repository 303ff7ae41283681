package policy

import (
	"fmt"
	"strings"

	"github.com/twill-cni/twill/store"
)

// String says in one sentence what was decided and by what.
func (d Decision) String() string { return d.explain("it") }

// Explain is String with the flow that was decided about.
func (d Decision) Explain(flow Flow) string {
	what := transport(flow.Protocol)
	if HasPorts(flow.Protocol) {
		what += fmt.Sprintf(" %d", flow.Port)
	}
	if d.Direction == Egress {
		return d.explain(fmt.Sprintf("%s to %s", what, flow.Dst))
	}
	return d.explain(fmt.Sprintf("%s from %s", what, flow.Src))
}

func (d Decision) explain(what string) string {
	subject, outcome := d.Direction.String(), "denied"
	if d.Pod != (store.PodKey{}) {
		subject += " of " + d.Pod.Name.String()
	}
	if d.Allowed {
		outcome = "allowed"
	}
	return fmt.Sprintf("%s %s: %s", subject, outcome, d.reason(what))
}

func (d Decision) reason(what string) string {
	if d.Tier == "" {
		return "no policy has a say about " + what
	}
	names := strings.Join(d.Policies, ", ")
	if d.Tier == TierNetworkPolicy && !d.Allowed {
		return fmt.Sprintf("isolated by NetworkPolicy %s; no rule allows %s", names, what)
	}
	rule := fmt.Sprintf("rule %d", d.Rule)
	if d.RuleName != "" {
		rule += fmt.Sprintf(" (%s)", d.RuleName)
	}
	if d.Tier == TierNetworkPolicy {
		first, others, several := strings.Cut(names, ", ")
		if several {
			others = "; so does " + others
		}
		return fmt.Sprintf("%s of NetworkPolicy %s allows %s%s", rule, first, what, others)
	}
	verb := "denies"
	if d.Allowed {
		verb = "accepts"
	}
	return fmt.Sprintf("%s of ClusterNetworkPolicy %s (%s) %s %s", rule, names, d.Tier, verb, what)
}

// The numbers of IANA's registry for protocols that have no ports but a name that people know.
const (
	icmp   store.Protocol = 1
	icmpv6 store.Protocol = 58
)

func transport(p store.Protocol) string {
	switch {
	case HasPorts(p):
		return p.String()
	case p == icmp:
		return "ICMP"
	case p == icmpv6:
		return "ICMPv6"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}
