package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/store"
)

// Nodes is what is asked about the nodes of the cluster; *peers.Inspector is the real one.
type Nodes interface {
	// List returns the nodes as the datastore has them at this moment.
	List(ctx context.Context, what store.NodeDetail) (*NodeListing, error)
	// Held says what this node's kernel holds for another one, which is named by its name, or by one of its subnets or addresses.
	Held(ctx context.Context, name string) (*NodeHeld, error)
}

// NodeListing are the nodes that a datastore has.
type NodeListing struct {
	Node      string        `json:"node"`      // who answers
	Datastore string        `json:"datastore"` // etcd or kubernetes
	Nodes     []ClusterNode `json:"nodes"`
}

// ClusterNode is a node as the datastore has it. What is not known has its zero value.
type ClusterNode struct {
	Name      string         `json:"name,omitempty"`
	Self      bool           `json:"self,omitempty"` // it is the one that answers
	Subnets   []netip.Prefix `json:"subnets"`
	Addresses []netip.Addr   `json:"addresses"` // by which other nodes reach it
	Backend   string         `json:"backend,omitempty"`
	VTEPMACs  []string       `json:"vtepMACs,omitempty"` // one of each family that it has
	AS        uint32         `json:"as,omitempty"`
	RouterID  netip.Addr     `json:"routerID,omitzero"`
	Expires   time.Time      `json:"expires,omitzero"` // when the lease goes unless the node renews it
	Created   time.Time      `json:"created,omitzero"`
	Zone      string         `json:"zone,omitempty"`
	Error     string         `json:"error,omitempty"` // why its record cannot be used
}

// Is reports whether a person who says text means the node.
func (n ClusterNode) Is(text string) bool {
	if text == "" {
		return false
	}
	return n.Name == text ||
		slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.String() == text }) ||
		slices.ContainsFunc(n.Addresses, func(a netip.Addr) bool { return a.String() == text })
}

// NodeHeld is what one node's kernel holds for another.
type NodeHeld struct {
	Node ClusterNode `json:"node"` // the other one
	// Why says why the kernel is to hold nothing for it, when that is so.
	Why      string             `json:"why,omitempty"`
	Objects  []HeldObject       `json:"objects"`
	Sessions []bgp.SessionState `json:"sessions,omitempty"`
}

// Good reports whether the kernel holds what it should, and no more. A node has a way to each other one.
func (h NodeHeld) Good() bool {
	for _, o := range h.Objects {
		if o.Verdict != HeldWell {
			return false
		}
	}
	return h.Node.Self || h.Why == "" && h.Node.Error == ""
}

// HeldObject is a route, a neighbour or a forwarding entry.
type HeldObject struct {
	Kind    string      `json:"kind"` // route, neighbor or fdb
	Should  string      `json:"should,omitempty"`
	Is      string      `json:"is,omitempty"`
	Verdict HeldVerdict `json:"verdict"`
}

// HeldVerdict says how what is there compares with what should be.
type HeldVerdict string

// The verdicts.
const (
	HeldWell    HeldVerdict = "ok"
	HeldMissing HeldVerdict = "missing"
	HeldOther   HeldVerdict = "differs"
	HeldStray   HeldVerdict = "unexpected"
)

const namesOnly = "names" // the detail that spares the datastore the question of when leases expire

func (a About) handleNodes(mux *http.ServeMux) {
	if a.Nodes == nil {
		return
	}
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, r *http.Request) {
		what := store.WithExpiries
		if r.URL.Query().Get("detail") == namesOnly {
			what = store.WithNames
		}
		listing, err := a.Nodes.List(r.Context(), what)
		Answer(w, listing, err)
	})
	mux.HandleFunc("GET /nodes/held", func(w http.ResponseWriter, r *http.Request) {
		held, err := a.Nodes.Held(r.Context(), r.URL.Query().Get("name"))
		Answer(w, held, err)
	})
}

// Nodes returns the nodes as the daemon's datastore has them.
func (c *Client) Nodes(ctx context.Context, what store.NodeDetail) (NodeListing, error) {
	var query url.Values
	if what == store.WithNames {
		query = url.Values{"detail": {namesOnly}}
	}
	return get[NodeListing](ctx, c, "/nodes", query)
}

// Held returns what the kernel of the daemon's node holds for another node; see Nodes.Held.
func (c *Client) Held(ctx context.Context, name string) (NodeHeld, error) {
	return get[NodeHeld](ctx, c, "/nodes/held", url.Values{"name": {name}})
}
