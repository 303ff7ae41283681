package hostport

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

// ErrTaken says that a port of the node leads to another pod already.
var ErrTaken = errors.New("host port is taken")

// Pod is one pod's mappings and the addresses that they lead to.
type Pod struct {
	Bridge    string
	Mappings  []netconf.PortMapping
	Addresses []netip.Prefix
}

// Elements are the elements of the table, by set.
type Elements map[string][]kernel.Element

// Ports returns the elements of the maps that lead to the pod. Their keys belong to the pod that was first: a map with the
// same key and another value refuses them. A mapping yields nothing for a family that the pod or the mapping's host address
// is not of; it is an error when it yields nothing at all.
func (p Pod) Ports() (Elements, error) {
	out := Elements{}
	for _, m := range p.Mappings {
		made := false
		for _, ipv6 := range []bool{false, true} {
			pod, ok := p.address(ipv6)
			if !ok || m.HostIP.IsValid() && m.HostIP.Is6() != ipv6 {
				continue
			}
			set, e := element(m, pod)
			out[set] = append(out[set], e)
			made = true
		}
		if !made {
			return nil, fmt.Errorf("map %s: the pod has no address of that family", m)
		}
	}
	return out, nil
}

// address returns the pod's first address of a family.
func (p Pod) address(ipv6 bool) (netip.Addr, bool) {
	for _, a := range p.Addresses {
		if a.Addr().Is6() == ipv6 {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func element(m netconf.PortMapping, pod netip.Addr) (string, kernel.Element) {
	port := []kernel.Datum{{Number: uint32(m.Protocol)}, {Number: uint32(m.HostPort)}}
	e := kernel.Element{Key: port, Value: []kernel.Datum{{Addr: pod}, {Number: uint32(m.ContainerPort)}}}
	if !m.HostIP.IsValid() || m.HostIP.IsUnspecified() {
		return versions[versionOf(pod)].ports, e
	}
	e.Key = append([]kernel.Datum{{Addr: m.HostIP}}, port...)
	return versions[versionOf(pod)].addrPorts, e
}

func versionOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// Own returns the elements of the sets that make the pod reach its own host ports; they are the pod's alone.
func (p Pod) Own() Elements {
	out := Elements{}
	for _, ipv6 := range []bool{false, true} {
		if a, ok := p.address(ipv6); ok {
			set := versions[versionOf(a)].self
			out[set] = append(out[set], kernel.Element{Key: []kernel.Datum{{Addr: a}, {Addr: a}}})
		}
	}
	return out
}

// Shared returns the elements that all pods on the bridge need. They stay when a pod goes.
func (p Pod) Shared() Elements {
	name := kernel.Datum{Name: p.Bridge}
	return Elements{
		setBridges: {{Key: []kernel.Datum{name}}},
		setTurn:    {{Key: []kernel.Datum{name, name}}},
	}
}

// Leads reports whether the element of a map leads to the pod.
func (p Pod) Leads(e kernel.Element) bool {
	if len(e.Value) == 0 {
		return false
	}
	for _, a := range p.Addresses {
		if a.Addr() == e.Value[0].Addr {
			return true
		}
	}
	return false
}

// HasIPv4 reports whether any of the mappings leads to an IPv4 address.
func (p Pod) HasIPv4() bool {
	_, ok := p.address(false)
	return ok
}

// With returns the elements of both.
func (e Elements) With(o Elements) Elements {
	out := Elements{}
	for _, from := range []Elements{e, o} {
		for set, elems := range from {
			out[set] = append(out[set], elems...)
		}
	}
	return out
}

// Describe names the host port that an element of a map stands for.
func Describe(e kernel.Element) string { return hostPort(e).String() }

// hostPort is the mapping that an element of a map was made of, without the container's port.
func hostPort(e kernel.Element) netconf.PortMapping {
	var m netconf.PortMapping
	key := e.Key
	if len(key) == 3 {
		m.HostIP, key = key[0].Addr, key[1:]
	}
	m.Protocol, m.HostPort = netconf.Protocol(key[0].Number), uint16(key[1].Number)
	return m
}

// PodSets returns the names of the sets whose elements each belong to one pod.
func PodSets() []string {
	var names []string
	for _, v := range versions {
		names = append(names, v.addrPorts, v.ports, v.self)
	}
	return names
}

// Targets is the way back from the elements of PodSets: one Pod for each address that anything leads to, in order, with the mappings
// that lead there. The pods' bridges, and which addresses belong to the same pod, cannot be told.
func Targets(e Elements) []Pod {
	found := map[netip.Addr]*Pod{}
	at := func(a netip.Addr) *Pod {
		if found[a] == nil {
			found[a] = &Pod{Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}}
		}
		return found[a]
	}
	for _, v := range versions {
		for _, set := range []string{v.addrPorts, v.ports} {
			for _, elem := range e[set] {
				m := hostPort(elem)
				m.ContainerPort = uint16(elem.Value[1].Number)
				pod := at(elem.Value[0].Addr)
				pod.Mappings = append(pod.Mappings, m)
			}
		}
		for _, elem := range e[v.self] {
			at(elem.Key[0].Addr)
		}
	}
	var pods []Pod
	for _, a := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		pods = append(pods, *found[a])
	}
	return pods
}

// UDP returns the node addresses and ports of the UDP mappings. An unspecified address stands for all of its family.
func (p Pod) UDP() []netip.AddrPort {
	var out []netip.AddrPort
	for _, m := range p.Mappings {
		if m.Protocol != netconf.UDP {
			continue
		}
		for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			_, has := p.address(all.Is6())
			switch {
			case !has:
			case !m.HostIP.IsValid():
				out = append(out, netip.AddrPortFrom(all, m.HostPort))
			case m.HostIP.Is6() == all.Is6():
				out = append(out, netip.AddrPortFrom(m.HostIP, m.HostPort))
			}
		}
	}
	return out
}
