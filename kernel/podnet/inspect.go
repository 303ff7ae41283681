//go:build linux

package podnet

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// InspectPod tells what there is of a pod's link. What is missing is no error.
func (h *Handle) InspectPod(netns, hostLink, ifName string) (kernel.PodState, error) {
	var state kernel.PodState
	host, hostOK, err := h.host.findLink(hostLink)
	if err != nil {
		return state, err
	}
	if hostOK {
		if err := h.inspectHost(host, &state); err != nil {
			return state, err
		}
	}
	err = h.inPod(netns, func(s *socket) error {
		pod, ok, err := s.findLink(ifName)
		if err != nil || !ok {
			return err
		}
		state.Pod.Name, state.Pod.MAC, state.Pod.MTU, state.Pod.Up = pod.name, pod.mac, pod.mtu, pod.up
		state.Connected = hostOK && host.peer == pod.index && pod.peer == host.index
		if state.Pod.Addresses, err = s.addresses(pod.index); err != nil {
			return err
		}
		state.Pod.Routes, err = s.routes(pod.index)
		return err
	})
	return state, err
}

func (h *Handle) inspectHost(host link, state *kernel.PodState) error {
	state.Host = kernel.PodLink{Name: host.name, Owner: host.podOwner, MAC: host.mac, MTU: host.mtu, Master: host.master, Up: host.up}
	state.Hairpin = host.hairpin
	if host.master != 0 {
		name, err := h.host.linkName(host.master)
		if err != nil {
			return err
		}
		state.Master = name
	}
	var err error
	state.Ingress, state.Egress, err = h.host.shaped(host.index)
	return err
}

func (s *socket) linkName(index int) (string, error) {
	var b batch
	var name string
	b.add("find link by index", unix.RTM_GETLINK, 0, ifinfo(index, 0, 0))
	b.allow(unix.ENODEV)
	err := s.run(&b, func(_ uint16, body []byte) { name = parseLink(body).name })
	return name, err
}

// shaped tells which of the two halves of Shape are on a link.
func (s *socket) shaped(index int) (tbf, redirect bool, err error) {
	var b batch
	b.add("list qdiscs", unix.RTM_GETQDISC, unix.NLM_F_DUMP, tcmsg(index, 0, 0, 0))
	err = s.run(&b, func(_ uint16, body []byte) {
		if len(body) < 20 || int(binary.NativeEndian.Uint32(body[4:])) != index {
			return
		}
		attrs(body[20:], func(typ uint16, v []byte) {
			if typ == unix.TCA_KIND {
				tbf = tbf || cstring(v) == "tbf"
			}
		})
	})
	if err != nil {
		return false, false, err
	}
	b = batch{}
	b.add("list filters", unix.RTM_GETTFILTER, unix.NLM_F_DUMP, tcmsg(index, 0, qdiscIngress, 0))
	err = s.run(&b, func(uint16, []byte) { redirect = true })
	return tbf, redirect, err
}

// routes returns the unicast routes of the main table by the link of that index.
func (s *socket) routes(index int) ([]kernel.PodRoute, error) {
	var all []kernel.PodRoute
	for try := 1; ; try++ {
		all = all[:0]
		var b batch
		b.add("list routes", unix.RTM_GETROUTE, unix.NLM_F_DUMP, make([]byte, unix.SizeofRtMsg))
		err := s.run(&b, func(_ uint16, body []byte) {
			if r, ok := parseRoute(body, index); ok {
				all = append(all, r)
			}
		})
		if err == nil || !errors.Is(err, kernel.ErrStale) || try == dumpTries {
			return all, err
		}
	}
}

func parseRoute(body []byte, index int) (kernel.PodRoute, bool) {
	if len(body) < unix.SizeofRtMsg || body[7] != unix.RTN_UNICAST || body[4] != unix.RT_TABLE_MAIN {
		return kernel.PodRoute{}, false
	}
	any := netip.IPv4Unspecified()
	if body[0] == unix.AF_INET6 {
		any = netip.IPv6Unspecified()
	}
	r := kernel.PodRoute{Dst: netip.PrefixFrom(any, 0)}
	ours := false
	attrs(body[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_DST:
			if a, ok := netip.AddrFromSlice(v); ok {
				r.Dst = netip.PrefixFrom(a, int(body[1]))
			}
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			ours = number(v) == index
		case unix.RTA_PRIORITY:
			r.Priority = number(v)
		}
	})
	return r, ours
}

// Probe returns nil when the kernel answers on rtnetlink.
func (h *Handle) Probe() error {
	var b batch
	b.add("find loopback link", unix.RTM_GETLINK, 0, ifinfo(1, 0, 0))
	return h.host.run(&b, nil)
}
