package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/plugins/record"
	"github.com/twill-cni/twill/policy"
)

// What a look at a connection results in.
const (
	allowed   = "allowed"
	denied    = "denied"
	unclear   = "unclear"
	notLooked = "not looked at"
)

// answerElsewhere is what a node says of an end that is none of its pods (api.FlowSide).
const answerElsewhere = "elsewhere"

// trialFlow is a connection to be tested.
type trialFlow = policy.Flow

// trialResult is what came out of it.
type trialResult struct {
	From          trialEnd  `json:"from"`
	To            trialEnd  `json:"to"`
	Protocol      string    `json:"protocol"`
	Port          uint16    `json:"port,omitempty"`
	Policies      trialLook `json:"policies"`
	Kernel        trialLook `json:"kernel"`
	Probe         trialLook `json:"probe"`
	Result        string    `json:"result"` // allowed, denied or unclear
	Conclusion    string    `json:"conclusion"`
	Disagreements []string  `json:"disagreements,omitempty"`
}

// trialLook is one look at it.
type trialLook struct {
	Result  string   `json:"result"` // allowed, denied, unclear, or not looked at
	Details []string `json:"details"`
}

// side is one end of a connection, as a node sees it that may be the end's own.
type side struct {
	name     string // egress or ingress
	seen     bool   // by the end's own node
	node     viewpoint
	decision api.FlowDecision
	written  string // what the node's twilld has written
	kernel   string // what the kernel has
	chain    string
}

// open reports whether the kernel of the end's node lets it pass.
func (s side) open() bool { return s.kernel == "open" || s.kernel == answerElsewhere }

// A change that is under way, or a repair, makes policies and kernel differ for a moment. What differs is looked at again.
const (
	mostLooks = 3
	lookPause = 500 * time.Millisecond
)

func (t *trial) look(ctx context.Context, views []viewpoint, flow trialFlow) (trialResult, error) {
	for looks := 1; ; looks++ {
		sides, silent, err := ask(ctx, views, flow)
		if err != nil {
			return trialResult{}, err
		}
		r := trialResult{
			From:     trialEnd{Pod: sides[0].decision.Pod, Node: sides[0].decision.Node, Address: flow.Src},
			To:       trialEnd{Pod: sides[1].decision.Pod, Node: sides[1].decision.Node, Address: flow.Dst},
			Protocol: transportName(flow), Port: flow.Port,
			Policies: meaning(sides),
		}
		r.lookAtKernel(ctx, sides, silent)
		if len(r.Disagreements) == 0 || looks == mostLooks {
			r.Probe = t.probe(ctx, views, flow)
			r.conclude(sides, flow)
			return r, nil
		}
		select {
		case <-ctx.Done():
			return trialResult{}, ctx.Err()
		case <-time.After(lookPause):
		}
	}
}

// ask asks all nodes about the connection, and takes for each end the answer of the node that has the end, if there is one. silent says why nodes did not
// answer.
func ask(ctx context.Context, views []viewpoint, flow trialFlow) (sides [2]side, silent []string, err error) {
	sides[0].name, sides[1].name = "egress", "ingress"
	var errs []error
	heard := false
	for _, v := range views {
		verdict, err := v.client.Verdict(ctx, flow)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v, err))
			silent = append(silent, fmt.Sprintf("%s did not answer: %v", v, err))
			continue
		}
		for i, s := range []side{
			{"egress", verdict.Kernel.Egress != "" || verdict.Egress.Answer != answerElsewhere, v, verdict.Policies.Egress, verdict.Egress.Answer, verdict.Kernel.EgressAnswer, verdict.Kernel.Egress},
			{"ingress", verdict.Kernel.Ingress != "" || verdict.Ingress.Answer != answerElsewhere, v, verdict.Policies.Ingress, verdict.Ingress.Answer, verdict.Kernel.IngressAnswer, verdict.Kernel.Ingress},
		} {
			if s.seen || !heard {
				sides[i] = s
			}
		}
		heard = true
	}
	if !heard {
		return sides, nil, errors.Join(errs...)
	}
	return sides, silent, nil
}

// meaning is the look at the policies.
func meaning(sides [2]side) trialLook {
	look := trialLook{Result: allowed}
	for _, s := range sides {
		if s.decision.Pod == "" && s.decision.Allowed {
			continue
		}
		if !s.decision.Allowed {
			look.Result = denied
		}
		look.Details = append(look.Details, s.decision.Reason)
	}
	if look.Details == nil {
		look.Details = []string{"neither end is a pod that policies know"}
	}
	return look
}

