package kernel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

const (
	// RouteProtocol marks every route and neighbour that Twill writes (rtm_protocol, NDA_PROTOCOL), so that a restarted daemon
	// recognises its own without any memory. The number is in the range that the kernel leaves to user space
	// (include/uapi/linux/rtnetlink.h: values above RTPROT_STATIC are not interpreted) and is used by no routing daemon
	// listed there or in iproute2's rt_protos.
	RouteProtocol = 84

	// LinkAlias is the IFLA_IFALIAS of every link that the daemon makes or adopts. A link that bears it and is not desired any
	// more is stale and is removed; a link without it is foreign and is left alone.
	LinkAlias = "twill"

	// BridgeAlias is that of a bridge which a plugin made or adopted and the daemon has not seen yet.
	BridgeAlias = LinkAlias + "-bridge"

	// PodLinkAliasPrefix starts the IFLA_IFALIAS of the host end of a pod's veth pair. Container id and interface name follow,
	// divided by a slash.
	PodLinkAliasPrefix = "twill-pod "
)

// State is what one node's kernel should hold. The order of its slices carries no meaning.
type State struct {
	Links     []Link
	Fragments []*Fragment
	Tables    []Table

	// AbsentTables names tables of ours that must not exist, such as those of a module that is switched off and may have been on in
	// an earlier run. Tables that leave Tables from one Sync to the next are removed without being named here.
	AbsentTables []string

	// KeepStale says that more may be desired than the State knows of yet, such as after a restart before all peers have announced their
	// routes: what is there and seems stale is left.
	KeepStale bool
}

// Fragment is the part of a State that stems from one source, such as one peer's lease. A Fragment is never changed
// after it was made, and a source that did not change yields the same pointer again: comparing 20,000 fragments with
// those of the last sync is then 20,000 pointer comparisons and no rendering.
//
// When two fragments claim the same kernel key (two peers that publish one VTEP MAC, say), the one with the smaller
// Owner wins, whatever the order in which they came.
type Fragment struct {
	Owner     string // unique within a State; names the source in errors and in status output
	Neighbors []Neighbor
	FDB       []FDBEntry
	Routes    []Route
}

// MAC is an EUI-48 address. It is comparable, unlike net.HardwareAddr.
type MAC [6]byte

// ParseMAC reads the forms that net.ParseMAC does and accepts EUI-48 only.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, fmt.Errorf("MAC address %q: %w", s, err)
	}
	if len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("MAC address %q: want 6 bytes, have %d", s, len(hw))
	}
	return MAC(hw), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether m is 00:00:00:00:00:00, which stands for "not given".
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether m can be the address of one device: not zero and without the group bit (IEEE 802).
func (m MAC) IsUnicast() bool { return !m.IsZero() && m[0]&1 == 0 }

// Link is a network device by name. Links are few; they are compared field by field.
type Link struct {
	Name string
	MTU  int // bytes; 0 leaves the kernel's choice
	MAC  MAC // zero leaves the kernel's choice
	Up   bool

	// Addresses that the link must hold. On a link of ours every other global address is removed.
	// IPv6 addresses are set without duplicate address detection.
	Addresses []netip.Prefix

	// Exactly one of these says which kind of device it is.
	VXLAN  *VXLAN
	Bridge *Bridge

	// TxChecksumOffload false switches tx-checksum-ip-generic off (nil leaves it): some NICs corrupt the inner
	// checksum of encapsulated packets.
	TxChecksumOffload *bool

	// Unmarked says, in a dump only, that the link does not bear LinkAlias yet: it was found under a desired name and becomes ours when it
	// is applied.
	Unmarked bool

	// Sysctls are the link's entries under net.ipv4.conf.<link> and net.ipv6.conf.<link>, keyed such as "ipv6/accept_ra".
	// Entries not named here are not touched.
	Sysctls map[string]string
}

// VXLAN are the attributes of a VXLAN device (drivers/net/vxlan). All but none of them can be changed on a
// live device: a difference means that the device is made again.
type VXLAN struct {
	VNI      uint32
	Port     uint16 // UDP, host byte order; 0 is the kernel's default, 8472
	Uplink   string // lower device; empty for none
	Local    netip.Addr
	GBP      bool
	Learning bool
}

