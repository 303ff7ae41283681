package manifest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/twill-cni/twill/store"
)

// FromNamespace returns what a node needs of a Namespace.
func FromNamespace(ns *corev1.Namespace) *store.Namespace {
	out := &store.Namespace{Name: ns.Name, Labels: make(map[string]string, len(ns.Labels)+1)}
	maps.Copy(out.Labels, ns.Labels)
	out.Labels[store.NamespaceNameLabel] = ns.Name // which the API server sees to
	return out
}

// FromNetworkPolicy returns what a node needs of a NetworkPolicy. An error with a policy tells of parts that cannot be understood, since a later
// version of the API has them: the policy allows nothing by them. There is no policy when it is unknown which pods it is about.
func FromNetworkPolicy(p *networkingv1.NetworkPolicy) (*store.NetworkPolicy, error) {
	out := &store.NetworkPolicy{Name: nameOf(p)}
	var err error
	if out.Pods, err = selectorOf(&p.Spec.PodSelector); err != nil {
		return nil, fmt.Errorf("network policy %s: spec.podSelector: %w", out.Name, err)
	}
	var errs []error
	for i, t := range policyTypes(&p.Spec) {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, fmt.Errorf("spec.policyTypes[%d]: %q is neither Ingress nor Egress", i, clip(string(t))))
		}
	}
	if out.IsolatesIngress = isolates(&p.Spec, networkingv1.PolicyTypeIngress); out.IsolatesIngress {
		for i, r := range p.Spec.Ingress {
			out.Ingress, err = addRule(out.Ingress, ruleOf{fmt.Sprintf("spec.ingress[%d]", i), "from", r.From, r.Ports})
			errs = append(errs, err)
		}
	}
	if out.IsolatesEgress = isolates(&p.Spec, networkingv1.PolicyTypeEgress); out.IsolatesEgress {
		for i, r := range p.Spec.Egress {
			out.Egress, err = addRule(out.Egress, ruleOf{fmt.Sprintf("spec.egress[%d]", i), "to", r.To, r.Ports})
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		out.Flaw = err.Error()
		return out, fmt.Errorf("network policy %s: %w", out.Name, err)
	}
	return out, nil
}

// ruleOf is a rule of either direction, and where it is.
type ruleOf struct {
	at, peersField string
	peers          []networkingv1.NetworkPolicyPeer
	ports          []networkingv1.NetworkPolicyPort
}

// addRule appends what a rule means. Peers and ports that cannot be understood are left out, and when none is left the rule is about nobody: a list
// without elements would stand for everything. The rule keeps its place, since rules are named by their numbers.
func addRule(rules []store.PolicyRule, r ruleOf) ([]store.PolicyRule, error) {
	var out store.PolicyRule
	var errs []error
	for i, p := range r.peers {
		peer, err := peerOf(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%s[%d]%w", r.at, r.peersField, i, err))
			continue
		}
		out.Peers = append(out.Peers, peer)
	}
	for i, p := range r.ports {
		port, err := policyPortOf(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.ports[%d]%w", r.at, i, err))
			continue
		}
		out.Ports = append(out.Ports, port)
	}
	if len(out.Peers) > 0 != (len(r.peers) > 0) || len(out.Ports) > 0 != (len(r.ports) > 0) {
		out = store.PolicyRule{Peers: nobody()}
	}
	return append(rules, out), errors.Join(errs...)
}

// nobody returns a peer that matches nothing: pods of namespaces whose name is none of none.
func nobody() []store.PolicyPeer {
	none := store.NewSelector(store.Requirement{Key: store.NamespaceNameLabel, Operator: store.SelectorIn})
	return []store.PolicyPeer{{Namespaces: &none}}
}