// lookAtKernel is the look at the kernels of both ends' nodes.
func (r *trialResult) lookAtKernel(ctx context.Context, sides [2]side, silent []string) {
	r.Kernel = trialLook{Result: allowed, Details: silent}
	looked := 0
	var whole []string // nodes whose tables were compared
	for _, s := range sides {
		if !s.seen {
			if s.decision.Pod != "" {
				r.Kernel.Details = append(r.Kernel.Details, fmt.Sprintf("%s not looked at: it is in the kernel of %s", s.name, s.decision.Node))
			}
			continue
		}
		looked++
		r.Kernel.Details = append(r.Kernel.Details, fmt.Sprintf("%s: %s %s (%s)", s.node, s.name, kernelWord(s.kernel), chainWord(s.chain)))
		if !s.open() {
			r.Kernel.Result = denied
		}
		if s.open() != s.decision.Allowed {
			r.Disagreements = append(r.Disagreements, fmt.Sprintf("the kernel of %s has %s %s, the policies say otherwise", s.node, s.name, kernelWord(s.kernel)))
		}
		if s.kernel != s.written {
			r.Disagreements = append(r.Disagreements, fmt.Sprintf("the kernel of %s has %s %s, its twilld has written %s", s.node, s.name, kernelWord(s.kernel), kernelWord(s.written)))
		}
		if slices.Contains(whole, s.node.runDir) {
			continue
		}
		whole = append(whole, s.node.runDir)
		differences, err := s.node.client.PolicyDifferences(ctx)
		switch {
		case err != nil:
			r.Kernel.Details = append(r.Kernel.Details, fmt.Sprintf("%s: its rules were not compared: %v", s.node, err))
		case len(differences) > 0:
			r.Disagreements = append(r.Disagreements, fmt.Sprintf("the table of %s is not as its twilld has written it (%d differences, the first: %s)", s.node, len(differences), differences[0]))
		}
	}
	if looked == 0 {
		r.Kernel.Result = notLooked
		if r.Kernel.Details == nil {
			r.Kernel.Details = []string{"neither end is a pod of a node that was asked"}
		}
	}
}

func kernelWord(answer string) string {
	switch answer {
	case "unknown":
		return "closed, as an address that no known pod has"
	case answerElsewhere:
		return "not asked" // a pod's way to itself, the node's to its pods
	}
	return answer
}

func chainWord(chain string) string {
	if chain == "" {
		return "no chain"
	}
	return "chain " + chain
}

// probe tries the connection, when a node that was asked is the source's.
func (t *trial) probe(ctx context.Context, views []viewpoint, flow trialFlow) trialLook {
	if t.noProbe {
		return trialLook{notLooked, []string{"--no-probe"}}
	}
	path, err := netnsOf(views, flow.Src)
	if err != nil {
		return trialLook{notLooked, []string{err.Error()}}
	}
	if path == "" {
		return trialLook{notLooked, []string{fmt.Sprintf("%s is no pod of a node that was asked", flow.Src)}}
	}
	if dir := filepath.Dir(path); dir != netns.Dir && dir != "/var/run/netns" {
		return trialLook{notLooked, []string{fmt.Sprintf("the network namespace %s is not in %s", path, netns.Dir)}}
	}
	answer := probe.Ask(ctx, netns.Named(filepath.Base(path)), flow.Protocol, netip.AddrPortFrom(flow.Dst, flow.Port), t.patience)
	result := map[probe.Outcome]string{probe.Reached: allowed, probe.Silent: denied, probe.Failed: unclear}[answer.Outcome]
	return trialLook{result, []string{answer.Detail}}
}

// netnsOf returns the path of the network namespace of the pod with that address, by the records of the nodes that were asked; empty when there is none.
func netnsOf(views []viewpoint, addr netip.Addr) (string, error) {
	for _, v := range views {
		records, err := record.Look(v.runDir)
		if err != nil {
			return "", fmt.Errorf("%s: %w", v, err)
		}
		for _, r := range records {
			if r.Damage == nil && r.Complete && slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == addr }) {
				return r.Netns, nil
			}
		}
	}
	return "", nil
}

// conclude says what the looks have in common.
func (r *trialResult) conclude(sides [2]side, flow trialFlow) {
	mute := flow.Protocol == 17 || r.To.Pod == "" // a server that says nothing, a host that is not there
	remark := ""
	switch {
	case r.Probe.Result == allowed && r.Policies.Result == denied:
		r.Disagreements = append(r.Disagreements, "the probe got through, and policies deny it")
	case r.Probe.Result == denied && r.Policies.Result == allowed && mute:
		r.Probe.Result = unclear
		remark = "; that no answer came may have other reasons"
	case r.Probe.Result == unclear && r.Policies.Result == allowed:
		remark = "; the probe failed for another reason"
	case r.Probe.Result == denied && r.Policies.Result == allowed:
		r.Disagreements = append(r.Disagreements, "policies allow it, and no answer comes: is the way to the pod in order (twilld's /readyz, routes), does something else drop it?")
	}
	r.Result = r.Policies.Result
	r.Conclusion = r.Result + " " + by(sides, r.Result) + remark
	for _, s := range sides {
		if !s.seen && s.decision.Pod != "" && r.Probe.Result != allowed {
			r.Conclusion += fmt.Sprintf("; %s was not looked at in the kernel", s.name)
		}
	}
	if len(r.Disagreements) > 0 {
		r.Result = unclear
		r.Conclusion = "DISAGREEMENT: " + strings.Join(r.Disagreements, "; ")
	}
}

// by names the policies that decided.
func by(sides [2]side, result string) string {
	var parts []string
	for _, s := range sides {
		if s.decision.Tier == "" || s.decision.Allowed != (result == allowed) {
			continue
		}
		kind := "ClusterNetworkPolicy"
		if s.decision.Tier == string(policy.TierNetworkPolicy) {
			kind = "NetworkPolicy"
		}
		parts = append(parts, fmt.Sprintf("by %s %s (%s of %s)", kind, strings.Join(s.decision.Policies, ", "), s.name, s.decision.Pod))
	}
	if parts == nil {
		return "since no policy has a say"
	}
	return strings.Join(parts, " and ")
}

func transportName(flow trialFlow) string {
	switch {
	case policy.HasPorts(flow.Protocol):
		return flow.Protocol.String()
	case flow.Protocol == probe.ICMPv6:
		return "ICMPv6"
	}
	return "ICMP"
}
