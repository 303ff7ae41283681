package manifest

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The API's limits.
const (
	maxEndpoints     = 1000
	maxSlicePorts    = 20000
	maxEndpointAddrs = 100
)

// ValidateEndpointSlice returns what the API would refuse of a defaulted EndpointSlice. It also refuses one that names no Service, which could
// have no effect.
func ValidateEndpointSlice(slice *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateMeta(&slice.ObjectMeta, validation.IsDNS1123Subdomain)
	if slice.Labels[discoveryv1.LabelServiceName] == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "labels").Key(discoveryv1.LabelServiceName), "name the Service that the endpoints are of"))
	}
	errs = append(errs, oneOf(field.NewPath("addressType"), slice.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)...)
	path := field.NewPath("endpoints")
	if len(slice.Endpoints) > maxEndpoints {
		errs = append(errs, field.TooMany(path, len(slice.Endpoints), maxEndpoints))
	}
	for i, e := range slice.Endpoints {
		errs = append(errs, validateEndpoint(slice.AddressType, e, path.Index(i))...)
	}
	path = field.NewPath("ports")
	if len(slice.Ports) > maxSlicePorts {
		errs = append(errs, field.TooMany(path, len(slice.Ports), maxSlicePorts))
	}
	names := map[string]bool{}
	for i, p := range slice.Ports {
		at := path.Index(i)
		if names[*p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
		}
		names[*p.Name] = true
		if *p.Name != "" {
			errs = append(errs, invalid(at.Child("name"), *p.Name, validation.IsDNS1123Label(*p.Name))...)
		}
		errs = append(errs, oneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		if p.Port != nil {
			errs = append(errs, invalid(at.Child("port"), *p.Port, validation.IsValidPortNum(int(*p.Port)))...)
		}
	}
	return errs
}

func validateEndpoint(kind discoveryv1.AddressType, e discoveryv1.Endpoint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(at, "an endpoint needs an address"))
	}
	if len(e.Addresses) > maxEndpointAddrs {
		errs = append(errs, field.TooMany(at, len(e.Addresses), maxEndpointAddrs))
	}
	for i, text := range e.Addresses {
		if kind == discoveryv1.AddressTypeFQDN {
			errs = append(errs, invalid(at.Index(i), text, validation.IsDNS1123Subdomain(text))...)
			continue
		}
		errs = append(errs, validateAddr(at.Index(i), text)...)
		if addr, err := netip.ParseAddr(text); err == nil && string(familyOf(addr)) != string(kind) {
			errs = append(errs, field.Invalid(at.Index(i), text, "addressType is "+string(kind)))
		}
	}
	if e.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *e.NodeName, validation.IsDNS1123Subdomain(*e.NodeName))...)
	}
	if e.Hints != nil {
		for i, z := range e.Hints.ForZones {
			if z.Name == "" {
				errs = append(errs, field.Required(path.Child("hints", "forZones").Index(i).Child("name"), "name a zone"))
			}
		}
	}
	return errs
}

// validateEndpoints returns what the API would refuse of an Endpoints object.
//
//lint:ignore SA1019 see parseEndpoints
func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	errs := validateMeta(&e.ObjectMeta, validation.IsDNS1123Label)
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for _, part := range []struct {
			name  string
			addrs []corev1.EndpointAddress
		}{{"addresses", subset.Addresses}, {"notReadyAddresses", subset.NotReadyAddresses}} {
			for j, a := range part.addrs {
				errs = append(errs, validateAddr(path.Child(part.name).Index(j).Child("ip"), a.IP)...)
			}
		}
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "give addresses or notReadyAddresses"))
		}
		var names []string
		for j, p := range subset.Ports {
			at := path.Child("ports").Index(j)
			if slices.Contains(names, p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names = append(names, p.Name)
			if p.Name == "" && len(subset.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), "with several ports, each needs a name"))
			}
			if p.Name != "" {
				errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			}
			if p.Protocol != "" {
				errs = append(errs, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
			}
			errs = append(errs, invalid(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
		}
	}
	return errs
}