func peerOf(p networkingv1.NetworkPolicyPeer) (store.PolicyPeer, error) {
	var out store.PolicyPeer
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	if selects == (p.IPBlock != nil) {
		return out, errors.New(": is neither an ipBlock nor selectors")
	}
	var err error
	if p.NamespaceSelector != nil {
		if out.Namespaces, err = pointerTo(selectorOf(p.NamespaceSelector)); err != nil {
			return out, fmt.Errorf(".namespaceSelector: %w", err)
		}
	}
	if p.PodSelector != nil {
		if out.Pods, err = pointerTo(selectorOf(p.PodSelector)); err != nil {
			return out, fmt.Errorf(".podSelector: %w", err)
		}
	}
	if p.IPBlock == nil {
		return out, nil
	}
	if out.Block, err = networkOf(p.IPBlock.CIDR); err != nil {
		return out, fmt.Errorf(".ipBlock.cidr: %w", err)
	}
	for i, text := range p.IPBlock.Except {
		except, err := networkOf(text)
		if err != nil {
			return out, fmt.Errorf(".ipBlock.except[%d]: %w", i, err)
		}
		if except.Overlaps(out.Block) && except.Bits() <= out.Block.Bits() {
			return out, fmt.Errorf(".ipBlock.except[%d]: %s leaves nothing of %s", i, except, out.Block)
		}
		if except.Overlaps(out.Block) {
			out.Except = append(out.Except, except)
		}
	}
	return out, nil
}

func pointerTo(s store.Selector, err error) (*store.Selector, error) { return &s, err }

func policyPortOf(p networkingv1.NetworkPolicyPort) (store.PolicyPort, error) {
	out := store.PolicyPort{Protocol: store.TCP}
	var err error
	if p.Protocol != nil {
		if out.Protocol, err = protocolOf(*p.Protocol); err != nil {
			return out, fmt.Errorf(".protocol: %w", err)
		}
	}
	switch {
	case p.Port == nil:
	case p.Port.Type == intstr.String && p.Port.StrVal != "":
		out.Name = p.Port.StrVal
	default:
		if out.Port, err = portOf(p.Port.IntVal); err != nil {
			return out, fmt.Errorf(".port: %w", err)
		}
	}
	if p.EndPort == nil {
		return out, nil
	}
	if out.EndPort, err = portOf(*p.EndPort); err != nil {
		return out, fmt.Errorf(".endPort: %w", err)
	}
	if out.Port == 0 || out.EndPort < out.Port {
		return out, fmt.Errorf(".endPort: %d ends no range", out.EndPort)
	}
	return out, nil
}

// selectorOf returns what a selector means; nil selects everything. One that the API's clients would not understand is an error.
func selectorOf(s *metav1.LabelSelector) (store.Selector, error) {
	if s == nil {
		return store.Selector{}, nil
	}
	if errs := validateSelector(s, nil); len(errs) > 0 {
		return store.Selector{}, errs.ToAggregate()
	}
	var requirements []store.Requirement
	for key, value := range s.MatchLabels {
		requirements = append(requirements, store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
	}
	for _, e := range s.MatchExpressions {
		requirements = append(requirements, store.Requirement{Key: e.Key, Operator: store.SelectorOperator(e.Operator), Values: slices.Clone(e.Values)})
	}
	return store.NewSelector(requirements...), nil
}

// networkOf reads a network as the API server does (k8s.io/utils/net, ParseCIDRSloppy): objects of many years may have zeros before a number, or an
// IPv4 network in the form of IPv6. The bits behind the prefix are cleared.
func networkOf(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if p, err = netip.ParsePrefix(withoutZeros(text)); err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is no network", clip(text))
		}
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// withoutZeros takes zeros away that stand before other digits of a decimal number.
func withoutZeros(text string) string {
	addr, bits, ok := strings.Cut(text, "/")
	if !ok || bits == "" || strings.Contains(addr, ":") {
		return text
	}
	parts := append(strings.Split(addr, "."), bits)
	for i, part := range parts {
		if short := strings.TrimLeft(part, "0"); short != "" || part == "" {
			parts[i] = short
		} else {
			parts[i] = "0"
		}
	}
	return strings.Join(parts[:len(parts)-1], ".") + "/" + parts[len(parts)-1]
}
