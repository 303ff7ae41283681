//go:build linux

package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// ConfigurePod gives the pod's end of the pair its addresses and routes and sets it up. The host end should be up before, so
// that the link has a carrier from the first moment.
func (h *Handle) ConfigurePod(netns string, c kernel.PodConfig) error {
	return h.inPod(netns, func(s *socket) error {
		l, ok, err := s.findLink(c.IfName)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("interface %s is not in %s", c.IfName, netns)
		}
		if err := writeSysctls(podSettings(c)); err != nil {
			return err
		}
		var b batch
		for _, a := range c.Addresses {
			b.addAddress(a, l.index, c.IfName)
		}
		if hasIPv6(c.Addresses) && h.pod.locals == nil {
			if h.pod.locals, err = WatchLocals(); err != nil { // before the first can come; Announce waits for the last
				return err
			}
		}
		b.add("set interface "+c.IfName+" up", unix.RTM_SETLINK, 0, ifinfo(l.index, unix.IFF_UP, unix.IFF_UP))
		for _, r := range c.Routes {
			b.addRoute(r, l.index, r.Gateway.IsValid() && !covered(c.Addresses, r.Gateway))
		}
		return s.run(&b, nil)
	})
}

func covered(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// podSettings are the settings of the pod's interface. arp_notify and ndisc_notify make the kernel announce the addresses when
// Announce asks for it.
func podSettings(c kernel.PodConfig) []sysctl {
	var settings []sysctl
	v4, v6 := "net/ipv4/conf/"+c.IfName+"/", "net/ipv6/conf/"+c.IfName+"/"
	if slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		settings = append(settings, sysctl{path: v4 + "arp_notify", value: "1", optional: true})
	}
	if hasIPv6(c.Addresses) {
		settings = append(settings,
			sysctl{path: v6 + "disable_ipv6", value: "0"},
			sysctl{path: v6 + "accept_dad", value: "0", optional: true},
			sysctl{path: v6 + "accept_ra", value: "0", optional: true},
			sysctl{path: v6 + "ndisc_notify", value: "1", optional: true})
	}
	return settings
}

// addRoute adds a route by the link of that index. With onlink the gateway is on the link although no address says so.
func (b *batch) addRoute(r kernel.PodRoute, index int, onlink bool) {
	what := "add route " + r.Dst.String()
	if r.Gateway.IsValid() {
		what += " via " + r.Gateway.String()
	}
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1] = family(r.Dst.Addr()), byte(r.Dst.Bits())
	body[4] = unix.RT_TABLE_MAIN
	if r.Table > 0 && r.Table < 256 {
		body[4] = byte(r.Table)
	} else if r.Table > 0 {
		body[4] = unix.RT_TABLE_UNSPEC
	}
	body[5], body[7] = unix.RTPROT_BOOT, unix.RTN_UNICAST
	switch {
	case r.Scope != nil:
		body[6] = byte(*r.Scope)
	case !r.Gateway.IsValid() && r.Dst.Addr().Is4():
		body[6] = unix.RT_SCOPE_LINK
	}
	if onlink {
		binary.NativeEndian.PutUint32(body[8:], unix.RTNH_F_ONLINK)
	}
	b.add(what, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
	b.allow(unix.EEXIST) // such as that to the pod's own subnet, which the kernel made with the address
	b.addr(unix.RTA_DST, r.Dst.Addr())
	if r.Gateway.IsValid() {
		b.addr(unix.RTA_GATEWAY, r.Gateway)
	}
	b.u32(unix.RTA_OIF, uint32(index))
	if r.Table > 0 {
		b.u32(unix.RTA_TABLE, uint32(r.Table))
	}
	if r.Priority > 0 {
		b.u32(unix.RTA_PRIORITY, uint32(r.Priority))
	}
	if r.MTU > 0 || r.AdvMSS > 0 {
		b.open(unix.RTA_METRICS)
		if r.MTU > 0 {
			b.u32(unix.RTAX_MTU, uint32(r.MTU))
		}
		if r.AdvMSS > 0 {
			b.u32(unix.RTAX_ADVMSS, uint32(r.AdvMSS))
		}
		b.close()
	}
}

