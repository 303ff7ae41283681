package gate

import (
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// TableName is the name of the table, of family inet.
const TableName = kernel.TablePrefix + "policy"

// Family is the family of the table.
const Family = kernel.FamilyInet

// The sets and maps of the table; those with 4 in their names have a twin with 6.
const (
	SetNodePods4 = "node-pods4" // networks of this node's pods
	SetNodePods6 = "node-pods6"
	SetEgress4   = "egress4" // local pod -> goto the chain of its egress policies
	SetEgress6   = "egress6"
	SetIngress4  = "ingress4" // likewise
	SetIngress6  = "ingress6"
	SetSelf4     = "self4" // local pod . itself
	SetSelf6     = "self6"
	SetNetworks4 = "networks4" // range of addresses -> class; no two overlap
	SetNetworks6 = "networks6"
	SetPods4     = "pods4" // pod -> class, where that is not what networks4 says; Bulk
	SetPods6     = "pods6"
	SetPairs     = "pairs"  // subject . class -> ports; Bulk
	SetPorts     = "ports"  // ports . protocol . port; Bulk
	SetRanges    = "ranges" // ports . protocol . range of ports
	SetPorted    = "ported" // the protocols that have ports
)

// The chains. Those of subjects are the daemon's to add.
const (
	ChainForward   = "forward"
	ChainInput     = "input"
	ChainDiscovery = "discovery" // what IPv6 needs to work on a link
	ChainSource    = "source"    // asks the source's policies
	ChainTarget    = "target"    // asks the destination's
	ChainOpen      = "open"      // of pods without policies

	ChainDestinationClass = "destination-class"
	ChainSourceClass      = "source-class"
	ChainEgressResult     = "egress-result" // the priority is a number of ports
	ChainIngressResult    = "ingress-result"

	ChainRefuseCut     = "refuse-cut"
	ChainRefuseUnknown = "refuse-unknown"
	ChainRefuseEgress  = "refuse-egress"
	ChainRefuseIngress = "refuse-ingress"
)

// The prefixes of what is told to the NFLOG group. They say which chain has dropped the packet.
const (
	LogUnknown = "twill unknown"
	LogEgress  = "twill egress"
	LogIngress = "twill ingress"
)

// LogLength is how many bytes of a packet are told: the headers of IPv6 and of a transport protocol, with room for extensions.
const LogLength = 128

// Numbers of ports. Others are a hash with flags.
const (
	PortsAll    = 1       // everything is open
	PortsNone   = 2       // nothing is
	FlagAllBut  = 1 << 31 // what the sets hold is closed, other ports are open
	FlagNoPorts = 1 << 30 // protocols without ports are open
	HashMask    = FlagNoPorts - 1
)

// Config is what the table depends on beside the policies. It has to be the same for plugin and daemon.
type Config struct {
	NodePods []netip.Prefix // networks of this node's pods, of both families
	Bridge   string         // what comes from this link has the address of a pod of this node that is known, or is refused; empty: sources are believed
	CutMark  uint32         // bits of the connection mark: connections with all of them are dropped; 0: none are

	LogGroup          uint16 // the NFLOG group that hears of refused packets
	LogRate, LogBurst uint32 // of refused packets, for each of three reasons, that it hears of in a second; a LogRate of 0: none
}

// Equal reports whether c and o make the same table.
func (c Config) Equal(o Config) bool {
	return slices.Equal(c.NodePods, o.NodePods) && c.Bridge == o.Bridge && c.CutMark == o.CutMark && c.LogGroup == o.LogGroup && c.LogRate == o.LogRate && c.LogBurst == o.LogBurst
}

// LocalKeys returns the elements that open addresses of this node, by set, as kernel/nft's DeleteElements wants them: without them, the
// addresses are closed. Those of verdict maps have no values.
func LocalKeys(addrs ...netip.Addr) map[string][]kernel.Element {
	keys := map[string][]kernel.Element{}
	for _, a := range addrs {
		a = a.Unmap()
		one := kernel.Datum{Addr: a}
		f := FamilyOf(a)
		keys[f.Egress] = append(keys[f.Egress], kernel.Element{Key: []kernel.Datum{one}})
		keys[f.Ingress] = append(keys[f.Ingress], kernel.Element{Key: []kernel.Datum{one}})
		keys[f.Self] = append(keys[f.Self], kernel.Element{Key: []kernel.Datum{one, one}})
	}
	return keys
}

// BulkSets returns the names of the Bulk sets.
func BulkSets() []string { return []string{SetPorts, SetPairs, SetPods4, SetPods6} }

// Version is what differs between the versions of IP.
type Version struct {
	Saddr, Daddr                                    kernel.Field
	Addr                                            kernel.Type
	NodePods, Egress, Ingress, Self, Networks, Pods string // sets
}

// Versions are IPv4 and IPv6.
func Versions() [2]Version {
	return [2]Version{
		{kernel.FieldIPSaddr, kernel.FieldIPDaddr, kernel.TypeIPv4Addr, SetNodePods4, SetEgress4, SetIngress4, SetSelf4, SetNetworks4, SetPods4},
		{kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, kernel.TypeIPv6Addr, SetNodePods6, SetEgress6, SetIngress6, SetSelf6, SetNetworks6, SetPods6},
	}
}

// FamilyOf returns the version of an address.
func FamilyOf(a netip.Addr) Version {
	if a.Is4() {
		return Versions()[0]
	}
	return Versions()[1]
}
