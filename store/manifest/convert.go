package manifest

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/twill-cni/twill/store"
)

// Annotations and labels that a Service can have.
const (
	SchedulerAnnotation = "twill-cni.github.io/scheduler"
	// WeightsAnnotation gives endpoints weights: "10.244.1.5=3,node2=2,zone-b=1", by address, node or zone.
	WeightsAnnotation = "twill-cni.github.io/weights"
	// ResetAnnotation with the value "true" has TCP connections reset whose endpoint is gone.
	ResetAnnotation = "twill-cni.github.io/reset-connections"
	ProxyNameLabel  = "service.kubernetes.io/service-proxy-name"
)

// maxWeight bounds an endpoint's weight.
const maxWeight = 65535

// FromService returns what a node needs of a Service. The error names the field that cannot be used; whatever the API or ValidateService lets
// through can be. A weights annotation that cannot be read gives no weights, as the API does not check annotations.
func FromService(svc *corev1.Service) (*store.Service, error) {
	s, err := fromService(svc)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", nameOf(svc), err)
	}
	return s, nil
}

func fromService(svc *corev1.Service) (*store.Service, error) {
	spec := &svc.Spec
	s := &store.Service{
		Name: nameOf(svc), Created: svc.CreationTimestamp.UTC(), Type: store.ServiceType(spec.Type),
		ExternalLocal:    spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalLocal:    spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		TopologyMode:     svc.Annotations[corev1.AnnotationTopologyMode],
		ProxyName:        svc.Labels[ProxyNameLabel],
		Scheduler:        svc.Annotations[SchedulerAnnotation],
		ResetConnections: svc.Annotations[ResetAnnotation] == "true",
		Selector:         spec.Selector,
		PublishNotReady:  spec.PublishNotReadyAddresses,
		ExternalName:     spec.ExternalName,
	}
	_, labelled := svc.Labels[corev1.IsHeadlessService]
	s.Headless = labelled || spec.ClusterIP == corev1.ClusterIPNone
	s.Weights, _ = parseWeights(svc.Annotations[WeightsAnnotation])
	if spec.TrafficDistribution != nil {
		s.Distribution = *spec.TrafficDistribution
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.AffinityTimeout = time.Duration(defaultAffinity) * time.Second
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			s.AffinityTimeout = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	return s, errors.Join(convertPorts(s, spec), convertAddresses(s, svc))
}

func convertPorts(s *store.Service, spec *corev1.ServiceSpec) error {
	for i, p := range spec.Ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		protocol, err := protocolOf(p.Protocol)
		if err != nil {
			return fmt.Errorf("%s.protocol: %w", at, err)
		}
		port, err := portOf(p.Port)
		if err != nil {
			return fmt.Errorf("%s.port: %w", at, err)
		}
		converted := store.ServicePort{Name: p.Name, Protocol: protocol, Port: port, TargetPort: p.TargetPort.String()}
		if converted.TargetPort == "0" || converted.TargetPort == "" {
			converted.TargetPort = strconv.Itoa(int(port))
		}
		if p.NodePort != 0 {
			if converted.NodePort, err = portOf(p.NodePort); err != nil {
				return fmt.Errorf("%s.nodePort: %w", at, err)
			}
		}
		s.Ports = append(s.Ports, converted)
	}
	if spec.HealthCheckNodePort != 0 && needsHealthCheck(spec) {
		port, err := portOf(spec.HealthCheckNodePort)
		if err != nil {
			return fmt.Errorf("spec.healthCheckNodePort: %w", err)
		}
		s.HealthCheckNodePort = port
	}
	return nil
}

func convertAddresses(s *store.Service, svc *corev1.Service) error {
	spec := &svc.Spec
	clusterIPs := spec.ClusterIPs
	if len(clusterIPs) == 0 && spec.ClusterIP != "" {
		clusterIPs = []string{spec.ClusterIP}
	}
	var err error
	if spec.ClusterIP != corev1.ClusterIPNone && spec.Type != corev1.ServiceTypeExternalName {
		if s.ClusterIPs, err = addrsOf("spec.clusterIPs", clusterIPs); err != nil {
			return err
		}
	}
	if s.ExternalIPs, err = addrsOf("spec.externalIPs", spec.ExternalIPs); err != nil {
		return err
	}
	for i, text := range spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text)) // the API lets spaces through
		if err != nil {
			return fmt.Errorf("spec.loadBalancerSourceRanges[%d]: %q is no network", i, clip(text))
		}
		s.SourceRanges = append(s.SourceRanges, p.Masked())
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	for i, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			continue // a name, which says nothing about packets
		}
		addr, err := addrOf(in.IP)
		if err != nil {
			return fmt.Errorf("status.loadBalancer.ingress[%d].ip: %w", i, err)
		}
		s.Ingress = append(s.Ingress, store.Ingress{Addr: addr, Proxy: in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy})
	}
	return nil
}

func protocolOf(p corev1.Protocol) (store.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return store.TCP, nil
	case corev1.ProtocolUDP:
		return store.UDP, nil
	case corev1.ProtocolSCTP:
		return store.SCTP, nil
	}
	return 0, fmt.Errorf("%q is none of TCP, UDP and SCTP", clip(string(p)))
}

