//go:build linux

package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// EnsureBridge makes the bridge what want says and returns what it is. It may run in many processes at a time. In the
// usual case, when all is well, it costs two round trips.
//
// A bridge takes over the lowest address of its ports unless its own was set explicitly (kernel: br_stp_recalculate_bridge_id,
// NET_ADDR_SET), and every pod's neighbour entry for the gateway would be stale then. A new bridge therefore gets an
// address derived from its gateways; one that was there keeps what it has, set again by hand. Its alias, kernel.BridgeAlias
// or the daemon's kernel.LinkAlias, says that this was done.
func (h *Handle) EnsureBridge(want kernel.PodBridge) (kernel.PodBridgeState, error) {
	have, ok, err := h.host.findLink(want.Name)
	if err != nil {
		return kernel.PodBridgeState{}, err
	}
	if !ok {
		if have, err = h.createBridge(want); err != nil {
			return kernel.PodBridgeState{}, err
		}
	}
	if have.kind != "bridge" {
		return kernel.PodBridgeState{}, fmt.Errorf("link %s is a %s: %w", want.Name, orUnknown(have.kind), kernel.ErrNoBridge)
	}
	if !strings.HasPrefix(have.alias, kernel.LinkAlias) {
		if err := h.adoptBridge(have, want); err != nil {
			return kernel.PodBridgeState{}, err
		}
	}
	return h.reconcileBridge(have, want)
}

func orUnknown(kind string) string {
	if kind == "" {
		return "link without a kind"
	}
	return kind
}

func (h *Handle) createBridge(want kernel.PodBridge) (link, error) {
	mac := kernel.BridgeMAC(want.Name, want.Gateways)
	var b batch
	b.add("create bridge "+want.Name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	b.allow(unix.EEXIST) // another ADD was faster
	b.str(unix.IFLA_IFNAME, want.Name)
	b.attr(unix.IFLA_ADDRESS, mac[:])
	if want.MTU > 0 {
		b.u32(unix.IFLA_MTU, uint32(want.MTU))
	}
	b.open(unix.IFLA_LINKINFO)
	b.str(unix.IFLA_INFO_KIND, "bridge")
	b.close()
	b.add("find bridge "+want.Name, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, want.Name)
	var made link
	err := h.host.run(&b, func(typ uint16, body []byte) { made = parseLink(body) })
	return made, err
}

// adoptBridge does what is done once to a bridge: it pins the address, and sets what router and host need of it.
func (h *Handle) adoptBridge(have link, want kernel.PodBridge) error {
	settings := []sysctl{{path: "net/ipv4/ip_forward", value: "1"}}
	if hasIPv6(want.Gateways) {
		settings = append(settings,
			sysctl{path: "net/ipv6/conf/all/forwarding", value: "1"},
			sysctl{path: "net/ipv6/conf/" + want.Name + "/disable_ipv6", value: "0"},
			// The bridge's link-local address is used at once, and no pod's router advertisement turns the host's
			// routes to itself (CVE-2020-10749).
			sysctl{path: "net/ipv6/conf/" + want.Name + "/accept_dad", value: "0"},
			sysctl{path: "net/ipv6/conf/" + want.Name + "/accept_ra", value: "0"})
	}
	if err := writeSysctls(settings); err != nil {
		return err
	}
	var b batch
	b.add("pin address of bridge "+want.Name, unix.RTM_SETLINK, 0, ifinfo(have.index, 0, 0))
	b.attr(unix.IFLA_ADDRESS, have.mac[:])
	b.str(unix.IFLA_IFALIAS, kernel.BridgeAlias)
	return h.host.run(&b, nil)
}

// reconcileBridge brings MTU, state and gateway addresses to what they must be. The addresses are added whether or not they
// are there: the kernel's EEXIST is cheaper than a dump.
func (h *Handle) reconcileBridge(have link, want kernel.PodBridge) (kernel.PodBridgeState, error) {
	var b batch
	if want.MTU > 0 && want.MTU != have.mtu {
		// Set by hand, the MTU does not follow the ports any more (kernel: BROPT_MTU_SET_BY_USER).
		b.add(fmt.Sprintf("set MTU %d on bridge %s", want.MTU, want.Name), unix.RTM_SETLINK, 0, ifinfo(have.index, 0, 0))
		b.u32(unix.IFLA_MTU, uint32(want.MTU))
		have.mtu = want.MTU
	}
	if !have.up {
		b.add("set bridge "+want.Name+" up", unix.RTM_SETLINK, 0, ifinfo(have.index, unix.IFF_UP, unix.IFF_UP))
	}
	for _, g := range want.Gateways {
		b.addAddress(g, have.index, want.Name)
		b.allow(unix.EEXIST)
	}
	state := kernel.PodBridgeState{Index: have.index, MAC: have.mac, MTU: have.mtu}
	if len(b.msgs) == 0 {
		return state, nil
	}
	return state, h.host.run(&b, nil)
}

// addAddress adds an address that is used at once: without duplicate address detection, which would keep an IPv6 address
// unusable for a second or more (RFC 4862, 5.4). Addresses and subnets are the allocator's, so there are no duplicates.
func (b *batch) addAddress(p netip.Prefix, index int, linkName string) {
	body := ifaddr(p, index)
	if p.Addr().Is6() {
		body[2] = unix.IFA_F_NODAD
	}
	b.add(fmt.Sprintf("add address %s to %s", p, linkName), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
	b.addr(unix.IFA_LOCAL, p.Addr())
	b.addr(unix.IFA_ADDRESS, p.Addr())
	if p.Addr().Is4() && p.Bits() < 31 {
		b.addr(unix.IFA_BROADCAST, broadcast(p))
	}
}

func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

func hasIPv6(prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
}
