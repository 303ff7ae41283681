package policy

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/twill-cni/twill/store"
)

// Chain is the policies that a pod has in one direction, in the order in which they are asked: Admin, NetworkPolicies, Baseline. It depends on which
// policies select the pod, and on nothing else of it, so pods with the same policies share one.
type Chain struct {
	Direction Direction
	Admin     []*store.ClusterNetworkPolicy // sorted by CompareClusterPolicies
	Isolating []*store.NetworkPolicy        // those that isolate in this direction; sorted by name
	Baseline  []*store.ClusterNetworkPolicy // sorted by CompareClusterPolicies
}

// Rule is a rule of a policy, of either kind.
type Rule struct {
	Tier      store.PolicyTier
	Action    store.PolicyAction // of NetworkPolicies always ActionAccept
	Policy    string             // name of the ClusterNetworkPolicy, or namespace/name of the NetworkPolicy
	Namespace string             // of the NetworkPolicy
	Number    int                // in its policy and direction, from 0
	Name      string             // of rules of ClusterNetworkPolicies, if they have one
	Peers     []store.PolicyPeer // empty: everybody
	Ports     []store.PolicyPort // empty: every port of every protocol
}

// Select returns the chain of a pod whose namespace has these labels, out of all policies, which may come in any order.
func Select(direction Direction, pod *store.Pod, namespace map[string]string,
	policies iter.Seq[*store.NetworkPolicy], cluster iter.Seq[*store.ClusterNetworkPolicy]) Chain {
	chain := Chain{Direction: direction}
	for p := range policies {
		if Isolates(p, direction) && Selects(p, pod) {
			chain.Isolating = append(chain.Isolating, p)
		}
	}
	for p := range cluster {
		switch {
		case len(clusterRules(p, direction)) == 0 || !ClusterSelects(p, pod, namespace):
		case p.Tier == store.TierAdmin:
			chain.Admin = append(chain.Admin, p)
		case p.Tier == store.TierBaseline:
			chain.Baseline = append(chain.Baseline, p)
		}
	}
	slices.SortFunc(chain.Admin, CompareClusterPolicies)
	slices.SortFunc(chain.Isolating, func(a, b *store.NetworkPolicy) int { return a.Name.Compare(b.Name) })
	slices.SortFunc(chain.Baseline, CompareClusterPolicies)
	return chain
}

// Selects reports whether the policy is about the pod.
func Selects(p *store.NetworkPolicy, pod *store.Pod) bool {
	return p.Name.Namespace == pod.Name.Namespace && p.Pods.Matches(pod.Labels)
}

// ClusterSelects reports whether the policy is about the pod, whose namespace has these labels.
func ClusterSelects(p *store.ClusterNetworkPolicy, pod *store.Pod, namespace map[string]string) bool {
	return p.Namespaces.Matches(namespace) && p.Pods.Matches(pod.Labels)
}

// Isolates reports whether the policy closes its pods in that direction, but for what a rule allows.
func Isolates(p *store.NetworkPolicy, direction Direction) bool {
	if direction == Egress {
		return p.IsolatesEgress
	}
	return p.IsolatesIngress
}

// CompareClusterPolicies orders policies of one tier as they are asked: by priority, the smallest first, and equal ones by name.
func CompareClusterPolicies(a, b *store.ClusterNetworkPolicy) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Name, b.Name))
}

// Empty reports whether no policy has a say, so that everything is allowed.
func (c Chain) Empty() bool { return len(c.Admin)+len(c.Isolating)+len(c.Baseline) == 0 }

// Rules returns all rules of the chain, in the order in which they are asked.
func (c Chain) Rules() []Rule {
	rules := clusterTier(c.Admin, c.Direction)
	for _, p := range c.Isolating {
		own := p.Ingress
		if c.Direction == Egress {
			own = p.Egress
		}
		for i, r := range own {
			rules = append(rules, Rule{
				Tier: TierNetworkPolicy, Action: store.ActionAccept, Policy: p.Name.String(), Namespace: p.Name.Namespace,
				Number: i, Peers: r.Peers, Ports: r.Ports,
			})
		}
	}
	return append(rules, clusterTier(c.Baseline, c.Direction)...)
}

func clusterTier(policies []*store.ClusterNetworkPolicy, direction Direction) []Rule {
	var rules []Rule
	for _, p := range policies {
		for i, r := range clusterRules(p, direction) {
			rules = append(rules, Rule{Tier: p.Tier, Action: r.Action, Policy: p.Name, Number: i, Name: r.Name, Peers: r.Peers, Ports: r.Ports})
		}
	}
	return rules
}

func clusterRules(p *store.ClusterNetworkPolicy, direction Direction) []store.ClusterPolicyRule {
	if direction == Egress {
		return p.Egress
	}
	return p.Ingress
}

// MatchesPeer reports whether the rule is about the peer.
func (r Rule) MatchesPeer(peer Peer) bool {
	return len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(term store.PolicyPeer) bool { return MatchesPeer(term, r.Namespace, peer) })
}

// MatchesPort reports whether the rule is about that port of the destination, which is nil when it is no pod. A rule with ports is never about a
// protocol that has none.
func (r Rule) MatchesPort(destination *store.Pod, protocol store.Protocol, port uint16) bool {
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p store.PolicyPort) bool {
		return slices.ContainsFunc(PortRanges(p, destination), func(one PortRange) bool { return one.Contains(protocol, port) })
	})
}

// Decide returns what the chain makes of a connection to which the rules apply for which matches reports true, as a Decision without a pod. It does not
// know of what policies cannot deny: a pod's way to its own address, and the node's to its pods.
func (c Chain) Decide(matches func(Rule) bool) Decision {
	rules := c.Rules()
	if rule, ok := first(rules, store.TierAdmin, matches); ok && rule.Action != store.ActionPass {
		return c.decidedBy(rule)
	}
	if len(c.Isolating) > 0 {
		return c.isolated(rules, matches)
	}
	if rule, ok := first(rules, store.TierBaseline, matches); ok && rule.Action != store.ActionPass {
		return c.decidedBy(rule)
	}
	return Decision{Direction: c.Direction, Allowed: true, Rule: -1}
}

func first(rules []Rule, tier store.PolicyTier, matches func(Rule) bool) (Rule, bool) {
	for _, r := range rules {
		if r.Tier == tier && matches(r) {
			return r, true
		}
	}
	return Rule{}, false
}

func (c Chain) decidedBy(r Rule) Decision {
	return Decision{
		Direction: c.Direction, Allowed: r.Action == store.ActionAccept,
		Tier: r.Tier, Policies: []string{r.Policy}, Rule: r.Number, RuleName: r.Name,
	}
}

// isolated decides for pods that a NetworkPolicy isolates: what one rule of any policy allows is allowed, and nothing else is.
func (c Chain) isolated(rules []Rule, matches func(Rule) bool) Decision {
	d := Decision{Direction: c.Direction, Tier: TierNetworkPolicy, Rule: -1}
	for _, r := range rules {
		if r.Tier != TierNetworkPolicy || slices.Contains(d.Policies, r.Policy) || !matches(r) {
			continue
		}
		if !d.Allowed {
			d.Allowed, d.Rule = true, r.Number
		}
		d.Policies = append(d.Policies, r.Policy)
	}
	if !d.Allowed {
		for _, p := range c.Isolating {
			d.Policies = append(d.Policies, p.Name.String())
		}
	}
	return d
}
