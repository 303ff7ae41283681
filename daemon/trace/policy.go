package trace

import "fmt"

// The answers of a kernel's table of policies that let a packet pass (api.FlowSide).
const (
	open      = "open"
	elsewhere = "elsewhere" // the end is none of the node's pods
)

// Verdict is what a node says of one end of a way.
type Verdict struct {
	Direction string // egress or ingress
	Kernel    string // what the kernel's table answers
	Allowed   bool   // what policies say
	Pod       string // whose policies
	Reason    string
}

// PolicyHop is the hop that a Verdict makes.
func PolicyHop(node string, v Verdict) *Hop {
	said := v.Kernel
	switch said {
	case "unknown":
		said = "closed, as an address that no known pod has"
	case elsewhere:
		said = "not asked" // a pod's way to itself, the node's to its pods
	}
	hop := &Hop{Node: node, What: Policy, State: OK, Holds: v.Direction + " " + said}
	switch {
	case v.Kernel == open || v.Kernel == elsewhere:
	case v.Allowed:
		hop.State, hop.Reason = Failed, fmt.Sprintf("policies allow it, and the kernel has %s %s", v.Direction, said)
		hop.Mend = "look at the node's twilld (twillctl status): it did not write the table of policies"
	default:
		hop.State, hop.Reason = Failed, v.Reason
		hop.Mend = fmt.Sprintf("allow it in a policy, or see `twillctl policy show %s`", v.Pod)
	}
	return hop
}
