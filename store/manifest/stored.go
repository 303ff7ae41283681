package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
)

// Encode returns an object's canonical JSON: equal objects give equal bytes.
func Encode(object any) ([]byte, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode the object: %w", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("encode the object: %d bytes are more than the %d that are allowed", len(data), MaxSize)
	}
	return data, nil
}

// DecodeService reads a Service that a datastore holds under that name.
func DecodeService(name store.ObjectName, data []byte) (*corev1.Service, error) {
	svc := &corev1.Service{}
	if err := decodeStored(data, svc); err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	if nameOf(svc) != name {
		return nil, fmt.Errorf("service %s: the object is called %s", name, nameOf(svc))
	}
	return svc, nil
}

// DecodeEndpointSlice reads an EndpointSlice that a datastore holds under that name.
func DecodeEndpointSlice(name store.ObjectName, data []byte) (*discoveryv1.EndpointSlice, error) {
	slice := &discoveryv1.EndpointSlice{}
	if err := decodeStored(data, slice); err != nil {
		return nil, fmt.Errorf("endpoint slice %s: %w", name, err)
	}
	if nameOf(slice) != name {
		return nil, fmt.Errorf("endpoint slice %s: the object is called %s", name, nameOf(slice))
	}
	return slice, nil
}

func decodeStored(data []byte, into any) error {
	if len(data) > MaxSize {
		return fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxSize)
	}
	if !bytes.HasPrefix(data, []byte("{")) {
		return errors.New("its value is no JSON object")
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("its value cannot be read: %w", err)
	}
	return nil
}

// DecodeNetworkPolicy reads a NetworkPolicy that a datastore holds under that name.
func DecodeNetworkPolicy(name store.ObjectName, data []byte) (*networkingv1.NetworkPolicy, error) {
	p := &networkingv1.NetworkPolicy{}
	return p, decodeNamed(data, p, stored{KindNetworkPolicy, name})
}

// DecodeClusterNetworkPolicy reads a ClusterNetworkPolicy that a datastore, or the API, has under that name.
func DecodeClusterNetworkPolicy(name string, data []byte) (*ClusterNetworkPolicy, error) {
	p := &ClusterNetworkPolicy{}
	return p, decodeNamed(data, p, stored{KindClusterNetworkPolicy, store.ObjectName{Name: name}})
}

// DecodeNamespace reads a Namespace that a datastore holds under that name.
func DecodeNamespace(name string, data []byte) (*corev1.Namespace, error) {
	ns := &corev1.Namespace{}
	return ns, decodeNamed(data, ns, stored{KindNamespace, store.ObjectName{Name: name}})
}

// stored is what a datastore says of an object besides its value.
type stored struct {
	kind string
	name store.ObjectName
}

func decodeNamed(data []byte, into interface {
	GetNamespace() string
	GetName() string
}, is stored) error {
	if err := decodeStored(data, into); err != nil {
		return fmt.Errorf("%s: %w", Title(is.kind, is.name), err)
	}
	if nameOf(into) != is.name {
		return fmt.Errorf("%s: the object is called %s", Title(is.kind, is.name), Title(is.kind, nameOf(into)))
	}
	return nil
}
