package lab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// The backends: values of twilld's --backend.
const (
	VXLAN = "vxlan"
	BGP   = "bgp"
)

// Overlay says, with BGP, which packets between nodes are encapsulated all the same: the value of "overlay" in twilld's --bgp-config.
type Overlay string

// The values of Overlay.
const (
	OverlayNever       Overlay = "never"
	OverlayCrossSubnet Overlay = "cross-subnet" // those to nodes of another subnet
	OverlayAlways      Overlay = "always"
)

// Routing is how nodes reach each other's pods. The zero value of each field stands for its default.
type Routing struct {
	Backend    string  // default VXLAN; twilld's --backend and the stored Backend.Type
	Overlay    Overlay `json:",omitempty"` // BGP only; default: cross-subnet where there are several subnets and no ToR, else never
	Reflectors int     `json:",omitempty"` // BGP only; so many of the first nodes reflect routes; default 0: each node has a session with each
	ToR        bool    `json:",omitempty"` // BGP only; the router between the subnets is a BGP speaker, and each node has a session with it
}

// complete fills in the defaults of a lab with so many nodes and subnets, and checks the rest.
func (r Routing) complete(nodes, subnets int) (Routing, error) {
	r.Backend = cmp.Or(r.Backend, VXLAN)
	if r.Backend != BGP {
		if r != (Routing{Backend: r.Backend}) {
			return r, fmt.Errorf("overlay, reflectors and the top-of-rack router need the backend %s, not %s", BGP, r.Backend)
		}
		return r, nil
	}
	if r.Overlay == "" {
		r.Overlay = OverlayNever
		if subnets > 1 && !r.ToR {
			r.Overlay = OverlayCrossSubnet // no router knows where the pods are
		}
	}
	if !slices.Contains([]Overlay{OverlayNever, OverlayCrossSubnet, OverlayAlways}, r.Overlay) {
		return r, fmt.Errorf("overlay %q is not one of %s, %s, %s", r.Overlay, OverlayNever, OverlayCrossSubnet, OverlayAlways)
	}
	if r.Reflectors < 0 || r.Reflectors > nodes {
		return r, fmt.Errorf("%d reflectors: with %d nodes there are 0 to %d", r.Reflectors, nodes, nodes)
	}
	return r, nil
}

// withBackend returns the network config with another Backend.Type; what else it says stays.
func withBackend(config json.RawMessage, backend string) (json.RawMessage, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, fmt.Errorf("read the network config: %w", err)
	}
	object := map[string]json.RawMessage{}
	if raw := doc["Backend"]; raw != nil {
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, fmt.Errorf("read Backend of the network config: %w", err)
		}
	}
	if doc == nil || object == nil {
		return nil, errors.New("read the network config: it says null where an object is due")
	}
	kind, err := json.Marshal(backend)
	if err == nil {
		object["Type"] = kind
		doc["Backend"], err = json.Marshal(object)
	}
	if err == nil {
		config, err = json.Marshal(doc)
	}
	if err != nil {
		return nil, fmt.Errorf("render the network config: %w", err)
	}
	return config, nil
}
