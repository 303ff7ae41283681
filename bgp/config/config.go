package config

import (
	"net/netip"
	"time"

	"github.com/twill-cni/twill/bgp"
)

// Config is the file, checked, with defaults filled in. It is not changed after Parse.
type Config struct {
	AS       uint32
	RouterID netip.Addr // zero: the node's IPv4 address
	Port     uint16
	Mesh     Mesh
	Overlay  Overlay
	Accept   []bgp.PrefixMatch // what nodes take from nodes besides pod subnets

	PasswordFile string // of the sessions between nodes; empty: none
	Session             // of the sessions between nodes

	Nodes      []NodeRule
	Peers      []Peer
	Announce   []Announcement
	Services   Services
	PodSubnets Attributes
	Aggregates []Aggregate
}

// Session says how sessions are held. The pointers are nil where the feature is off.
type Session struct {
	Timers   bgp.Timers
	Graceful *bgp.GracefulRestart
	BFD      *bgp.BFD
}

// Mesh says which nodes hold sessions with each other.
type Mesh string

// The values of mesh.
const (
	MeshAuto Mesh = "auto" // those that no pair of connected reflectors serves
	MeshOn   Mesh = "on"   // all
	MeshOff  Mesh = "off"  // none, except with reflectors
)

// Overlay says which nodes are reached through the VXLAN overlay.
type Overlay string

// The values of overlay.
const (
	OverlayNever       Overlay = "never"
	OverlayCrossSubnet Overlay = "cross-subnet" // those that are not on the uplink's own network
	OverlayAlways      Overlay = "always"
)

// NodeRule is an element of nodes: settings of some nodes.
type NodeRule struct {
	Match bgp.Selector
	NodeSettings
}

// NodeSettings are what can be said of one node. A zero field says nothing.
type NodeSettings struct {
	AS          uint32
	RouterID    netip.Addr
	Port        uint16
	NextHopSelf *bool
	Reflector   *Reflector
	PodSubnets  *Attributes
}

// Reflector makes a node a route reflector.
type Reflector struct {
	Enabled   bool       // false takes back what a later rule says
	ClusterID netip.Addr // zero: the router ID
	Serves    bgp.Selector
}

// Peer is a neighbour that is not a node, or a range of them.
type Peer struct {
	Name  string // unique
	Nodes bgp.Selector

	Address netip.Addr   // the zero Addr for a range
	Range   netip.Prefix // the zero Prefix for one neighbour
	Port    uint16       // TCP; 0 is 179

	PasswordFile    string // empty: no password
	ReflectorClient bool

	Settings bgp.Settings // all but Password and Reflector, which Plan adds
}

// Attributes are what an announcement bears. Zero fields say nothing.
type Attributes struct {
	Communities      []bgp.Community
	LargeCommunities []bgp.LargeCommunity
	LocalPref        uint32
	MED              *uint32
	Prepend          uint8 // how many times more the AS goes before the path, to external peers that are not nodes
}

// Announcement is an extra prefix that some nodes announce.
type Announcement struct {
	Prefix netip.Prefix // masked
	Nodes  bgp.Selector
	Attributes
}

// Aggregate is a prefix that a node announces while it announces a more specific one.
type Aggregate struct {
	Prefix      netip.Prefix // masked
	Nodes       bgp.Selector
	SummaryOnly bool // the more specific ones are not announced to those that the aggregate goes to
	ToNodes     bool
	ToExternal  bool // to peers that are not nodes
	Attributes
}

// Default is the configuration of an empty file. Each call returns one of its own.
func Default() *Config {
	return &Config{
		AS:   64512,
		Port: 179,
		Mesh: MeshAuto, Overlay: OverlayNever,
		Session: Session{
			Timers:   bgp.Timers{Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second},
			Graceful: &bgp.GracefulRestart{RestartTime: 30 * time.Second, StaleTime: 20 * time.Second},
		},
	}
}

// defaultBFD is what bfd says when it is enabled and says no more.
var defaultBFD = bgp.BFD{Transmit: 300 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}

// Node is what the configuration says of one node.
type Node struct {
	Name   string
	Labels map[string]string

	AS          uint32
	RouterID    netip.Addr // zero: the node's IPv4 address
	Port        uint16
	NextHopSelf bool       // to nodes, of what neighbours that are not nodes announced
	Reflector   *Reflector // nil: the node is none
	ClusterID   netip.Addr // zero: the router ID; of a node that is no reflector too, so that it can become one without new sessions
	PodSubnets  Attributes
}

// Node returns the settings of a node: for each key, what its record says, else the first of the rules that match it, else the top of the
// file.
func (c *Config) Node(name string, labels map[string]string, record NodeSettings) Node {
	n := Node{Name: name, Labels: labels}
	top := NodeSettings{AS: c.AS, RouterID: c.RouterID, Port: c.Port, PodSubnets: &c.PodSubnets}
	for i := range c.Nodes {
		if c.Nodes[i].Match.Matches(name, labels) {
			record = record.or(c.Nodes[i].NodeSettings)
		}
	}
	n.fill(record.or(top))
	return n
}

// or returns s with o's values for the keys that s says nothing about.
func (s NodeSettings) or(o NodeSettings) NodeSettings {
	if s.AS == 0 {
		s.AS = o.AS
	}
	if !s.RouterID.IsValid() {
		s.RouterID = o.RouterID
	}
	if s.Port == 0 {
		s.Port = o.Port
	}
	if s.NextHopSelf == nil {
		s.NextHopSelf = o.NextHopSelf
	}
	if s.Reflector == nil {
		s.Reflector = o.Reflector
	}
	if s.PodSubnets == nil {
		s.PodSubnets = o.PodSubnets
	}
	return s
}

func (n *Node) fill(s NodeSettings) {
	n.AS, n.RouterID, n.Port = s.AS, s.RouterID, s.Port
	n.NextHopSelf = s.NextHopSelf != nil && *s.NextHopSelf
	if s.Reflector != nil {
		n.ClusterID = s.Reflector.ClusterID
		if s.Reflector.Enabled {
			n.Reflector = s.Reflector
		}
	}
	if s.PodSubnets != nil {
		n.PodSubnets = *s.PodSubnets
	}
}

// SelectorLabels returns the keys of the labels by which the reflectors of the file choose nodes.
func (c *Config) SelectorLabels() map[string]bool {
	keys := map[string]bool{}
	for _, n := range c.Nodes {
		if n.Reflector != nil {
			for key := range n.Reflector.Serves.Labels {
				keys[key] = true
			}
		}
	}
	return keys
}
