package manifest

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/twill-cni/twill/store"
)

// The API's limits of a ClusterNetworkPolicy: of rules in a direction, of peers, protocols and networks in one list, and others.
const (
	maxClusterPolicyItems = 25
	maxRuleName           = 100 // characters
	maxPriority           = 1000
)

// ValidateClusterNetworkPolicy returns what the API would refuse of a ClusterNetworkPolicy, and what could have no effect.
func ValidateClusterNetworkPolicy(p *ClusterNetworkPolicy) field.ErrorList {
	errs := validateClusterMeta(&p.ObjectMeta, validation.IsDNS1123Subdomain)
	spec, path := &p.Spec, field.NewPath("spec")
	if spec.Tier == "" {
		errs = append(errs, field.Required(path.Child("tier"), "want Admin or Baseline"))
	} else {
		errs = append(errs, oneOf(path.Child("tier"), store.PolicyTier(spec.Tier), store.TierAdmin, store.TierBaseline)...)
	}
	if n := spec.Priority; n == nil {
		errs = append(errs, field.Required(path.Child("priority"), fmt.Sprintf("give a number from 0 to %d; smaller ones come first", maxPriority)))
	} else if *n < 0 || *n > maxPriority {
		errs = append(errs, field.Invalid(path.Child("priority"), *n, fmt.Sprintf("must be between 0 and %d", maxPriority)))
	}
	subject := ClusterPolicyEgressPeer{Namespaces: spec.Subject.Namespaces, Pods: spec.Subject.Pods}
	errs = append(errs, validateClusterPeer(subject, "namespaces or pods", path.Child("subject"))...)
	errs = append(errs, validateClusterRules(ingressRules(spec), path.Child("ingress"))...)
	return append(errs, validateClusterRules(egressRules(spec), path.Child("egress"))...)
}

func validateClusterRules(rules []clusterRule, path *field.Path) field.ErrorList {
	errs := tooMany(len(rules), path)
	for i, r := range rules {
		at := path.Index(i)
		if n := utf8.RuneCountInString(r.name); n > maxRuleName {
			errs = append(errs, field.Invalid(at.Child("name"), clip(r.name), fmt.Sprintf("must be no longer than %d characters", maxRuleName)))
		}
		if r.action == "" {
			errs = append(errs, field.Required(at.Child("action"), "want Accept, Deny or Pass"))
		} else {
			errs = append(errs, oneOf(at.Child("action"), store.PolicyAction(r.action), store.ActionAccept, store.ActionDeny, store.ActionPass)...)
		}
		peers, known := at.Child(r.peersField), "namespaces or pods"
		if r.peersField == "to" {
			known = "namespaces, pods or networks"
		}
		if len(r.peers) == 0 {
			errs = append(errs, field.Required(peers, "give at least one peer"))
		}
		errs = append(errs, tooMany(len(r.peers), peers)...)
		for j, p := range r.peers {
			errs = append(errs, validateClusterPeer(p, known, peers.Index(j))...)
		}
		errs = append(errs, validateProtocols(r, at.Child("protocols"))...)
	}
	return errs
}

func tooMany(n int, path *field.Path) field.ErrorList {
	if n <= maxClusterPolicyItems {
		return nil
	}
	return field.ErrorList{field.TooMany(path, n, maxClusterPolicyItems)}
}

// validateClusterPeer checks a peer or subject. known are the fields of which one has to be set.
func validateClusterPeer(p ClusterPolicyEgressPeer, known string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range p.experimental() {
		errs = append(errs, field.Forbidden(path.Child(name), "is of the API's experimental channel, which is not supported: the standard channel has "+known))
	}
	if n := p.fields(); n == 0 && len(errs) == 0 {
		errs = append(errs, field.Required(path, "give "+known))
	} else if n > 1 {
		errs = append(errs, field.Forbidden(path, "give one alone of "+known+": write each as an element of its own"))
	}
	if p.Namespaces != nil {
		errs = append(errs, validateSelector(p.Namespaces, path.Child("namespaces"))...)
	}
	if p.Pods != nil {
		errs = append(errs, validateSelector(p.Pods.NamespaceSelector, path.Child("pods", "namespaceSelector"))...)
		if p.Pods.PodSelector == nil {
			errs = append(errs, field.Required(path.Child("pods", "podSelector"), "give a selector; {} selects all pods"))
		}
		errs = append(errs, validateSelector(p.Pods.PodSelector, path.Child("pods", "podSelector"))...)
	}
	at := path.Child("networks")
	errs = append(errs, tooMany(len(p.Networks), at)...)
	for i, text := range p.Networks {
		_, wrong := validateNetwork(text, at.Index(i))
		errs = append(errs, wrong...)
		if slices.Contains(p.Networks[:i], text) {
			errs = append(errs, field.Duplicate(at.Index(i), text))
		}
	}
	return errs
}

