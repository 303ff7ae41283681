package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

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
