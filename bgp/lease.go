package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// LeaseData is what a node publishes in its lease, and all that other nodes know of it. It is the node's BackendData, or its BackendV6Data when it
// has no IPv4; where an overlay is on, flannel's keys of a VXLAN node (VNI, VtepMAC) stand beside these in the same object.
//
// Decisions that two nodes have to make alike, such as whether they need a session of their own, follow from what both published.
type LeaseData struct {
	AS       uint32
	Node     string     // its name, unique in the cluster
	RouterID netip.Addr // IPv4 form
	Port     uint16     `json:",omitempty"` // TCP, of its listener; 0 is 179

	// Labels are those of the node's labels that reflectors may select it by; the others are of no use to other nodes.
	Labels map[string]string `json:",omitempty"`

	Reflector *LeaseReflector `json:",omitempty"` // the node is a route reflector

	// Hears are the names of the reflectors that have told this node all that they know, and whose routes it still has; sorted. A
	// pair of nodes whose reflectors are connected needs no session of its own.
	Hears []string `json:",omitempty"`
}

// LeaseReflector is a route reflector (RFC 4456) as other nodes see it.
type LeaseReflector struct {
	ClusterID netip.Addr // IPv4 form
	Serves    Selector   `json:",omitzero"` // the nodes that it reflects routes for
	// Leaving says that the node is no reflector any more, but still serves those who hear it until they have sessions of their own.
	Leaving bool `json:",omitempty"`
}

// Selector chooses nodes by name and by labels. A node has to meet both conditions; an empty one is met by every node.
type Selector struct {
	Names  []string          `json:",omitempty"` // one of them
	Labels map[string]string `json:",omitempty"` // all of them, with these values
}

// IsZero reports whether every node is chosen.
func (s Selector) IsZero() bool { return len(s.Names) == 0 && len(s.Labels) == 0 }

// Matches reports whether the node with this name and these labels is chosen.
func (s Selector) Matches(name string, labels map[string]string) bool {
	if len(s.Names) > 0 && !slices.Contains(s.Names, name) {
		return false
	}
	for key, want := range s.Labels {
		if have, ok := labels[key]; !ok || have != want {
			return false
		}
	}
	return true
}

// maxNodeName is the size in bytes of the longest node name: that of a DNS subdomain, as in Kubernetes.
const maxNodeName = 253

// Encode returns the JSON object that DecodeLease reads. It is an error when DecodeLease would refuse it.
func (d LeaseData) Encode() (json.RawMessage, error) {
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("encode BGP lease data: %w", err)
	}
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode BGP lease data: %w", err)
	}
	return data, nil
}

// DecodeLease returns what the lease of a BGP node says. Keys that are unknown are passed over, since newer nodes may say more.
func DecodeLease(l *store.Lease) (LeaseData, error) {
	if l.BackendType != BackendType {
		return LeaseData{}, fmt.Errorf("backend type is %q, not %q", l.BackendType, BackendType)
	}
	raw := l.BackendData
	if len(raw) == 0 || !l.PublicIP.IsValid() {
		raw = l.BackendV6Data
	}
	if len(raw) == 0 {
		return LeaseData{}, errors.New("no backend data")
	}
	d, err := DecodeLeaseData(raw)
	if err != nil {
		return LeaseData{}, fmt.Errorf("backend data: %w", err)
	}
	return d, nil
}

// DecodeLeaseData reads what Encode returned, with DecodeLease's tolerance.
func DecodeLeaseData(raw json.RawMessage) (LeaseData, error) {
	var d LeaseData
	if err := json.Unmarshal(raw, &d); err != nil {
		return LeaseData{}, err
	}
	if err := d.validate(); err != nil {
		return LeaseData{}, err
	}
	return d, nil
}

func (d LeaseData) validate() error {
	if err := CheckAS(uint64(d.AS)); err != nil {
		return fmt.Errorf("AS: %w", err)
	}
	if d.Node == "" || len(d.Node) > maxNodeName {
		return fmt.Errorf("key Node: want a name of 1 to %d bytes, have %d", maxNodeName, len(d.Node))
	}
	if err := CheckRouterID(d.RouterID); err != nil {
		return fmt.Errorf("RouterID: %w", err)
	}
	if d.Reflector != nil {
		if err := CheckRouterID(d.Reflector.ClusterID); err != nil {
			return fmt.Errorf("Reflector.ClusterID: %w", err)
		}
	}
	return nil
}

// CheckAS returns an error that says what is wrong with an autonomous system number, if it is one that no network may have: 0 (RFC 7607), AS_TRANS
// (RFC 6793) and the last ones of 16 and of 32 bits (RFC 7300).
func CheckAS(as uint64) error {
	switch {
	case as == 0 || as >= 1<<32-1:
		return fmt.Errorf("have %d, want an AS number from 1 to 4294967294", as)
	case as == 23456 || as == 65535:
		return fmt.Errorf("have %d, which is reserved; want another AS number", as)
	}
	return nil
}

// CheckRouterID returns an error that says what is wrong with a router or cluster ID, if it is not one (RFC 6286: four bytes, not 0).
func CheckRouterID(id netip.Addr) error {
	if !id.Is4() || id.IsUnspecified() {
		return fmt.Errorf("have %q, want four bytes in the form of an IPv4 address, not 0.0.0.0", addrText(id))
	}
	return nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
