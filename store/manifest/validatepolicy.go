package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateClusterMeta checks the metadata of an object that is in no namespace.
func validateClusterMeta(m *metav1.ObjectMeta, name func(string) []string) field.ErrorList {
	errs := validateNameAndLabels(m, name)
	if m.Namespace != "" {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "namespace"), "this kind of object is in no namespace"))
	}
	return errs
}

// ValidateNamespace returns what the API would refuse of a defaulted Namespace.
func ValidateNamespace(ns *corev1.Namespace) field.ErrorList {
	return validateClusterMeta(&ns.ObjectMeta, validation.IsDNS1123Label)
}

// ValidateNetworkPolicy returns what the API would refuse of a defaulted NetworkPolicy.
func ValidateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := validateMeta(&p.ObjectMeta, validation.IsDNS1123Subdomain)
	path := field.NewPath("spec")
	errs = append(errs, validateSelector(&p.Spec.PodSelector, path.Child("podSelector"))...)
	for i, r := range p.Spec.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.From, at.Child("from"))...)
	}
	for i, r := range p.Spec.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(r.To, at.Child("to"))...)
	}
	path = path.Child("policyTypes")
	if len(p.Spec.PolicyTypes) > 2 {
		errs = append(errs, field.TooMany(path, len(p.Spec.PolicyTypes), 2))
	}
	for i, t := range p.Spec.PolicyTypes {
		errs = append(errs, oneOf(path.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validateSelector(s *metav1.LabelSelector, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, oneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		if p.Port != nil {
			errs = append(errs, validateTargetPort(*p.Port, at.Child("port"))...)
		}
		if p.EndPort == nil {
			continue
		}
		at = at.Child("endPort")
		switch {
		case p.Port == nil:
			errs = append(errs, field.Forbidden(at, "needs port, the first of the range"))
		case p.Port.Type != intstr.Int:
			errs = append(errs, field.Forbidden(at, "needs a port that is a number; a named port is one alone"))
		case *p.EndPort < p.Port.IntVal:
			errs = append(errs, field.Invalid(at, *p.EndPort, "must not be smaller than port"))
		default:
			errs = append(errs, invalid(at, *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))...)
		}
	}
	return errs
}

func validatePolicyPeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, p := range peers {
		at := path.Index(i)
		if p.PodSelector != nil {
			errs = append(errs, validateSelector(p.PodSelector, at.Child("podSelector"))...)
		}
		if p.NamespaceSelector != nil {
			errs = append(errs, validateSelector(p.NamespaceSelector, at.Child("namespaceSelector"))...)
		}
		selects := p.PodSelector != nil || p.NamespaceSelector != nil
		switch {
		case p.IPBlock != nil:
			errs = append(errs, validateBlock(p.IPBlock, at.Child("ipBlock"))...)
			if selects {
				errs = append(errs, field.Forbidden(at, "an ipBlock is a peer of its own: write the selectors as another element of the list"))
			}
		case !selects:
			errs = append(errs, field.Required(at, "give a podSelector, a namespaceSelector or an ipBlock"))
		}
	}
	return errs
}

func validateBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "give a network such as 192.0.2.0/24")}
	}
	block, errs := validateNetwork(b.CIDR, path.Child("cidr"))
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		except, wrong := validateNetwork(text, at)
		errs = append(errs, wrong...)
		if block.IsValid() && except.IsValid() && (!block.Overlaps(except) || except.Bits() <= block.Bits()) {
			errs = append(errs, field.Invalid(at, text, fmt.Sprintf("must be a smaller network within cidr, %s", b.CIDR)))
		}
	}
	return errs
}

// validateNetwork accepts networks in their usual form, with or without bits behind the prefix.
func validateNetwork(text string, path *field.Path) (netip.Prefix, field.ErrorList) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, field.ErrorList{field.Invalid(path, text, "want a network such as 192.0.2.0/24 or 2001:db8::/64")}
	}
	return p, nil
}
