package manifest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// EndpointsLabel marks the EndpointSlices that an Endpoints object became; its value is the object's name.
const EndpointsLabel = "twill-cni.github.io/endpoints"

// FromEndpoints returns the EndpointSlices that a valid Endpoints object stands for: one for each family of each subset, of at most 1,000
// endpoints, with names that depend on the object alone.
//
//lint:ignore SA1019 see parseEndpoints
func FromEndpoints(e *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for i, subset := range e.Subsets {
		all := append(endpointsOf(subset.Addresses, true), endpointsOf(subset.NotReadyAddresses, false)...)
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			of := slices.DeleteFunc(slices.Clone(all), func(e discoveryv1.Endpoint) bool { return addressType(e.Addresses[0]) != family })
			n := 0
			for chunk := range slices.Chunk(of, maxEndpoints) {
				slice := &discoveryv1.EndpointSlice{AddressType: family, Endpoints: chunk, Ports: portsOf(subset.Ports)}
				slice.Namespace, slice.Labels = e.Namespace, map[string]string{discoveryv1.LabelServiceName: e.Name, EndpointsLabel: e.Name}
				slice.Name = fmt.Sprintf("%s-%s-%d-%d", e.Name, strings.ToLower(string(family)), i, n)
				DefaultEndpointSlice(slice)
				out = append(out, slice)
				n++
			}
		}
	}
	return out
}

func addressType(text string) discoveryv1.AddressType {
	addr, _ := netip.ParseAddr(text) // validated
	return discoveryv1.AddressType(familyOf(addr))
}

func endpointsOf(addrs []corev1.EndpointAddress, ready bool) []discoveryv1.Endpoint {
	var out []discoveryv1.Endpoint
	for _, a := range addrs {
		e := discoveryv1.Endpoint{Addresses: []string{a.IP}, NodeName: a.NodeName, TargetRef: a.TargetRef}
		e.Conditions.Ready = new(ready)
		if a.Hostname != "" {
			e.Hostname = new(a.Hostname)
		}
		out = append(out, e)
	}
	return out
}

func portsOf(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for _, p := range ports {
		protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
		out = append(out, discoveryv1.EndpointPort{Name: new(p.Name), Protocol: &protocol, Port: new(p.Port), AppProtocol: p.AppProtocol})
	}
	return out
}
