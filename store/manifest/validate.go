package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxAffinity is the longest session affinity in seconds: a day, as in the API.
const maxAffinity = 86400

func validateMeta(m *metav1.ObjectMeta, name func(string) []string) field.ErrorList {
	return append(validateNameAndLabels(m, name), invalid(field.NewPath("metadata", "namespace"), m.Namespace, validation.IsDNS1123Label(m.Namespace))...)
}

func validateNameAndLabels(m *metav1.ObjectMeta, name func(string) []string) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata")
	if m.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "give the object a name"))
	} else {
		errs = append(errs, invalid(path.Child("name"), m.Name, name(m.Name))...)
	}
	for key, value := range m.Labels {
		at := path.Child("labels").Key(key)
		errs = append(errs, invalid(at, key, validation.IsQualifiedName(key))...)
		errs = append(errs, invalid(at, value, validation.IsValidLabelValue(value))...)
	}
	for key := range m.Annotations {
		errs = append(errs, invalid(path.Child("annotations").Key(key), key, validation.IsQualifiedName(strings.ToLower(key)))...)
	}
	if m.GenerateName != "" {
		errs = append(errs, field.Forbidden(path.Child("generateName"), "is not supported: give a name"))
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// invalid makes an error of each thing that is wrong with a value.
func invalid(path *field.Path, value any, wrong []string) field.ErrorList {
	var errs field.ErrorList
	for _, what := range wrong {
		errs = append(errs, field.Invalid(path, value, what))
	}
	return errs
}

// oneOf is an error unless value is one of those that are supported.
func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// ValidateService returns what the API would refuse of a defaulted Service, and annotations of ours that are wrong.
func ValidateService(svc *corev1.Service) field.ErrorList {
	errs := validateMeta(&svc.ObjectMeta, validation.IsDNS1123Label)
	spec, path := &svc.Spec, field.NewPath("spec")
	errs = append(errs, oneOf(path.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)...)
	errs = append(errs, validatePorts(spec, path.Child("ports"))...)
	errs = append(errs, validatePolicies(spec, path)...)
	errs = append(errs, validateAffinity(spec, path)...)
	errs = append(errs, validateAddresses(spec, path)...)
	errs = append(errs, validateType(spec, path)...)
	for key, value := range spec.Selector {
		at := path.Child("selector").Key(key)
		errs = append(errs, invalid(at, key, validation.IsQualifiedName(key))...)
		errs = append(errs, invalid(at, value, validation.IsValidLabelValue(value))...)
	}
	errs = append(errs, validateIngress(svc)...)
	return append(errs, validateAnnotations(svc)...)
}

func validatePorts(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path, "a Service with an address needs a port"))
	}
	type number struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := map[string]bool{}, map[number]bool{}, map[number]bool{}
	for i, p := range spec.Ports {
		at := path.Index(i)
		switch {
		case p.Name == "" && len(spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), "with several ports, each needs a name"))
		case p.Name != "" && names[p.Name]:
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		case p.Name != "":
			errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
		}
		names[p.Name] = true
		errs = append(errs, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		errs = append(errs, invalid(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
		if ports[number{p.Protocol, p.Port}] {
			errs = append(errs, field.Duplicate(at.Child("port"), fmt.Sprintf("%d/%s", p.Port, p.Protocol)))
		}
		ports[number{p.Protocol, p.Port}] = true
		errs = append(errs, validateTargetPort(p.TargetPort, at.Child("targetPort"))...)
		if p.NodePort == 0 {
			continue
		}
		errs = append(errs, invalid(at.Child("nodePort"), p.NodePort, validation.IsValidPortNum(int(p.NodePort)))...)
		if !external(spec) {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "needs type NodePort or LoadBalancer"))
		}
		if nodePorts[number{p.Protocol, p.NodePort}] {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		}
		nodePorts[number{p.Protocol, p.NodePort}] = true
	}
	return errs
}

func validateTargetPort(p intstr.IntOrString, path *field.Path) field.ErrorList {
	if p.Type == intstr.Int {
		return invalid(path, p.IntVal, validation.IsValidPortNum(int(p.IntVal)))
	}
	return invalid(path, p.StrVal, validation.IsValidPortName(p.StrVal))
}

