package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// Reader looks at nftables and changes nothing; nft.Handle is the real one.
type Reader interface {
	// FindElements returns those of the elements, by their keys, that a set holds.
	FindElements(family kernel.TableFamily, table, set string, elems []kernel.Element) ([]kernel.Element, error)
	// Differences says what of a table is not as it should be, but for the content of its Bulk sets.
	Differences(table kernel.Table) ([]kernel.Difference, error)
}

// Inspector answers questions of people about an Enforcer. Its methods may be called concurrently. What it says of the kernel is read when it is asked for.
type Inspector struct {
	enforcer *Enforcer
	kernel   Reader
}

// NewInspector makes an Inspector. k is to be another handle than the Enforcer's, so that a long listing keeps no change waiting.
func NewInspector(e *Enforcer, k Reader) *Inspector { return &Inspector{enforcer: e, kernel: k} }

// Drops returns the last packets that were refused and told of, the oldest first.
func (i *Inspector) Drops() []api.Drop { return i.enforcer.drops.Last() }

// Pods returns the pods of this node, sorted by name.
func (i *Inspector) Pods(ctx context.Context) ([]api.PolicyPod, error) {
	e := i.enforcer
	release, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	out := make([]api.PolicyPod, 0, len(e.pods.local))
	for _, l := range e.pods.local {
		p := api.PolicyPod{Namespace: l.Key.Name.Namespace, Name: l.Key.Name.Name, Addresses: l.Addrs, Enforced: e.filter.Enforced(l.Key, l.UID)}
		for _, a := range l.Addrs {
			if _, ok := e.pods.holder(a); !ok {
				p.Enforced = false
			}
		}
		if p.Enforced {
			p.Egress, p.Ingress = e.filter.Policies(policy.Egress, l.Key), e.filter.Policies(policy.Ingress, l.Key)
		}
		out = append(out, p)
	}
	return out, nil
}

var answers = map[filter.Side]string{filter.Elsewhere: "elsewhere", filter.Open: "open", filter.Refused: "refused", filter.Unknown: "unknown"}

// Verdict says what becomes of a new connection on this node: by the table as it was written, and why, by the policies. The kernel's own maps are looked
// into for both ends.
func (i *Inspector) Verdict(ctx context.Context, flow policy.Flow) (*api.FlowVerdict, error) {
	e := i.enforcer
	own, err := e.opts.NodeAddrs(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	flow.Src, flow.Dst = flow.Src.Unmap(), flow.Dst.Unmap()
	flow.FromNode = slices.Contains(own, flow.Src)
	judged := filter.Flow{Flow: flow, ToNode: slices.Contains(own, flow.Dst)}
	v, err := e.verdict(ctx, judged)
	if err != nil {
		return nil, err
	}
	for _, direction := range []policy.Direction{policy.Egress, policy.Ingress} {
		if err := i.walk(ctx, direction, judged, &v.Kernel); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// verdict builds a World of what is known of both ends, for which no sync waits.
func (e *Enforcer) verdict(ctx context.Context, flow filter.Flow) (*api.FlowVerdict, error) {
	v, facts, err := e.answer(ctx, flow)
	if err != nil {
		return nil, err
	}
	world := policy.NewWorld()
	world.Apply(facts)
	meant := world.Decide(flow.Flow)
	v.Policies = api.FlowPolicies{Egress: decisionOf(meant.Egress, flow.Flow), Ingress: decisionOf(meant.Ingress, flow.Flow)}
	return v, nil
}

// answer says what the table as it was written says of the flow, and what was known of its ends then.
func (e *Enforcer) answer(ctx context.Context, flow filter.Flow) (*api.FlowVerdict, store.PolicyChanges, error) {
	release, err := e.ask(ctx)
	if err != nil {
		return nil, store.PolicyChanges{}, err
	}
	defer release()
	answer := e.filter.Allows(flow)
	side := func(direction policy.Direction, end netip.Addr, s filter.Side) api.FlowSide {
		out := api.FlowSide{Answer: answers[s], Pod: e.podName(end)}
		if decision, ok := e.filter.Explain(direction, flow.Flow); ok {
			out.Reason = decision.Explain(flow.Flow)
		}
		return out
	}
	return &api.FlowVerdict{
		Allowed: answer.Allowed(),
		Egress:  side(policy.Egress, flow.Src, answer.Egress),
		Ingress: side(policy.Ingress, flow.Dst, answer.Ingress),
	}, e.filter.FactsAt(flow.Src, flow.Dst), nil
}

func decisionOf(d policy.Decision, flow policy.Flow) api.FlowDecision {
	out := api.FlowDecision{Allowed: d.Allowed, Node: d.Pod.Node, Tier: string(d.Tier), Policies: d.Policies, Reason: d.Explain(flow)}
	if d.Pod != (store.PodKey{}) {
		out.Pod = d.Pod.Name.String()
	}
	return out
}

// Find returns the pods of the cluster with that name.
func (i *Inspector) Find(ctx context.Context, name store.ObjectName) ([]api.ClusterPod, error) {
	e := i.enforcer
	release, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	pods := e.filter.Named(name)
	release()
	found := []api.ClusterPod{}
	for _, pod := range pods {
		found = append(found, api.ClusterPod{Namespace: name.Namespace, Name: name.Name, Node: pod.Node, Addresses: pod.Addrs})
	}
	slices.SortFunc(found, func(a, b api.ClusterPod) int { return strings.Compare(a.Node, b.Node) })
	return found, nil
}

// chainOf returns the chain that one of the maps of local pods leads an address to.
func (i *Inspector) chainOf(set string, a netip.Addr) (string, error) {
	found, err := i.kernel.FindElements(gate.Family, gate.TableName, set, []kernel.Element{{Key: []kernel.Datum{{Addr: a}}}})
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up %s in set %s: %w", a, set, err)
	}
	if v := found[0].Value; len(v) == 1 && v[0].Verdict != nil {
		return v[0].Verdict.Chain, nil
	}
	return "", nil
}

// Differences says what of the table is not as it should be, but for the content of its large sets.
func (i *Inspector) Differences(ctx context.Context) ([]kernel.Difference, error) {
	e := i.enforcer
	release, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	table := e.table
	release()
	found, err := i.kernel.Differences(table)
	if found == nil {
		found = []kernel.Difference{}
	}
	return found, err
}

// podName returns the name of the pod that has the address, if one is known. e.state is held.
func (e *Enforcer) podName(a netip.Addr) string {
	var names []string
	for _, key := range e.filter.PodsAt(a) {
		names = append(names, key.Name.String())
	}
	return strings.Join(names, ", ")
}
