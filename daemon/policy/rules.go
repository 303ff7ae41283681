package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// mostPods is how many pods are listed for a rule: a rule about all pods of a cluster has thousands.
const mostPods = 50

// Rules returns the rules that a pod of this node has, in the order in which they are asked, those of egress first. The pods that a rule is about are looked for
// among all of the cluster, for which no sync waits.
func (i *Inspector) Rules(ctx context.Context, name store.ObjectName) (*api.PolicyRules, error) {
	e := i.enforcer
	release, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	pod, facts := e.filter.PodFacts(store.PodKey{Node: e.opts.NodeName, Name: name})
	known := everybody{e.filter.Pods(), e.filter.Namespaces()}
	release()
	if pod == nil {
		return nil, fmt.Errorf("pod %s: this node knows no labels of such a pod", name)
	}
	own := policy.NamespaceLabels(name.Namespace, facts.Namespaces[name.Namespace])
	out := &api.PolicyRules{Pod: name.String(), Rules: []api.PolicyRule{}}
	for _, direction := range []policy.Direction{policy.Egress, policy.Ingress} {
		chain := policy.Select(direction, pod, own, maps.Values(facts.Policies), maps.Values(facts.ClusterPolicies))
		for _, r := range chain.Rules() {
			out.Rules = append(out.Rules, describeRule(direction, r, known))
		}
		isolating := &out.IsolatedEgress
		if direction == policy.Ingress {
			isolating = &out.IsolatedIngress
		}
		for _, p := range chain.Isolating {
			*isolating = append(*isolating, p.Name.String())
		}
	}
	return out, nil
}

// everybody are those whom rules may be about.
type everybody struct {
	pods       []*store.Pod
	namespaces map[string]*store.Namespace
}

func describeRule(direction policy.Direction, r policy.Rule, known everybody) api.PolicyRule {
	out := api.PolicyRule{Direction: direction.String(), Tier: string(r.Tier), Policy: r.Policy, Rule: r.Number, Name: r.Name, Action: string(r.Action)}
	for _, peer := range r.Peers {
		out.Peers = append(out.Peers, peerText(peer, r.Namespace))
	}
	for _, port := range r.Ports {
		out.Ports = append(out.Ports, portText(port))
	}
	if len(r.Peers) == 0 {
		return out
	}
	for _, pod := range known.pods {
		labels := policy.NamespaceLabels(pod.Name.Namespace, known.namespaces[pod.Name.Namespace])
		for _, a := range pod.Addrs {
			if r.MatchesPeer(policy.Peer{Addr: a, Pod: pod, Namespace: labels}) {
				out.Pods = append(out.Pods, pod.Name.String())
				break
			}
		}
	}
	slices.Sort(out.Pods)
	out.Pods = slices.Compact(out.Pods)
	if more := len(out.Pods) - mostPods; more > 0 {
		out.Pods, out.MorePods = out.Pods[:mostPods], more
	}
	return out
}

// peerText puts a peer of a rule into words. namespace is that of the policy.
func peerText(p store.PolicyPeer, namespace string) string {
	if p.Block.IsValid() {
		text := p.Block.String()
		for i, except := range p.Except {
			text += [...]string{" except ", ", "}[min(i, 1)] + except.String()
		}
		return text
	}
	pods := "all pods"
	if p.Pods != nil && !p.Pods.Everything() {
		pods = "pods " + p.Pods.String()
	}
	switch {
	case p.Namespaces == nil:
		return pods + " of namespace " + namespace
	case p.Namespaces.Everything():
		return pods + " of all namespaces"
	}
	return pods + " of namespaces " + p.Namespaces.String()
}

// portText puts a port of a rule into words.
func portText(p store.PolicyPort) string {
	var words []string
	if p.Protocol != 0 {
		words = append(words, p.Protocol.String())
	}
	switch {
	case p.Name != "":
		words = append(words, "port "+p.Name)
	case p.Port == 0:
		words = append(words, "all ports")
	case p.EndPort > p.Port:
		words = append(words, fmt.Sprintf("%d-%d", p.Port, p.EndPort))
	default:
		words = append(words, fmt.Sprint(p.Port))
	}
	return strings.Join(words, " ")
}