func validatePolicies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p := spec.ExternalTrafficPolicy; p != "" {
		errs = append(errs, oneOf(path.Child("externalTrafficPolicy"), p,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
		if !external(spec) && len(spec.ExternalIPs) == 0 {
			errs = append(errs, field.Forbidden(path.Child("externalTrafficPolicy"), "needs type NodePort or LoadBalancer, or externalIPs"))
		}
	}
	if p := spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, oneOf(path.Child("internalTrafficPolicy"), *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, oneOf(path.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	if port := spec.HealthCheckNodePort; port != 0 {
		at := path.Child("healthCheckNodePort")
		errs = append(errs, invalid(at, port, validation.IsValidPortNum(int(port)))...)
		if !needsHealthCheck(spec) {
			errs = append(errs, field.Forbidden(at, "needs type LoadBalancer and externalTrafficPolicy Local"))
		}
		if slices.ContainsFunc(spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == port }) {
			errs = append(errs, field.Invalid(at, port, "is also the nodePort of a port"))
		}
	}
	return errs
}

// needsHealthCheck reports whether load balancers ask the Service's nodes which of them have endpoints.
func needsHealthCheck(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func validateAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := oneOf(path.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t < 1 || t > maxAffinity {
			errs = append(errs, field.Invalid(path.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t,
				fmt.Sprintf("must be between 1 and %d", maxAffinity)))
		}
	}
	return errs
}

// validateAddresses checks the syntax of everything that is an address, and that families fit.
func validateAddresses(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.TooMany(path.Child("clusterIPs"), len(spec.ClusterIPs), 2))
	}
	if len(spec.ClusterIPs) > 0 && spec.ClusterIP != spec.ClusterIPs[0] {
		errs = append(errs, field.Invalid(path.Child("clusterIP"), spec.ClusterIP, "must be the first of clusterIPs"))
	}
	for i, text := range spec.ClusterIPs {
		if text == corev1.ClusterIPNone && len(spec.ClusterIPs) == 1 {
			continue
		}
		errs = append(errs, validateAddr(path.Child("clusterIPs").Index(i), text)...)
	}
	for i, text := range spec.ExternalIPs {
		errs = append(errs, validateAddr(path.Child("externalIPs").Index(i), text)...)
	}
	for i, text := range spec.LoadBalancerSourceRanges {
		if _, err := netip.ParsePrefix(strings.TrimSpace(text)); err != nil {
			errs = append(errs, field.Invalid(path.Child("loadBalancerSourceRanges").Index(i), text, "want a network such as 192.0.2.0/24"))
		}
	}
	if len(spec.LoadBalancerSourceRanges) > 0 && spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(path.Child("loadBalancerSourceRanges"), "needs type LoadBalancer"))
	}
	return append(errs, validateFamilies(spec, path)...)
}

// validateAddr accepts addresses that can be those of a Service.
func validateAddr(path *field.Path, text string) field.ErrorList {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil || addr.Zone() != "" || addr.Is4In6():
		return field.ErrorList{field.Invalid(path, text, "want an IP address such as 10.96.0.5 or fd00:96::5")}
	case addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(path, text, "must not be an unspecified, loopback, multicast or link-local address")}
	}
	return nil
}

func validateFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("ipFamilies")
	for i, f := range spec.IPFamilies {
		errs = append(errs, oneOf(at.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
	}
	if len(spec.IPFamilies) > 2 {
		errs = append(errs, field.TooMany(at, len(spec.IPFamilies), 2))
	}
	if len(spec.IPFamilies) == 2 && spec.IPFamilies[0] == spec.IPFamilies[1] {
		errs = append(errs, field.Duplicate(at.Index(1), spec.IPFamilies[1]))
	}
	families := ipFamilies(spec.ClusterIPs)
	for i, f := range families {
		if i < len(spec.IPFamilies) && spec.IPFamilies[i] != f {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs[i], fmt.Sprintf("ipFamilies[%d] is %s", i, spec.IPFamilies[i])))
		}
	}
	if len(families) == 2 && families[0] == families[1] {
		errs = append(errs, field.Invalid(path.Child("clusterIPs"), spec.ClusterIPs, "must be one of each family"))
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, oneOf(path.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack)...)
		if *p == corev1.IPFamilyPolicySingleStack && (len(spec.IPFamilies) > 1 || len(families) > 1) {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *p, "two families are given: want PreferDualStack or RequireDualStack"))
		}
	}
	return errs
}

// ipFamilies returns the families of the addresses among texts.
func ipFamilies(texts []string) []corev1.IPFamily {
	var out []corev1.IPFamily
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, familyOf(addr))
		}
	}
	return out
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// validateType checks what only some types have.
func validateType(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Type == corev1.ServiceTypeExternalName {
		if spec.ExternalName == "" {
			errs = append(errs, field.Required(path.Child("externalName"), "type ExternalName needs a DNS name"))
		} else {
			errs = append(errs, invalid(path.Child("externalName"), spec.ExternalName,
				validation.IsDNS1123Subdomain(strings.TrimSuffix(spec.ExternalName, ".")))...)
		}
		if len(spec.ClusterIPs) > 0 || len(spec.IPFamilies) > 0 || spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), "a Service of type ExternalName has no addresses"))
		}
		return errs
	}
	if external(spec) && spec.ClusterIP == corev1.ClusterIPNone {
		errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIP, "only a Service of type ClusterIP can be headless"))
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), "needs type LoadBalancer"))
		}
		if spec.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), "needs type LoadBalancer"))
		}
	}
	return errs
}

func validateIngress(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	if len(svc.Status.LoadBalancer.Ingress) > 0 && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(path, "needs spec.type LoadBalancer"))
	}
	for i, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			errs = append(errs, validateAddr(path.Index(i).Child("ip"), in.IP)...)
		}
		if in.IP == "" && in.Hostname == "" {
			errs = append(errs, field.Required(path.Index(i), "give an ip or a hostname"))
		}
		if in.IPMode != nil {
			errs = append(errs, oneOf(path.Index(i).Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)...)
		}
	}
	return errs
}

func validateAnnotations(svc *corev1.Service) field.ErrorList {
	if _, err := parseWeights(svc.Annotations[WeightsAnnotation]); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Key(WeightsAnnotation), svc.Annotations[WeightsAnnotation], err.Error())}
	}
	return nil
}
