package overlay

import (
	"encoding/json"
	"net/netip"
	"strconv"

	"github.com/twill-cni/twill/store"
)

// family is what differs between the IPv4 and the IPv6 overlay: two rows of data, one code path.
type family struct {
	name     string
	ipv6     bool
	overhead int // bytes that encapsulation adds on an underlay of this family
	leastMTU int // bytes that a device of this family needs

	linkPrefix string
	enabled    func(*store.Network) bool
	pool       func(*store.Network) netip.Prefix
	subnet     func(*store.Lease) netip.Prefix
	publicIP   func(*store.Lease) netip.Addr
	data       func(*store.Lease) json.RawMessage
}

// The overhead is Ethernet (14), VXLAN (8), UDP (8) and the outer IP header (20 or 40). The least MTUs are what every host
// must accept: RFC 791 for IPv4, RFC 8200, section 5, for IPv6.
func families() [2]family {
	return [2]family{{
		name:       "IPv4",
		overhead:   50,
		leastMTU:   576,
		linkPrefix: "flannel.",
		enabled:    func(n *store.Network) bool { return n.EnableIPv4 },
		pool:       func(n *store.Network) netip.Prefix { return n.IPv4.Network },
		subnet:     func(l *store.Lease) netip.Prefix { return l.Subnet },
		publicIP:   func(l *store.Lease) netip.Addr { return l.PublicIP },
		data:       func(l *store.Lease) json.RawMessage { return l.BackendData },
	}, {
		name:       "IPv6",
		ipv6:       true,
		overhead:   70,
		leastMTU:   1280,
		linkPrefix: "flannel-v6.",
		enabled:    func(n *store.Network) bool { return n.EnableIPv6 },
		pool:       func(n *store.Network) netip.Prefix { return n.IPv6.Network },
		subnet:     func(l *store.Lease) netip.Prefix { return l.IPv6Subnet },
		publicIP:   func(l *store.Lease) netip.Addr { return l.PublicIPv6 },
		data:       func(l *store.Lease) json.RawMessage { return l.BackendV6Data },
	}}
}

func (f family) link(vni uint32) string { return f.linkPrefix + strconv.FormatUint(uint64(vni), 10) }

// LinkNames returns the names of the VXLAN devices that a network with this VNI can have. The daemon reads their addresses
// before it calls New, so that a device that is there keeps its own.
func LinkNames(vni uint32) []string {
	var names []string
	for _, f := range families() {
		names = append(names, f.link(vni))
	}
	return names
}