// Bridge are the attributes of a bridge device.
type Bridge struct {
	// PortAliasPrefix names the links that belong on the bridge: every link whose IFLA_IFALIAS starts with it is
	// enslaved again when it has no master. Empty: ports are not looked after. In a dump it is empty when one is astray.
	PortAliasPrefix string
	Hairpin         bool // ports send a frame back through the port it came in by
}

// Neighbor is a permanent entry of the neighbour table (ARP, NDP): IP is at MAC on Link.
type Neighbor struct {
	Link string
	IP   netip.Addr
	MAC  MAC
}

// NeighborKey identifies a Neighbor in the kernel.
type NeighborKey struct {
	Link string
	IP   netip.Addr
}

// Key returns what identifies n in the kernel.
func (n Neighbor) Key() NeighborKey { return NeighborKey{n.Link, n.IP} }

func (n Neighbor) String() string {
	return fmt.Sprintf("neighbor %s dev %s lladdr %s", n.IP, n.Link, n.MAC)
}

// FDBEntry is a permanent entry of a VXLAN device's own forwarding table (NTF_SELF): frames to MAC are
// encapsulated to Dst.
type FDBEntry struct {
	Link string
	MAC  MAC
	Dst  netip.Addr
}

// FDBKey identifies an FDBEntry in the kernel.
type FDBKey struct {
	Link string
	MAC  MAC
}

// Key returns what identifies e in the kernel.
func (e FDBEntry) Key() FDBKey { return FDBKey{e.Link, e.MAC} }

func (e FDBEntry) String() string { return fmt.Sprintf("fdb %s dev %s dst %s", e.MAC, e.Link, e.Dst) }

// RouteType is the kernel's rtm_type.
type RouteType uint8

// The route types in use; the zero value is a unicast route.
const (
	Unicast RouteType = iota
	Blackhole
	Unreachable
)

// Route is an entry of the main routing table.
type Route struct {
	Dst      netip.Prefix // masked
	Metric   uint32       // 0 is the kernel's default: 0 for IPv4, 1024 for IPv6
	Type     RouteType
	Src      netip.Addr // preferred source address; zero for none
	MTU      int        // bytes; 0 for none
	NextHops []NextHop  // empty for other types than Unicast; more than one is ECMP; sorted by Compare
}

// NextHop is one way of a Route.
type NextHop struct {
	Gateway netip.Addr // zero: the destination is on Link itself
	Link    string     // empty: the kernel resolves Gateway
	OnLink  bool       // Gateway is on Link although no address says so (RTNH_F_ONLINK)
	Weight  uint8      // 0 and 1 are the same
}

// Compare orders next hops by gateway, link and flags.
func (h NextHop) Compare(o NextHop) int {
	if c := h.Gateway.Compare(o.Gateway); c != 0 {
		return c
	}
	switch {
	case h.Link < o.Link:
		return -1
	case h.Link > o.Link:
		return 1
	case h.OnLink != o.OnLink:
		if o.OnLink {
			return -1
		}
		return 1
	}
	return int(max(h.Weight, 1)) - int(max(o.Weight, 1))
}

// RouteKey identifies a Route in the kernel.
type RouteKey struct {
	Dst    netip.Prefix
	Metric uint32
}

// Key returns what identifies r in the kernel.
func (r Route) Key() RouteKey {
	k := RouteKey{r.Dst, r.Metric}
	if k.Metric == 0 && r.Dst.Addr().Is6() {
		k.Metric = 1024 // IP6_RT_PRIO_USER
	}
	return k
}

// Equal reports whether the kernel would treat r and o the same.
func (r Route) Equal(o Route) bool {
	return r.Key() == o.Key() && r.Type == o.Type && r.Src == o.Src && r.MTU == o.MTU &&
		slices.EqualFunc(r.NextHops, o.NextHops, func(a, b NextHop) bool { return a.Compare(b) == 0 })
}

func (r Route) String() string {
	s := "route " + r.Dst.String()
	for _, h := range r.NextHops {
		if h.Gateway.IsValid() {
			s += " via " + h.Gateway.String()
		}
		if h.Link != "" {
			s += " dev " + h.Link
		}
	}
	return s
}
