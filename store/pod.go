package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Pod is what the cluster knows of a pod. A Pod is never changed after it was made.
type Pod struct {
	Name   ObjectName // its name where the runtime gave one, else the container's id; unique on its node
	Node   string
	Addrs  []netip.Addr      // at most one of each family
	Labels map[string]string // nil when there are none
	Ports  []PodPort         // named ports, where they are known
	Ready  bool
	UID    string // of the object in the Kubernetes API; empty where there is none
}

// PodPort is a port that a pod gives a name to.
type PodPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// PodKey names a pod's record.
type PodKey struct {
	Node string
	Name ObjectName
}

// Key returns the name of the pod's record.
func (p *Pod) Key() PodKey { return PodKey{p.Node, p.Name} }

// Equal reports whether p and o say the same.
func (p *Pod) Equal(o *Pod) bool {
	return p == o || p != nil && o != nil && p.Name == o.Name && p.Node == o.Node && p.Ready == o.Ready && p.UID == o.UID &&
		slices.Equal(p.Addrs, o.Addrs) && maps.Equal(p.Labels, o.Labels) && slices.Equal(p.Ports, o.Ports)
}

// PodPublisher tells the cluster of one node's pods.
type PodPublisher interface {
	// Publish says which pods the node has. It may be called at any time from any goroutine, does not wait, and the last call wins.
	Publish(pods []*Pod)
	// Run makes the datastore hold what Publish said last, until ctx ends, and keeps it there. Before the first Publish it changes nothing. At
	// its end records stay, so that a restarted daemon finds them; when it does not come back, they vanish by themselves.
	Run(ctx context.Context) error
}

// MaxPodSize is the size in bytes above which a pod's record is refused, in either direction.
const MaxPodSize = 64 << 10

// podJSON is a pod's record. What is unknown is skipped: a later version's daemon may have written it.
type podJSON struct {
	Addresses []netip.Addr      `json:"addresses"`
	Labels    map[string]string `json:"labels,omitempty"`
	Ports     []podPortJSON     `json:"ports,omitempty"`
	Ready     bool              `json:"ready"`
}

type podPortJSON struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

// Value returns what a datastore holds for the pod: equal pods give equal bytes.
func (p *Pod) Value() ([]byte, error) {
	doc := podJSON{Addresses: p.Addrs, Labels: p.Labels, Ready: p.Ready}
	for _, port := range p.Ports {
		doc.Ports = append(doc.Ports, podPortJSON{port.Name, port.Protocol.String(), port.Port})
	}
	value, err := json.Marshal(doc)
	if err == nil && len(value) > MaxPodSize {
		err = fmt.Errorf("%d bytes are more than the %d that are allowed", len(value), MaxPodSize)
	}
	if err != nil {
		return nil, fmt.Errorf("record of pod %s: %w", p.Name, err)
	}
	return value, nil
}

// DecodePod returns the pod that a datastore holds under that key. It keeps nothing of value's memory.
func DecodePod(key PodKey, value []byte) (*Pod, error) {
	p, err := decodePod(value)
	if err != nil {
		return nil, fmt.Errorf("record of pod %s on node %q: %w", key.Name, clip(key.Node), err)
	}
	p.Name, p.Node = key.Name, key.Node
	return p, nil
}

func decodePod(value []byte) (*Pod, error) {
	if len(value) > MaxPodSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that are allowed", len(value), MaxPodSize)
	}
	if !bytes.HasPrefix(value, []byte("{")) {
		return nil, errors.New("its value is no JSON object")
	}
	var doc podJSON
	if err := json.Unmarshal(value, &doc); err != nil {
		return nil, fmt.Errorf("its value cannot be read: %w", err)
	}
	p := &Pod{Labels: doc.Labels, Ready: doc.Ready}
	for _, addr := range doc.Addresses {
		addr = addr.Unmap()
		if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
			return nil, fmt.Errorf("addresses: %q is not one of a pod", addr)
		}
		if slices.ContainsFunc(p.Addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
			return nil, errors.New("addresses: more than one of a family")
		}
		p.Addrs = append(p.Addrs, addr)
	}
	for _, port := range doc.Ports {
		protocol, ok := map[string]Protocol{"TCP": TCP, "UDP": UDP, "SCTP": SCTP}[port.Protocol]
		if !ok || port.Port == 0 || port.Name == "" {
			return nil, fmt.Errorf("ports: %q is no named port", clip(fmt.Sprint(port)))
		}
		p.Ports = append(p.Ports, PodPort{port.Name, protocol, port.Port})
	}
	return p, nil
}
