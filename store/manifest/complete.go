package manifest

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Wanted is what a Service lacks and somebody has to give to it.
type Wanted struct {
	ClusterIPs      []corev1.IPFamily // one address of each
	NodePorts       []int             // indexes of ports
	HealthCheckPort bool
}

// Complete brings a valid Service to what the API server would store, but for what has to be allocated, which it returns. old is what the
// same Service was before, nil for a new one: what it was given stays its own unless the manifest asks for something else. families are
// those that the cluster has Service addresses of, the first is the usual one.
func Complete(svc, old *corev1.Service, families []corev1.IPFamily) (Wanted, field.ErrorList) {
	if old != nil {
		keep(svc, old)
	}
	var w Wanted
	if errs := completeFamilies(svc, families); len(errs) > 0 {
		return w, errs
	}
	if old != nil && len(old.Spec.IPFamilies) > 0 && len(svc.Spec.IPFamilies) > 0 && old.Spec.IPFamilies[0] != svc.Spec.IPFamilies[0] {
		return w, field.ErrorList{field.Invalid(field.NewPath("spec", "ipFamilies").Index(0), svc.Spec.IPFamilies[0],
			fmt.Sprintf("the Service's first family is %s and stays so: delete the Service first", old.Spec.IPFamilies[0]))}
	}
	if hasClusterIPs(&svc.Spec) {
		w.ClusterIPs = slices.Clone(svc.Spec.IPFamilies[len(svc.Spec.ClusterIPs):])
	}
	if needsNodePorts(&svc.Spec) {
		shareNodePorts(&svc.Spec)
		for i := range svc.Spec.Ports {
			if svc.Spec.Ports[i].NodePort == 0 && !sharesLater(&svc.Spec, i) {
				w.NodePorts = append(w.NodePorts, i)
			}
		}
	}
	w.HealthCheckPort = needsHealthCheck(&svc.Spec) && svc.Spec.HealthCheckNodePort == 0
	return w, nil
}

// Give writes what was allocated into the Service: addresses in the order of w.ClusterIPs, ports in that of w.NodePorts and last that of the
// health check.
func (w Wanted) Give(svc *corev1.Service, addrs []netip.Addr, ports []uint16) {
	for _, addr := range addrs {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, addr.String())
	}
	if len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	for n, i := range w.NodePorts {
		svc.Spec.Ports[i].NodePort = int32(ports[n])
	}
	shareNodePorts(&svc.Spec)
	if w.HealthCheckPort {
		svc.Spec.HealthCheckNodePort = int32(ports[len(w.NodePorts)])
	}
}

// hasClusterIPs reports whether the Service gets addresses.
func hasClusterIPs(spec *corev1.ServiceSpec) bool {
	return spec.Type != corev1.ServiceTypeExternalName && spec.ClusterIP != corev1.ClusterIPNone
}

func needsNodePorts(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeNodePort ||
		spec.Type == corev1.ServiceTypeLoadBalancer && (spec.AllocateLoadBalancerNodePorts == nil || *spec.AllocateLoadBalancerNodePorts)
}

// keep carries over what the manifest does not say.
func keep(svc, old *corev1.Service) {
	svc.CreationTimestamp, svc.UID = old.CreationTimestamp, old.UID
	from, to := &old.Spec, &svc.Spec
	if to.Type != corev1.ServiceTypeExternalName && from.Type != corev1.ServiceTypeExternalName {
		if len(to.IPFamilies) == 0 && len(to.ClusterIPs) == 0 && len(from.IPFamilies) > 0 {
			to.IPFamilies = slices.Clone(from.IPFamilies[:1])
			if to.IPFamilyPolicy == nil {
				to.IPFamilies, to.IPFamilyPolicy = slices.Clone(from.IPFamilies), from.IPFamilyPolicy
			} else if *to.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
				to.IPFamilies = slices.Clone(from.IPFamilies)
			}
		}
		if len(to.ClusterIPs) == 0 && !(external(to) && from.ClusterIP == corev1.ClusterIPNone) {
			to.ClusterIPs, to.ClusterIP = slices.Clone(from.ClusterIPs), from.ClusterIP
		} else if len(to.ClusterIPs) == 1 && len(from.ClusterIPs) == 2 && to.ClusterIPs[0] == from.ClusterIPs[0] && to.IPFamilyPolicy != nil &&
			*to.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			to.ClusterIPs = slices.Clone(from.ClusterIPs)
		}
	}
	if external(to) && external(from) {
		keepNodePorts(to, from)
	}
	if needsHealthCheck(to) && needsHealthCheck(from) && to.HealthCheckNodePort == 0 {
		to.HealthCheckNodePort = from.HealthCheckNodePort
	}
}

