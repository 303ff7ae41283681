package check

import (
	"fmt"
	"slices"
	"strings"
)

var linkRules = []rule{
	{"MTU", "uplink, overlay, bridge and pods' links", []Part{Links}, mtus},
	{"offloads", "checksums of VXLAN devices, on kernels that get them wrong", []Part{Links}, offloads},
	{"leftovers", "links of other networks", []Part{Links}, leftovers},
	{"addresses", "links whose networks overlap those of pods, and a bridge of another network", []Part{Links}, overlaps},
}

// leastV6 is what each link must carry (RFC 8200, 5).
const leastV6 = 1280

func mtus(f *Facts) []Finding {
	uplink := f.link(f.Uplink)
	if uplink == nil {
		return []Finding{warn("there is no default route, so the uplink is not known", "twilld needs --iface, --iface-regex or --public-ip to find it", "twilld --iface=NAME")}
	}
	var all []Finding
	pods, by := uplink.MTU, uplink.Name // what a pod may send, and the link that decides it
	for _, l := range f.Links {
		if !l.Overlay() {
			continue
		}
		room := uplink.MTU - l.overhead()
		if l.MTU > room {
			all = append(all, fail(fmt.Sprintf("%s takes packets of %d bytes, the uplink %s has room for %d (%d less %d for VXLAN)", l.Name, l.MTU, uplink.Name, room, uplink.MTU, l.overhead()),
				"large packets to pods of other nodes vanish: connections open, and hang when data flows", fmt.Sprintf("ip link set %s mtu %d (twilld does it by itself)", l.Name, room)))
		}
		if most := min(l.MTU, room); f.Overlay && most < pods {
			pods, by = most, l.Name
		}
	}
	if least := min(pods, uplink.MTU); f.IPv6 && least < leastV6 {
		all = append(all, fail(fmt.Sprintf("%s takes packets of %d bytes", by, least), "IPv6 needs 1280: pods have none", fmt.Sprintf("ip link set %s mtu 1500", uplink.Name)))
	}
	return append(all, f.larger(pods, by)...)
}

// larger finds what lets pods send more than the way to other nodes takes.
func (f *Facts) larger(most int, by string) []Finding {
	const breaks = "large packets to other nodes vanish, or depend on path MTU discovery"
	var all []Finding
	var pods []string
	for _, l := range f.Links {
		switch {
		case l.Name == bridge && l.MTU > most:
			all = append(all, warn(fmt.Sprintf("%s takes packets of %d bytes, %s of %d", bridge, l.MTU, by, most), breaks, fmt.Sprintf("ip link set %s mtu %d (twilld does it by itself)", bridge, most)))
		case l.pod() && l.MTU > most:
			pods = append(pods, fmt.Sprintf("%s (%d)", l.Name, l.MTU))
		}
	}
	if len(pods) > 0 {
		all = append(all, fail(fmt.Sprintf("links of pods take more than the %d bytes of %s: %s", most, by, some(pods)), breaks, "delete these pods; new ones get the smaller MTU"))
	}
	return all
}

// offloads warns of a bug that Linux had until 5.7: address translation "corrected" the checksum 0 of VXLAN's outer UDP header, which says that there is none
// (nf_nat_manip_pkt; mended by "netfilter: nat: never update the UDP checksum when it's 0", which older kernels of distributions may have).
func offloads(f *Facts) []Finding {
	if f.Release[0] > 5 || f.Release[0] == 5 && f.Release[1] >= 7 {
		return nil
	}
	var all []Finding
	for _, l := range f.Links {
		if l.VXLAN != nil && l.Overlay() && l.TxChecksumOffload != nil && *l.TxChecksumOffload {
			all = append(all, warn(fmt.Sprintf("%s leaves checksums to the uplink (tx-checksum-ip-generic), and Linux %d.%d gets some wrong", l.Name, f.Release[0], f.Release[1]),
				"connections from nodes to Services with endpoints on other nodes take a minute, or fail", "ethtool -K "+l.Name+" tx-checksum-ip-generic off"))
		}
	}
	return all
}

// strangers are links that other networks leave, by their names.
var strangers = []struct{ prefix, of string }{
	{"cali", "Calico"}, {"vxlan.calico", "Calico"}, {"vxlan-v6.calico", "Calico"}, {"wireguard.cali", "Calico"},
	{"cilium_", "Cilium"}, {"lxc", "Cilium"}, {"weave", "Weave Net"}, {"vethwe", "Weave Net"}, {"kube-bridge", "kube-router"}, {"kube-dummy-if", "kube-router"},
	{"antrea-", "Antrea"}, {"ovn-k8s-", "OVN-Kubernetes"}, {"cbr0", "kubenet"}, {"kube-ipvs0", "kube-proxy with IPVS"},
}

func leftovers(f *Facts) []Finding {
	var order []string
	found := map[string][]string{}
	for _, l := range f.Links {
		if l.ours() {
			continue
		}
		for _, s := range strangers {
			if strings.HasPrefix(l.Name, s.prefix) {
				if found[s.of] == nil {
					order = append(order, s.of)
				}
				found[s.of] = append(found[s.of], l.Name)
				break
			}
		}
	}
	var all []Finding
	for _, of := range order {
		names := found[of]
		one := warn(fmt.Sprintf("%s left links: %s", of, some(names)), "pods on them are not on Twill's network, and its routes may lead pods' packets astray",
			"once no pod needs them: ip link delete "+strings.Join(names[:min(3, len(names))], "; ip link delete "))
		if slices.Contains(names, "kube-ipvs0") && f.Proxy {
			one = fail("kube-proxy's IPVS is here, and so is Twill's service proxy", "addresses of Services are the host's own: packets to them end here", "kube-proxy --cleanup; ip link delete kube-ipvs0")
		}
		all = append(all, one)
	}
	return all
}

func overlaps(f *Facts) []Finding {
	var all []Finding
	for _, l := range f.Links {
		if l.Name == bridge {
			all = append(all, f.strangeBridge(l)...)
		}
		if l.ours() {
			continue
		}
		for _, a := range l.Addresses {
			for _, n := range f.Networks {
				if a.Overlaps(n) {
					all = append(all, fail(fmt.Sprintf("%s has the network %s, which overlaps the pods' %s", l.Name, a.Masked(), n), "packets to some pods are sent to "+l.Name,
						fmt.Sprintf("ip addr del %s dev %s (of docker0: \"bip\" in /etc/docker/daemon.json)", a, l.Name)))
				}
			}
		}
	}
	return all
}

// strangeBridge finds that the bridge is somebody else's, with a network that is none of the pods'; twilld takes it over when it has no ports.
func (f *Facts) strangeBridge(b Link) []Finding {
	ports := slices.ContainsFunc(f.Links, func(l Link) bool { return l.Master == b.Name })
	for _, a := range b.Addresses {
		known := slices.ContainsFunc(f.Networks, func(n Network) bool { return n.Addr().Is4() == a.Addr().Is4() })
		if known && ports && !a.Addr().IsLinkLocalUnicast() && !slices.ContainsFunc(f.Networks, func(n Network) bool { return n.Contains(a.Addr()) }) {
			return []Finding{fail(fmt.Sprintf("%s has the network %s, which is none of the pods'", b.Name, a.Masked()), "twilld changes nothing: the links on it are pods of another network",
				fmt.Sprintf("once these pods are gone: ip link delete %s", b.Name))}
		}
	}
	return nil
}

// some lists a few names.
func some(names []string) string {
	if len(names) > 3 {
		names = append(slices.Clone(names[:3]), fmt.Sprintf("%d more", len(names)-3))
	}
	return strings.Join(names, ", ")
}