func portOf(n int32) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("%d is no port", n)
	}
	return uint16(n), nil
}

func addrOf(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no address", clip(text))
	}
	return addr.Unmap(), nil
}

func addrsOf(field string, texts []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for i, text := range texts {
		addr, err := addrOf(text)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		out = append(out, addr)
	}
	return out, nil
}

// parseWeights reads the weights annotation. Addresses are brought into their usual form.
func parseWeights(text string) (map[string]uint32, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	weights := map[string]uint32{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, fmt.Errorf("%q: want ADDRESS=WEIGHT, NODE=WEIGHT or ZONE=WEIGHT, divided by commas", clip(part))
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil || n < 1 || n > maxWeight {
			return nil, fmt.Errorf("%q: a weight is a number from 1 to %d", clip(part), maxWeight)
		}
		if addr, err := addrOf(key); err == nil {
			key = addr.String()
		}
		if _, twice := weights[key]; twice {
			return nil, fmt.Errorf("%q is given twice", clip(key))
		}
		weights[key] = uint32(n)
	}
	return weights, nil
}

// FromEndpointSlice returns what a node needs of an EndpointSlice. It is nil, without an error, for one that is no node's business: its
// endpoints are names, or it belongs to no Service.
func FromEndpointSlice(slice *discoveryv1.EndpointSlice) (*store.EndpointSlice, error) {
	service := slice.Labels[discoveryv1.LabelServiceName]
	if service == "" || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	s := &store.EndpointSlice{Name: nameOf(slice), Service: service, IPv6: slice.AddressType == discoveryv1.AddressTypeIPv6}
	if err := fromSlice(s, slice); err != nil {
		return nil, fmt.Errorf("endpoint slice %s: %w", s.Name, err)
	}
	return s, nil
}

func fromSlice(s *store.EndpointSlice, slice *discoveryv1.EndpointSlice) error {
	for i, p := range slice.Ports {
		if p.Port == nil {
			continue // all ports, which no Service can be sent to
		}
		converted := store.EndpointPort{Protocol: store.TCP}
		if p.Name != nil {
			converted.Name = *p.Name
		}
		var err error
		if p.Protocol != nil {
			if converted.Protocol, err = protocolOf(*p.Protocol); err != nil {
				return fmt.Errorf("ports[%d].protocol: %w", i, err)
			}
		}
		if converted.Port, err = portOf(*p.Port); err != nil {
			return fmt.Errorf("ports[%d].port: %w", i, err)
		}
		s.Ports = append(s.Ports, converted)
	}
	for i, e := range slice.Endpoints {
		if len(e.Addresses) == 0 {
			return fmt.Errorf("endpoints[%d].addresses: is empty", i)
		}
		// All addresses of an endpoint are the same endpoint; the first stands for it, as with kube-proxy.
		addr, err := addrOf(e.Addresses[0])
		if err == nil && addr.Is6() != s.IPv6 {
			err = fmt.Errorf("%s is not of addressType %s", addr, slice.AddressType)
		}
		if err != nil {
			return fmt.Errorf("endpoints[%d].addresses[0]: %w", i, err)
		}
		s.Endpoints = append(s.Endpoints, endpointOf(addr, e))
	}
	return nil
}

func endpointOf(addr netip.Addr, e discoveryv1.Endpoint) store.Endpoint {
	known := func(condition *bool, unknown bool) bool {
		if condition == nil {
			return unknown
		}
		return *condition
	}
	ready := known(e.Conditions.Ready, true)
	out := store.Endpoint{Addr: addr, Ready: ready, Serving: known(e.Conditions.Serving, ready), Terminating: known(e.Conditions.Terminating, false)}
	if e.Hostname != nil {
		out.Hostname = *e.Hostname
	}
	if e.NodeName != nil {
		out.Node = *e.NodeName
	}
	if e.Zone != nil {
		out.Zone = *e.Zone
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.HintZones = append(out.HintZones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.HintNodes = append(out.HintNodes, n.Name)
		}
	}
	return out
}

// ToEndpointSlice returns an EndpointSlice as the API shows it, for people to look at.
func ToEndpointSlice(s *store.EndpointSlice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	if s.IPv6 {
		out.AddressType = discoveryv1.AddressTypeIPv6
	}
	out.Namespace, out.Name, out.Labels = s.Name.Namespace, s.Name.Name, map[string]string{discoveryv1.LabelServiceName: s.Service}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: new(p.Name), Protocol: new(corev1.Protocol(p.Protocol.String())), Port: new(int32(p.Port))})
	}
	for _, e := range s.Endpoints {
		endpoint := discoveryv1.Endpoint{Addresses: []string{e.Addr.String()}}
		endpoint.Conditions = discoveryv1.EndpointConditions{Ready: new(e.Ready), Serving: new(e.Serving), Terminating: new(e.Terminating)}
		if e.Hostname != "" {
			endpoint.Hostname = new(e.Hostname)
		}
		if e.Node != "" {
			endpoint.NodeName = new(e.Node)
		}
		if e.Zone != "" {
			endpoint.Zone = new(e.Zone)
		}
		out.Endpoints = append(out.Endpoints, endpoint)
	}
	DefaultEndpointSlice(out)
	return out
}