// keepNodePorts gives each port without a node port the one that the port with its number and protocol had, unless another has it now.
func keepNodePorts(to, from *corev1.ServiceSpec) {
	if to.Type == corev1.ServiceTypeLoadBalancer && !needsNodePorts(to) {
		return
	}
	for i := range to.Ports {
		p := &to.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		for _, had := range from.Ports {
			taken := func(other corev1.ServicePort) bool {
				return other.NodePort == had.NodePort && other.Protocol == p.Protocol
			}
			if had.Port == p.Port && had.Protocol == p.Protocol && !slices.ContainsFunc(to.Ports, taken) {
				p.NodePort = had.NodePort
			}
		}
	}
}

// shareNodePorts gives ports of one number and several protocols one node port, as the API server does: DNS over TCP and UDP.
func shareNodePorts(spec *corev1.ServiceSpec) {
	for i := range spec.Ports {
		p := &spec.Ports[i]
		for _, other := range spec.Ports {
			taken := func(x corev1.ServicePort) bool { return x.NodePort == other.NodePort && x.Protocol == p.Protocol }
			if p.NodePort == 0 && other.NodePort != 0 && other.Port == p.Port && other.Protocol != p.Protocol && !slices.ContainsFunc(spec.Ports, taken) {
				p.NodePort = other.NodePort
			}
		}
	}
}

// sharesLater reports whether port i will share the node port that an earlier port of its number gets.
func sharesLater(spec *corev1.ServiceSpec, i int) bool {
	return slices.ContainsFunc(spec.Ports[:i], func(p corev1.ServicePort) bool { return p.NodePort == 0 && p.Port == spec.Ports[i].Port })
}

// completeFamilies sets ipFamilyPolicy and ipFamilies, and drops an address that has no place in them any more.
func completeFamilies(svc *corev1.Service, families []corev1.IPFamily) field.ErrorList {
	spec, path := &svc.Spec, field.NewPath("spec")
	if spec.Type == corev1.ServiceTypeExternalName {
		spec.ClusterIP, spec.ClusterIPs, spec.IPFamilies, spec.IPFamilyPolicy = "", nil, nil, nil
		return nil
	}
	headless := spec.ClusterIP == corev1.ClusterIPNone
	given := ipFamilies(spec.ClusterIPs)
	if len(given) > len(spec.IPFamilies) {
		spec.IPFamilies = given
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(spec.IPFamilies) > 1 || headless && len(spec.Selector) == 0 && len(spec.IPFamilies) == 0 {
			policy = corev1.IPFamilyPolicyRequireDualStack // endpoints written by hand may be of both
		}
		spec.IPFamilyPolicy = &policy
	}
	any := headless && len(spec.Selector) == 0 // no address and no pod is needed of the families
	for i, f := range spec.IPFamilies {
		if !any && !slices.Contains(families, f) {
			return field.ErrorList{field.Invalid(path.Child("ipFamilies").Index(i), f, fmt.Sprintf("the cluster has Service addresses of %v alone", families))}
		}
	}
	if len(families) == 0 {
		return field.ErrorList{field.Invalid(path.Child("ipFamilies"), spec.IPFamilies, "the cluster has no Service network")}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{families[0]}
	}
	other := corev1.IPv6Protocol
	if spec.IPFamilies[0] == corev1.IPv6Protocol {
		other = corev1.IPv4Protocol
	}
	switch *spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		spec.IPFamilies = spec.IPFamilies[:1]
	case corev1.IPFamilyPolicyRequireDualStack:
		if !any && !slices.Contains(families, other) {
			return field.ErrorList{field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, fmt.Sprintf("the cluster has Service addresses of %v alone", families))}
		}
		spec.IPFamilies = []corev1.IPFamily{spec.IPFamilies[0], other}
	default:
		spec.IPFamilies = spec.IPFamilies[:1]
		if slices.Contains(families, other) {
			spec.IPFamilies = append(slices.Clip(spec.IPFamilies), other)
		}
	}
	if !headless && len(spec.ClusterIPs) > len(spec.IPFamilies) {
		spec.ClusterIPs = spec.ClusterIPs[:len(spec.IPFamilies)]
	}
	return nil
}