// Announce tells the other pods and the host where the pod's addresses are now: a gratuitous ARP request for each IPv4 address
// (RFC 5227, 3) and an unsolicited neighbour advertisement for each IPv6 address (RFC 4861, 7.2.6). When it returns, the node's first
// packet reaches the pod, unless the node is busy beyond measure. It waits for the IPv6 addresses that ConfigurePod of the same
// handle added.
//
// The kernel sends the announcements itself. With arp_notify and ndisc_notify set it does so when a link's address is set, also to what
// it is already. A packet socket could send the same frames, but its close waits for an RCU grace period, 8 to 20 ms,
// more than all the rest of an ADD. Asking for the host link first makes the kernel run its deferred link
// watch (since 6.9: linkwatch_sync_dev in rtnl_getlink), which turns the bridge port to forwarding; without that the
// frames could be too early.
func (h *Handle) Announce(netns, hostLink string, c kernel.PodConfig) error {
	host, _, err := h.host.findLink(hostLink)
	if err != nil {
		return err
	}
	if host.master != 0 {
		if err := h.introduce(host.master, c); err != nil {
			return err
		}
	}
	return h.inPod(netns, func(s *socket) error {
		var b batch
		b.add("find interface "+c.IfName, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0)) // runs the link watch here, too: IPv6 waits for it
		b.str(unix.IFLA_IFNAME, c.IfName)
		b.add("announce addresses of interface "+c.IfName, unix.RTM_SETLINK, 0, ifinfo(0, 0, 0))
		b.str(unix.IFLA_IFNAME, c.IfName)
		b.attr(unix.IFLA_ADDRESS, c.MAC[:])
		if err := s.run(&b, nil); err != nil {
			return err
		}
		watch := h.pod.locals
		if watch == nil {
			return nil
		}
		h.pod.locals = nil
		defer watch.Close()
		return watch.await(s, c.Addresses, localPatience)
	})
}

// introduce makes the pod a neighbour of the node on the bridge, so that neither has to ask for the other. A question can be lost, and is
// repeated after a second only:
//   - The bridge gets its carrier and its queue back with the first of its ports, but not before the link watch has run;
//     until then what it sends is dropped. Asking for the bridge runs it.
//   - A pod joins the multicast group that IPv6 asks for its address (RFC 4291, 2.7.1) in a work queue (addrconf_dad_work), some
//     time after it has the address. A stale entry is used at once and confirmed by unicast.
func (h *Handle) introduce(bridge int, c kernel.PodConfig) error {
	var b batch
	b.add("find the bridge", unix.RTM_GETLINK, 0, ifinfo(bridge, 0, 0))
	for _, a := range c.Addresses {
		b.add("add neighbour "+a.Addr().String(), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, ndmsg(bridge, a.Addr(), unix.NUD_STALE))
		b.addr(unix.NDA_DST, a.Addr())
		b.attr(unix.NDA_LLADDR, c.MAC[:])
		b.allow(unix.ENOBUFS) // the table is full: then the node has to ask
	}
	return h.host.run(&b, nil)
}

// ndmsg is the header of a message about a neighbour (linux/neighbour.h).
func ndmsg(link int, a netip.Addr, state uint16) []byte {
	body := make([]byte, unix.SizeofNdMsg)
	body[0] = family(a)
	binary.NativeEndian.PutUint32(body[4:], uint32(link))
	binary.NativeEndian.PutUint16(body[8:], state)
	return body
}

// addresses returns the addresses of the interface with that index.
func (s *socket) addresses(index int) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for try := 1; ; try++ {
		all = all[:0]
		var b batch
		b.add("list addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
		err := s.run(&b, func(_ uint16, body []byte) {
			if p, of, ok := parseAddress(body); ok && of == index {
				all = append(all, p)
			}
		})
		if err == nil || !errors.Is(err, kernel.ErrStale) || try == dumpTries {
			return all, err
		}
	}
}

func parseAddress(body []byte) (p netip.Prefix, index int, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return p, 0, false
	}
	bits := int(body[1])
	index = int(binary.NativeEndian.Uint32(body[4:]))
	local := false
	attrs(body[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
		// IFA_LOCAL is the interface's own address where it differs from IFA_ADDRESS; IPv6 may have IFA_ADDRESS alone.
		if typ != unix.IFA_LOCAL && (typ != unix.IFA_ADDRESS || local) {
			return
		}
		if a, good := netip.AddrFromSlice(v); good {
			p, ok = netip.PrefixFrom(a, bits), true
			local = local || typ == unix.IFA_LOCAL
		}
	})
	return p, index, ok
}
