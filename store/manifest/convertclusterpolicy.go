package manifest

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/store"
)

// FromClusterNetworkPolicy returns what a node needs of a ClusterNetworkPolicy. An error with a policy tells of rules with parts that cannot be
// understood: the API server's definition is of a later version or of the experimental channel. These rules fail closed as the API demands of
// unknown peers: one that accepts matches nothing, any other denies everything. There is no policy when it is unknown which pods it is about
// or where its place among others is.
func FromClusterNetworkPolicy(p *ClusterNetworkPolicy) (*store.ClusterNetworkPolicy, error) {
	out := &store.ClusterNetworkPolicy{Name: p.Name, Tier: store.PolicyTier(p.Spec.Tier)}
	if out.Tier != store.TierAdmin && out.Tier != store.TierBaseline {
		return nil, fmt.Errorf("cluster network policy %s: spec.tier: %q is neither Admin nor Baseline", p.Name, clip(p.Spec.Tier))
	}
	if n := p.Spec.Priority; n == nil || *n < 0 || *n > maxPriority {
		return nil, fmt.Errorf("cluster network policy %s: spec.priority: is no number from 0 to %d", p.Name, maxPriority)
	}
	out.Priority = int(*p.Spec.Priority)
	subject, err := clusterPeerOf(ClusterPolicyEgressPeer{Namespaces: p.Spec.Subject.Namespaces, Pods: p.Spec.Subject.Pods})
	if err != nil {
		return nil, fmt.Errorf("cluster network policy %s: spec.subject%w", p.Name, err)
	}
	out.Namespaces = *subject[0].Namespaces
	if subject[0].Pods != nil {
		out.Pods = *subject[0].Pods
	}
	var errs []error
	out.Ingress, err = clusterRulesOf(ingressRules(&p.Spec), "spec.ingress")
	errs = append(errs, err)
	out.Egress, err = clusterRulesOf(egressRules(&p.Spec), "spec.egress")
	if err := errors.Join(append(errs, err)...); err != nil {
		out.Flaw = err.Error()
		return out, fmt.Errorf("cluster network policy %s: %w", p.Name, err)
	}
	return out, nil
}

func clusterRulesOf(rules []clusterRule, field string) ([]store.ClusterPolicyRule, error) {
	var out []store.ClusterPolicyRule
	var errs []error
	for i, r := range rules {
		rule, err := clusterRuleOf(r)
		switch {
		case err == nil:
			out = append(out, rule)
		case r.action == string(store.ActionAccept):
			errs = append(errs, fmt.Errorf("%s[%d]%w: the rule accepts nothing", field, i, err))
			out = append(out, store.ClusterPolicyRule{Name: r.name, Action: store.ActionAccept, Peers: nobody()})
		default:
			errs = append(errs, fmt.Errorf("%s[%d]%w: the rule denies everything", field, i, err))
			out = append(out, store.ClusterPolicyRule{Name: r.name, Action: store.ActionDeny, Peers: everybody()})
		}
	}
	return out, errors.Join(errs...)
}

// everybody returns peers that every address is one of.
func everybody() []store.PolicyPeer {
	return []store.PolicyPeer{{Block: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Block: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}
}

func clusterRuleOf(r clusterRule) (store.ClusterPolicyRule, error) {
	out := store.ClusterPolicyRule{Name: r.name, Action: store.PolicyAction(r.action)}
	switch out.Action {
	case store.ActionAccept, store.ActionDeny, store.ActionPass:
	default:
		return out, fmt.Errorf(".action: %q is none of Accept, Deny and Pass", clip(r.action))
	}
	if len(r.peers) == 0 {
		return out, fmt.Errorf(".%s: has no peer that is known", r.peersField)
	}
	for i, p := range r.peers {
		peers, err := clusterPeerOf(p)
		if err != nil {
			return out, fmt.Errorf(".%s[%d]%w", r.peersField, i, err)
		}
		out.Peers = append(out.Peers, peers...)
	}
	for i, p := range r.protocols {
		port, err := p.port()
		if err != nil {
			return out, fmt.Errorf(".protocols[%d]%w", i, err)
		}
		out.Ports = append(out.Ports, port)
	}
	return out, nil
}

// clusterPeerOf returns the peers that one of the API stands for: one for each of its networks.
func clusterPeerOf(p ClusterPolicyEgressPeer) ([]store.PolicyPeer, error) {
	if names := p.experimental(); len(names) > 0 {
		return nil, fmt.Errorf(".%s: is of the API's experimental channel, which is not supported", names[0])
	}
	if n := p.fields(); n != 1 {
		return nil, fmt.Errorf(": has %d fields that are known, not one", n)
	}
	var out store.PolicyPeer
	var err error
	switch {
	case p.Namespaces != nil:
		if out.Namespaces, err = pointerTo(selectorOf(p.Namespaces)); err != nil {
			return nil, fmt.Errorf(".namespaces: %w", err)
		}
		return []store.PolicyPeer{out}, nil
	case p.Pods != nil:
		if out.Namespaces, err = pointerTo(selectorOf(p.Pods.NamespaceSelector)); err != nil {
			return nil, fmt.Errorf(".pods.namespaceSelector: %w", err)
		}
		if p.Pods.PodSelector == nil {
			return nil, errors.New(".pods.podSelector: is missing")
		}
		if out.Pods, err = pointerTo(selectorOf(p.Pods.PodSelector)); err != nil {
			return nil, fmt.Errorf(".pods.podSelector: %w", err)
		}
		return []store.PolicyPeer{out}, nil
	}
	var all []store.PolicyPeer
	for i, text := range p.Networks {
		network, err := networkOf(text)
		if err != nil {
			return nil, fmt.Errorf(".networks[%d]: %w", i, err)
		}
		all = append(all, store.PolicyPeer{Block: network})
	}
	return all, nil
}

func (p ClusterPolicyProtocol) port() (store.PolicyPort, error) {
	if n := p.fields(); n != 1 {
		return store.PolicyPort{}, fmt.Errorf(": has %d fields that are known, not one", n)
	}
	if p.DestinationNamedPort != "" {
		return store.PolicyPort{Name: p.DestinationNamedPort}, nil
	}
	t := p.transports()[0]
	out, err := t.is.DestinationPort.port()
	if err != nil {
		return out, fmt.Errorf(".%s.destinationPort: %w", t.name, err)
	}
	out.Protocol = t.protocol
	return out, nil
}

// port returns the port or range, without the protocol. Without a destination port that is known, the rule may ask for something else that is not.
func (p *ClusterPolicyPort) port() (store.PolicyPort, error) {
	var out store.PolicyPort
	var err error
	switch {
	case p == nil || p.Number == nil == (p.Range == nil):
		return out, errors.New("is neither a number nor a range")
	case p.Number != nil:
		out.Port, err = portOf(*p.Number)
		return out, err
	}
	if out.Port, err = portOf(p.Range.Start); err != nil {
		return out, err
	}
	if out.EndPort, err = portOf(p.Range.End); err != nil {
		return out, err
	}
	if out.EndPort < out.Port {
		return out, fmt.Errorf("%d-%d is no range", out.Port, out.EndPort)
	}
	return out, nil
}