// fields is how many of the standard channel's fields are set.
func (p ClusterPolicyEgressPeer) fields() int {
	n := 0
	for _, set := range []bool{p.Namespaces != nil, p.Pods != nil, len(p.Networks) > 0} {
		if set {
			n++
		}
	}
	return n
}

// experimental returns the fields of the experimental channel that are set.
func (p ClusterPolicyEgressPeer) experimental() []string {
	var names []string
	if p.Nodes != nil {
		names = append(names, "nodes")
	}
	if p.DomainNames != nil {
		names = append(names, "domainNames")
	}
	return names
}

func validateProtocols(r clusterRule, path *field.Path) field.ErrorList {
	errs := tooMany(len(r.protocols), path)
	if r.protocols != nil && len(r.protocols) == 0 {
		errs = append(errs, field.Required(path, "an empty list matches nothing: leave it out for every protocol"))
	}
	for i, p := range r.protocols {
		at := path.Index(i)
		switch n := p.fields(); {
		case n == 0:
			errs = append(errs, field.Required(at, "give tcp, udp, sctp or destinationNamedPort"))
		case n > 1:
			errs = append(errs, field.Forbidden(at, "give one alone of tcp, udp, sctp and destinationNamedPort: write each as an element of its own"))
		}
		for _, t := range p.transports() {
			errs = append(errs, validateTransport(t.is, at.Child(t.name))...)
		}
		if name := p.DestinationNamedPort; name != "" {
			errs = append(errs, invalid(at.Child("destinationNamedPort"), name, validation.IsValidPortName(name))...)
			if slices.ContainsFunc(r.peers, func(p ClusterPolicyEgressPeer) bool { return len(p.Networks) > 0 }) {
				errs = append(errs, field.Forbidden(at.Child("destinationNamedPort"), "the rule has networks, which have no named ports: make a rule for each"))
			}
		}
	}
	return errs
}

// namedTransport is one of a protocol's transports.
type namedTransport struct {
	name     string
	protocol store.Protocol
	is       *ClusterPolicyTransport
}

// transports returns those that are set.
func (p ClusterPolicyProtocol) transports() []namedTransport {
	all := []namedTransport{{"tcp", store.TCP, p.TCP}, {"udp", store.UDP, p.UDP}, {"sctp", store.SCTP, p.SCTP}}
	return slices.DeleteFunc(all, func(t namedTransport) bool { return t.is == nil })
}

func (p ClusterPolicyProtocol) fields() int {
	n := len(p.transports())
	if p.DestinationNamedPort != "" {
		n++
	}
	return n
}

func validateTransport(t *ClusterPolicyTransport, path *field.Path) field.ErrorList {
	path = path.Child("destinationPort")
	switch p := t.DestinationPort; {
	case p == nil:
		return field.ErrorList{field.Required(path, "give a port: {number: 80} or {range: {start: 1, end: 65535}}")}
	case p.Number == nil && p.Range == nil:
		return field.ErrorList{field.Required(path, "give a number or a range")}
	case p.Number != nil && p.Range != nil:
		return field.ErrorList{field.Forbidden(path, "give either a number or a range")}
	case p.Number != nil:
		return invalid(path.Child("number"), *p.Number, validation.IsValidPortNum(int(*p.Number)))
	default:
		path = path.Child("range")
		errs := invalid(path.Child("start"), p.Range.Start, validation.IsValidPortNum(int(p.Range.Start)))
		errs = append(errs, invalid(path.Child("end"), p.Range.End, validation.IsValidPortNum(int(p.Range.End)))...)
		if p.Range.Start >= p.Range.End {
			errs = append(errs, field.Invalid(path, fmt.Sprintf("%d-%d", p.Range.Start, p.Range.End), "start must be smaller than end"))
		}
		return errs
	}
}
