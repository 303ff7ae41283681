package check

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

var portRules = []rule{
	{"ports", "whether others have the ports that twilld needs", []Part{Sockets, Links}, ports},
}

func ports(f *Facts) []Finding {
	var all []Finding
	if f.Overlay {
		all = append(all, f.vxlanPort()...)
	}
	if f.BGP {
		all = append(all, f.listener(netip.AddrPortFrom(netip.IPv4Unspecified(), f.BGPPort), "BGP peers reach another program", "or have twilld listen elsewhere: port in --bgp-config")...)
	}
	all = append(all, f.listener(f.Health, "twilld does not start", "or start twilld with another --health-address")...)
	if f.Metrics != f.Health {
		all = append(all, f.listener(f.Metrics, "twilld does not start", "or start twilld with another --metrics-address")...)
	}
	if f.Page.IsValid() {
		all = append(all, f.listener(f.Page, "twilld serves no web page until it has the port", "or start twilld with another --page")...)
		all = append(all, f.gaugePort()...)
	}
	return all
}

// vxlanPort looks for programs that have the port, and for devices of others, with which Twill's can share the port but not the VNI.
func (f *Facts) vxlanPort() []Finding {
	var all []Finding
	for _, s := range f.Sockets {
		if s.Protocol == "udp" && s.Address.Port() == f.VXLANPort && (s.Program != "" || !f.tunnels()) {
			all = append(all, fail(fmt.Sprintf("%s has udp %s", s.program(), s.Address), "the VXLAN device cannot be set up", fmt.Sprintf("stop what `ss -lunp sport = :%d` names", f.VXLANPort)))
		}
	}
	for _, l := range f.Links {
		if l.VXLAN != nil && !l.Overlay() && cmp.Or(l.VXLAN.Port, f.VXLANPort) == f.VXLANPort {
			all = append(all, warn(fmt.Sprintf("%s is a VXLAN device with VNI %d and Twill's port %d", l.Name, l.VXLAN.VNI, f.VXLANPort), "with the same VNI, Twill's device cannot be made", "once nothing needs it: ip link delete "+l.Name))
		}
	}
	return all
}

// tunnels reports whether a device has the port: its socket is the kernel's, and no program's.
func (f *Facts) tunnels() bool {
	return slices.ContainsFunc(f.Links, func(l Link) bool { return l.VXLAN != nil && cmp.Or(l.VXLAN.Port, f.VXLANPort) == f.VXLANPort })
}

// gaugePort looks for other programs that have the port of measurements on the node's own addresses in its pod subnets. Before the bridge is there, only those that
// have the port everywhere are found.
func (f *Facts) gaugePort() []Finding {
	var own []netip.Addr
	if l := f.link(bridge); l != nil {
		for _, p := range l.Addresses {
			own = append(own, p.Addr())
		}
	}
	var all []Finding
	for _, s := range f.Sockets {
		at := s.Address.Addr()
		if s.Protocol == "udp" && s.Address.Port() == f.GaugePort && f.stranger(s) && (at.IsUnspecified() || slices.Contains(own, at)) {
			all = append(all, fail(fmt.Sprintf("%s has udp %s", s.program(), s.Address), "this node answers no measurements: on the pages of other nodes the way to it is red",
				fmt.Sprintf("stop what `ss -lunp sport = :%d` names", f.GaugePort)))
		}
	}
	return all
}

// stranger reports whether the socket is another program's than twilld's. Where Twill serves, a program that cannot be seen is twilld: in another container.
func (f *Facts) stranger(s Socket) bool {
	return s.Program != "twilld" && (s.Program != "" || !f.Serves)
}

// listener looks for another program than twilld that listens there.
func (f *Facts) listener(at netip.AddrPort, breaks, or string) []Finding {
	var all []Finding
	for _, s := range f.Sockets {
		if s.Protocol == "tcp" && f.stranger(s) && s.Address.Port() == at.Port() && at.Port() != 0 && clash(s.Address.Addr(), at.Addr()) {
			all = append(all, fail(fmt.Sprintf("%s listens on tcp %s", s.program(), s.Address), breaks, fmt.Sprintf("stop what `ss -ltnp sport = :%d` names, %s", at.Port(), or)))
		}
	}
	return all
}

// clash reports whether two sockets cannot listen on one port of these addresses.
func clash(a, b netip.Addr) bool { return a == b || a.IsUnspecified() || b.IsUnspecified() }

func (s Socket) program() string { return cmp.Or(s.Program, "a program") }
