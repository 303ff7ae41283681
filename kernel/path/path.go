package path

import "net/netip"

// Pod is where a pod is on its node, as the record of its attachment says.
type Pod struct {
	Name     string     `json:"name"` // namespace/name
	Netns    string     `json:"netns"`
	IfName   string     `json:"ifName"`   // in the pod
	HostLink string     `json:"hostLink"` // its other end, on the node
	Bridge   string     `json:"bridge"`
	Address  netip.Addr `json:"address"`
}

// Query says what is looked for: both ways between a pod of the node and another address of the same family.
type Query struct {
	Pod   Pod
	Other netip.Addr
}

// View is what a node's kernel holds for a Query.
type View struct {
	Pod     Inside   `json:"pod"`
	Host    Link     `json:"host"`
	Bridge  Link     `json:"bridge"`
	Uplink  Link     `json:"uplink"`            // what the VXLAN device uses, or the default route, or the only one that is left
	Overlay *Overlay `json:"overlay,omitempty"` // the VXLAN device of the address's family; nil: there is none
	// Forwarding and, where the family is IPv6, IPv6 are false when a sysctl of a link forbids it; Sysctl is its name.
	Forwarding bool    `json:"forwarding"`
	Sysctl     string  `json:"sysctl,omitempty"`
	Out        Route   `json:"out"` // of packets from the pod to the other address
	In         []Route `json:"in"`  // of packets from there to the pod, one for each link by which they may come
	Chains     []Chain `json:"chains,omitempty"`
}

// Inside is what the pod's own network namespace holds.
type Inside struct {
	Error string `json:"error,omitempty"` // why it could not be looked at
	Link  Link   `json:"link"`
	Route Route  `json:"route"` // to the other address, with its neighbour
}

// Link is a network device.
type Link struct {
	Name      string         `json:"name"`
	Found     bool           `json:"found"`
	Up        bool           `json:"up"`      // administratively
	Carrier   bool           `json:"carrier"` // its other end is up, too
	MTU       int            `json:"mtu"`     // bytes
	MAC       string         `json:"mac,omitempty"`
	Master    string         `json:"master,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	RPFilter  int            `json:"rpFilter"` // in effect: 0 off, 1 strict, 2 loose (IPv4)
}

// Has reports whether the link has the address.
func (l Link) Has(a netip.Addr) bool {
	for _, p := range l.Addresses {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// Overlay is a VXLAN device.
type Overlay struct {
	Link
	VNI   int        `json:"vni"`
	Port  int        `json:"port"`
	Local netip.Addr `json:"local"` // the address that its packets come from
}

// The ways in which the kernel refuses to route a packet.
const (
	NoRoute       = "no route"
	Blackhole     = "blackhole"
	Unreachable   = "unreachable"
	Prohibit      = "prohibit"
	ReversePath   = "rp_filter" // its source is not behind the link by which it comes
	NotForwarding = "not forwarded"
)

// Route is the kernel's answer for a packet.
type Route struct {
	Source   netip.Addr   `json:"source,omitzero"`
	To       netip.Addr   `json:"to"`
	Incoming string       `json:"incoming,omitempty"` // the link by which the packet comes; empty: it is the node's own
	Refused  string       `json:"refused,omitempty"`  // one of the constants above, or the kernel's words
	Prefix   netip.Prefix `json:"prefix,omitzero"`    // of the route that matches best
	Gateway  netip.Addr   `json:"gateway,omitzero"`   // absent: the address is on the link
	Device   string       `json:"device,omitempty"`
	Protocol int          `json:"protocol,omitempty"` // who wrote it
	Link     Link         `json:"link"`               // the device
	Neighbor Neighbor     `json:"neighbor"`           // of the next hop on it
	FDB      []netip.Addr `json:"fdb,omitempty"`      // where the VXLAN device sends to that neighbour's MAC
	Underlay *Route       `json:"underlay,omitempty"` // to the first of these
}

// NextHop is the gateway, or the destination itself when it is on the link.
func (r Route) NextHop() netip.Addr {
	if r.Gateway.IsValid() {
		return r.Gateway
	}
	return r.To
}

// Neighbor is an entry of the neighbour table.
type Neighbor struct {
	Address netip.Addr `json:"address,omitzero"`
	Found   bool       `json:"found"`
	MAC     string     `json:"mac,omitempty"`
	State   string     `json:"state,omitempty"` // ip-neighbour(8)'s words, in small letters
}

// Chain is a chain of nftables that is not Twill's and may drop forwarded packets.
type Chain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Drops  bool   `json:"drops"` // its policy is drop
	Rules  int    `json:"rules"` // that drop or reject
}
