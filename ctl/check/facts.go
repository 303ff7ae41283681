package check

import (
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// Setup is what twilld is, or will be, told to do on the host.
type Setup struct {
	BGP, Overlay        bool // the backend bgp; VXLAN devices are used
	Proxy, Policy       bool
	IPv4, IPv6          bool
	VXLANPort, BGPPort  uint16
	Health, Metrics     netip.AddrPort
	Page                netip.AddrPort // not valid: there is none, and nothing is measured
	GaugePort           uint16         // UDP, on which nodes with a page measure how they reach each other
	Nodes               int            // of the cluster
	ConfDir, PluginsDir string
	Serves              bool // Twill has made something on the host already
}

// Part is a part of a host that is looked at.
type Part string

// The parts.
const (
	Features Part = "kernel features"
	Links    Part = "links"
	Chains   Part = "nftables"
	Legacy   Part = "tables of iptables-legacy"
	Sockets  Part = "sockets"
	Conf     Part = "network configurations"
	Plugins  Part = "plugins"
)

// Facts are how a host is.
type Facts struct {
	Setup
	Unknown map[Part]error // why a part could not be looked at

	Lacks    []Lack            // features that the kernel lacks
	Release  [2]int            // of the kernel: 6, 8
	Sysctls  map[string]string // by entry, such as net/ipv4/ip_forward; those that the kernel has
	Links    []Link
	Uplink   string    // a name; empty: there is no default route
	Networks []Network // of the cluster's pods
	Chains   []Chain
	Legacy   []string // tables that iptables-legacy has, of both families
	Sockets  []Socket
	Confs    []NetConf // sorted by name
	Plugins  []Plugin
	Version  string // that plugins should have; empty: unknown
}

// Network is a range of addresses that pods have.
type Network = netip.Prefix

// Lack is a feature that the kernel lacks.
type Lack struct {
	kernel.Feature
	Err error
}

// Link is one of the host's.
type Link struct {
	Name, Kind, Alias, Master string
	MTU                       int
	Addresses                 []netip.Prefix
	VXLAN                     *kernel.VXLAN
	TxChecksumOffload         *bool
}

// ours reports whether the link is one of Twill's, or of flannel's that Twill takes over.
func (l Link) ours() bool {
	return l.Alias == kernel.LinkAlias || strings.HasPrefix(l.Alias, "twill-") || l.Overlay() || l.Name == bridge
}

// Overlay reports whether it is the VXLAN device of Twill, by the name that flannel gives it, too.
func (l Link) Overlay() bool {
	return l.VXLAN != nil && (strings.HasPrefix(l.Name, "flannel.") || strings.HasPrefix(l.Name, "flannel-v6."))
}

// pod reports whether it is the host's end of a pod's link.
func (l Link) pod() bool { return strings.HasPrefix(l.Alias, kernel.PodLinkAliasPrefix) }

// overhead is by how many bytes the device makes packets longer (RFC 7348: the outer headers and the inner Ethernet header).
func (l Link) overhead() int {
	if l.VXLAN.Local.Is6() {
		return 70
	}
	return 50
}

// bridge is the bridge of pods (node.Bridge).
const bridge = "cni0"

func (f *Facts) link(name string) *Link {
	for i := range f.Links {
		if f.Links[i].Name == name {
			return &f.Links[i]
		}
	}
	return nil
}

// Chain is a chain of nftables, or of iptables-nft.
type Chain struct {
	Family, Table, Name string
	Hook                string // "forward", "input"...; empty: the kernel hands it no packets
	Drops               bool   // what its rules do not decide
	Rules               int
	Refusing            int // of the rules, those that drop or reject what meets them
}

// Socket is one that is bound.
type Socket struct {
	Protocol string // tcp: it listens; udp
	Address  netip.AddrPort
	Program  string // empty: unknown, or none, since it is the kernel's
}

// NetConf is a network configuration for container runtimes.
type NetConf struct {
	Name  string   // of the file
	Types []string // of its plugins
	Err   error    // why it could not be read
}

// Plugin is a program in the directory of plugins.
type Plugin struct {
	Name    string
	Err     error  // why it does not do
	Version string // what it was built from; empty: unknown
}
