package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"
)

// NodeStatus is how a node is at one moment. What is not known yet has its zero value.
type NodeStatus struct {
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Backend string    `json:"backend"`
	Started time.Time `json:"started"`
	// NotReady is why /readyz says no, one reason each; empty when it says yes.
	NotReady  []string        `json:"notReady,omitempty"`
	Datastore DatastoreStatus `json:"datastore"`

	Subnets   []netip.Prefix `json:"subnets"`   // of the node's pods
	Uplink    string         `json:"uplink"`    // its name
	UplinkMTU int            `json:"uplinkMTU"` // bytes
	PodMTU    int            `json:"podMTU"`    // bytes

	Peers     PeerStatus   `json:"peers"`
	BGP       *BGPStatus   `json:"bgp,omitempty"`      // nil: the backend is another one
	Services  *LoopStatus  `json:"services,omitempty"` // nil: the service proxy is off
	Policies  *LoopStatus  `json:"policies,omitempty"` // nil: policies are not enforced
	Pods      int          `json:"pods"`               // attached
	Addresses []RangeUse   `json:"addresses"`
	Conntrack ConntrackUse `json:"conntrack"`
	// Unknown is what could not be found out for this answer.
	Unknown []string `json:"unknown,omitempty"`
}

// DatastoreStatus is what is between a node and its datastore.
type DatastoreStatus struct {
	Kind  string `json:"kind"` // etcd or kubernetes
	Error string `json:"error,omitempty"`
}

// PeerStatus is how the last sync of the node's links, routes, neighbours and forwarding entries went.
type PeerStatus struct {
	LastSync   time.Time `json:"lastSync"` // the end of the last good one
	Error      string    `json:"error,omitempty"`
	Peers      int       `json:"peers"`      // nodes that are reached
	Rejected   int       `json:"rejected"`   // records that cannot be used
	Desired    int       `json:"desired"`    // objects in the kernel
	Programmed int       `json:"programmed"` // of these, how many are there
	Repaired   int       `json:"repaired"`   // changes since the start that put right what another program had changed
}

// BGPStatus counts sessions.
type BGPStatus struct {
	Sessions    int `json:"sessions"`
	Established int `json:"established"`
	LeftOut     int `json:"leftOut"` // peers that have none since something is wrong with their configuration
}

// LoopStatus is how the programming of Services or of policies goes.
type LoopStatus struct {
	LastSync       time.Time `json:"lastSync"`       // the end of the last good one
	WaitingSeconds float64   `json:"waitingSeconds"` // for how long the oldest change has not been in the kernel
	Error          string    `json:"error,omitempty"`
}

// RangeUse is how much of a range of addresses is taken.
type RangeUse struct {
	Range string `json:"range"`
	Used  uint64 `json:"used"`
	Size  uint64 `json:"size"`
}

// ConntrackUse is how many connections the kernel tracks in the host's network namespace.
type ConntrackUse struct {
	Used int `json:"used"`
	Max  int `json:"max"` // of all network namespaces together; new connections are dropped beyond it
}

func (a About) handleStatus(mux *http.ServeMux) {
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { Answer(w, a.Status(r.Context()), nil) })
}

// Status returns how the daemon's node is.
func (c *Client) Status(ctx context.Context) (NodeStatus, error) {
	return get[NodeStatus](ctx, c, "/status", nil)
}
