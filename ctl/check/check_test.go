package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// fit is a host with Twill in its whole extent, where nothing is wrong.
func fit() *Facts {
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, a := range all {
			out = append(out, netip.MustParsePrefix(a))
		}
		return out
	}
	on := true
	return &Facts{
		Setup: Setup{
			Overlay: true, Proxy: true, Policy: true, IPv4: true, IPv6: true, VXLANPort: 8472, BGPPort: 179, Nodes: 3, Serves: true,
			Health: netip.MustParseAddrPort("127.0.0.1:10270"), Metrics: netip.MustParseAddrPort("127.0.0.1:10270"), ConfDir: "/etc/cni/net.d", PluginsDir: "/opt/cni/bin",
			Page: netip.MustParseAddrPort("127.0.0.1:10280"), GaugePort: 10270,
		},
		Release: [2]int{6, 8},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "2",
			"net/bridge/bridge-nf-call-iptables": "1", "net/bridge/bridge-nf-call-ip6tables": "1", "net/netfilter/nf_conntrack_max": "262144",
			"net/netfilter/nf_conntrack_count": "12", "net/ipv4/neigh/default/gc_thresh3": "1024", "fs/inotify/max_user_instances": "128", "fs/inotify/max_user_watches": "8192",
		},
		Uplink: "eth0",
		Links: []Link{
			{Name: "lo", MTU: 65536, Addresses: prefixes("127.0.0.1/8")},
			{Name: "eth0", MTU: 1500, Addresses: prefixes("192.0.2.1/24")},
			{Name: "docker0", Kind: "bridge", MTU: 1500, Addresses: prefixes("172.17.0.1/16")},
			{Name: "flannel.1", Kind: "vxlan", Alias: kernel.LinkAlias, MTU: 1450, Addresses: prefixes("10.244.1.0/32"), TxChecksumOffload: &on,
				VXLAN: &kernel.VXLAN{VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}},
			{Name: "cni0", Kind: "bridge", MTU: 1450, Addresses: prefixes("10.244.1.1/24")},
			{Name: "veth1", Kind: "veth", Alias: kernel.PodLinkAliasPrefix + "a/eth0", Master: "cni0", MTU: 1450},
		},
		Networks: prefixes("10.244.0.0/16"),
		Chains: []Chain{{Family: "inet", Table: "twill-masquerade", Name: "postrouting", Hook: "postrouting"},
			{Family: "inet", Table: "twill-policy", Name: "forward", Hook: "forward", Drops: true}, {Family: "ip", Table: "filter", Name: "FORWARD", Hook: "forward"}},
		Sockets: []Socket{{Protocol: "udp", Address: netip.MustParseAddrPort("0.0.0.0:8472")}, {"tcp", netip.MustParseAddrPort("127.0.0.1:10270"), "twilld"},
			{"tcp", netip.MustParseAddrPort("192.0.2.1:10270"), "other"}, {"udp", netip.MustParseAddrPort("127.0.0.1:10270"), "other"},
			{"tcp", netip.MustParseAddrPort("127.0.0.1:10280"), "twilld"}, {"udp", netip.MustParseAddrPort("10.244.1.1:10270"), "twilld"}},
		Confs:   []NetConf{{Name: "00-multus.conf", Types: []string{"multus"}}, {Name: conflist, Types: []string{"twill"}}, {Name: "20-flannel.conflist", Types: []string{"flannel"}}},
		Plugins: []Plugin{{Name: "twill", Version: "abc"}, {Name: "twill-ipam"}, {Name: "loopback", Version: "old"}},
		Version: "abc",
	}
}

// told are the findings, each as its verdict, check and what.
func told(results []Result) []string {
	lines := []string{}
	for _, r := range results {
		for _, f := range r.Found {
			lines = append(lines, fmt.Sprintf("%s %s: %s", f.Verdict, r.Check, f.What))
		}
	}
	return lines
}

// Each rule, on a host that is fit but for one thing.
func TestRules(t *testing.T) {
	gone := errors.New("it is not there")
	sysctl := func(entry, value string) func(*Facts) {
		return func(f *Facts) {
			if value == "" {
				delete(f.Sysctls, entry)
				return
			}
			f.Sysctls[entry] = value
		}
	}
	mtu := func(name string, mtu int) func(*Facts) { return func(f *Facts) { f.link(name).MTU = mtu } }
	addLink := func(l Link) func(*Facts) { return func(f *Facts) { f.Links = append(f.Links, l) } }
	addChain := func(c Chain) func(*Facts) { return func(f *Facts) { f.Chains = append(f.Chains, c) } }
	listen := func(protocol, address, program string) func(*Facts) {
		return func(f *Facts) {
			f.Sockets = append(f.Sockets, Socket{protocol, netip.MustParseAddrPort(address), program})
		}
	}
	tests := []struct {
		name string
		harm func(*Facts)
		want []string
		mend string // a part of the first one
	}{
		{"fit", func(*Facts) {}, nil, ""},
		{"a module is missing", func(f *Facts) {
			f.Lacks = []Lack{{kernel.Feature{Name: "VXLAN devices", Module: "vxlan"}, errors.New("no")}}
		}, []string{"FAILURE kernel features: the kernel lacks VXLAN devices (no)"}, "modprobe vxlan && echo vxlan >/etc/modules-load.d/vxlan.conf"},
		{"an option is missing", func(f *Facts) {
			f.Lacks = []Lack{{kernel.Feature{Name: "marks", Option: "CONFIG_MARK"}, errors.New("no")}}
		}, []string{"FAILURE kernel features: the kernel lacks marks (no)"}, "take a kernel with CONFIG_MARK"},
		{"no br_netfilter, policies", sysctl("net/bridge/bridge-nf-call-iptables", ""), []string{"FAILURE br_netfilter: the module br_netfilter is not loaded"}, "modprobe br_netfilter"},
		{"no br_netfilter, Services", func(f *Facts) { f.Policy = false; delete(f.Sysctls, "net/bridge/bridge-nf-call-iptables") },
			[]string{"warning br_netfilter: the module br_netfilter is not loaded"}, "modprobe br_netfilter"},
		{"no br_netfilter, neither", func(f *Facts) {
			f.Policy, f.Proxy = false, false
			delete(f.Sysctls, "net/bridge/bridge-nf-call-iptables")
		}, nil, ""},
		{"br_netfilter is off", sysctl("net/bridge/bridge-nf-call-ip6tables", "0"), []string{"FAILURE br_netfilter: net.bridge.bridge-nf-call-ip6tables is 0"}, "sysctl -w net.bridge.bridge-nf-call-ip6tables=1"},
		{"forwarding is off", sysctl("net/ipv4/ip_forward", "0"), []string{"FAILURE forwarding: net.ipv4.ip_forward is 0"}, "sysctl -w net.ipv4.ip_forward=1 "},
		{"forwarding is off, before Twill", func(f *Facts) { f.Serves = false; f.Sysctls["net/ipv6/conf/all/forwarding"] = "0" },
			[]string{"warning forwarding: net.ipv6.conf.all.forwarding is 0"}, "sysctl -w net.ipv6.conf.all.forwarding=1 "},
		{"no IPv6", sysctl("net/ipv6/conf/all/forwarding", ""), []string{"FAILURE forwarding: the kernel has no net.ipv6.conf.all.forwarding"}, "ipv6.disable=1"},
		{"no IPv6, nor wanted", func(f *Facts) { f.IPv6 = false; delete(f.Sysctls, "net/ipv6/conf/all/forwarding") }, nil, ""},
		{"strict on the overlay", sysctl("net/ipv4/conf/flannel.1/rp_filter", "1"), []string{"warning rp_filter: rp_filter is strict on flannel.1"}, "sysctl -w net/ipv4/conf/flannel.1/rp_filter=2 "},
		{"strict everywhere, but loose on eth0", sysctl("net/ipv4/conf/all/rp_filter", "1"), []string{"warning rp_filter: rp_filter is strict on flannel.1"}, "flannel.1"},
		{"loose everywhere", func(f *Facts) {
			f.Sysctls["net/ipv4/conf/all/rp_filter"], f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = "2", "1"
		}, nil, ""},
		{"strict elsewhere", sysctl("net/ipv4/conf/docker0/rp_filter", "1"), nil, ""},
		{"conntrack is nearly full", sysctl("net/netfilter/nf_conntrack_count", "220000"), []string{"FAILURE connection tracking: 220000 of 262144 connections are tracked"}, "nf_conntrack_max=524288"},
		{"conntrack is small", sysctl("net/netfilter/nf_conntrack_max", "65535"), []string{"warning connection tracking: net.netfilter.nf_conntrack_max is 65535"}, "nf_conntrack_max=262144"},
		{"conntrack without limit", sysctl("net/netfilter/nf_conntrack_max", "0"), nil, ""},
		{"neighbours of a big cluster", func(f *Facts) { f.Nodes = 600 }, []string{"warning neighbour tables: net.ipv4.neigh.default.gc_thresh3 is 1024"}, "gc_thresh3=2400"},
		{"neighbours are few", sysctl("net/ipv6/neigh/default/gc_thresh3", "512"), []string{"warning neighbour tables: net.ipv6.neigh.default.gc_thresh3 is 512"}, "gc_thresh3=2048"},
		{"few watches", sysctl("fs/inotify/max_user_instances", "64"), []string{"warning inotify: fs.inotify.max_user_instances is 64"}, "max_user_instances=512"},
		{"MTU of the uplink", mtu("eth0", 1400),
			[]string{"FAILURE MTU: flannel.1 takes packets of 1450 bytes, the uplink eth0 has room for 1350 (1400 less 50 for VXLAN)",
				"FAILURE MTU: links of pods take more than the 1350 bytes of flannel.1: veth1 (1450)", "warning MTU: cni0 takes packets of 1450 bytes, flannel.1 of 1350"}, "ip link set flannel.1 mtu 1350"},
		{"MTU of the overlay over IPv6", func(f *Facts) { f.link("flannel.1").VXLAN.Local = netip.MustParseAddr("2001:db8::1") },
			[]string{"FAILURE MTU: flannel.1 takes packets of 1450 bytes, the uplink eth0 has room for 1430 (1500 less 70 for VXLAN)",
				"FAILURE MTU: links of pods take more than the 1430 bytes of flannel.1: veth1 (1450)", "warning MTU: cni0 takes packets of 1450 bytes, flannel.1 of 1430"}, "ip link set flannel.1 mtu 1430"},
		{"MTU of a pod", mtu("veth1", 1500), []string{"FAILURE MTU: links of pods take more than the 1450 bytes of flannel.1: veth1 (1500)"}, "delete these pods"},
		{"MTU of the bridge", mtu("cni0", 9000), []string{"warning MTU: cni0 takes packets of 9000 bytes, flannel.1 of 1450"}, "ip link set cni0 mtu 1450"},
		{"routed pods", func(f *Facts) {
			f.BGP, f.Overlay, f.Links = true, false, slices.DeleteFunc(f.Links, Link.Overlay)
			f.link("veth1").MTU, f.link("cni0").MTU = 1500, 1500
		}, nil, ""},
		{"too small for IPv6", func(f *Facts) {
			for _, name := range []string{"flannel.1", "cni0", "veth1"} {
				mtu(name, 1250)(f)
			}
		}, []string{"FAILURE MTU: flannel.1 takes packets of 1250 bytes"}, "mtu 1500"},
		{"no uplink", func(f *Facts) { f.Uplink = "" }, []string{"warning MTU: there is no default route, so the uplink is not known"}, "--iface"},
		{"old kernel", func(f *Facts) { f.Release = [2]int{5, 4} },
			[]string{"warning offloads: flannel.1 leaves checksums to the uplink (tx-checksum-ip-generic), and Linux 5.4 gets some wrong"}, "ethtool -K flannel.1 tx-checksum-ip-generic off"},
		{"old kernel, offload off", func(f *Facts) { off := false; f.Release, f.link("flannel.1").TxChecksumOffload = [2]int{4, 19}, &off }, nil, ""},
		{"Calico", func(f *Facts) { addLink(Link{Name: "cali123"})(f); addLink(Link{Name: "vxlan.calico"})(f) }, []string{"warning leftovers: Calico left links: cali123, vxlan.calico"}, "ip link delete cali123; ip link delete vxlan.calico"},
		{"Cilium and Weave Net", func(f *Facts) { addLink(Link{Name: "weave"})(f); addLink(Link{Name: "cilium_host"})(f) },
			[]string{"warning leftovers: Weave Net left links: weave", "warning leftovers: Cilium left links: cilium_host"}, "ip link delete weave"},
		{"many of them", func(f *Facts) {
			for i := range 5 {
				addLink(Link{Name: fmt.Sprint("cali", i)})(f)
			}
		}, []string{"warning leftovers: Calico left links: cali0, cali1, cali2, 2 more"}, "cali2"},
		{"a pod's link with a stranger's name", addLink(Link{Name: "lxc1", Alias: kernel.PodLinkAliasPrefix + "b/eth0"}), nil, ""},
		{"IPVS", addLink(Link{Name: "kube-ipvs0"}), []string{"FAILURE leftovers: kube-proxy's IPVS is here, and so is Twill's service proxy"}, "kube-proxy --cleanup"},
		{"Docker's bridge", func(f *Facts) { f.link("docker0").Addresses = []netip.Prefix{netip.MustParsePrefix("10.244.99.1/24")} },
			[]string{"FAILURE addresses: docker0 has the network 10.244.99.0/24, which overlaps the pods' 10.244.0.0/16"}, "ip addr del 10.244.99.1/24 dev docker0"},
		{"the bridge of another network", func(f *Facts) { f.link("cni0").Addresses = []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")} },
			[]string{"FAILURE addresses: cni0 has the network 10.88.0.0/16, which is none of the pods'"}, "ip link delete cni0"},
		{"the bridge of another network, without ports", func(f *Facts) {
			f.link("cni0").Addresses = []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}
			f.link("veth1").Master = ""
		}, nil, ""},
		{"a bridge while networks are unknown", func(f *Facts) { f.Networks = nil }, nil, ""},
		{"FORWARD drops all", addChain(Chain{"ip", "filter", "FORWARD", "forward", true, 0, 0}), []string{"FAILURE foreign rules: the chain FORWARD of table ip filter drops what its 0 rules do not accept"}, "iptables -P FORWARD ACCEPT"},
		{"FORWARD of IPv6 drops some", addChain(Chain{"ip6", "filter", "FORWARD", "forward", true, 7, 0}), []string{"warning foreign rules: the chain FORWARD of table ip6 filter drops what its 7 rules do not accept"}, "ip6tables -P FORWARD ACCEPT"},
		{"FORWARD of IPv6, which is not used", func(f *Facts) { f.IPv6 = false; addChain(Chain{"ip6", "filter", "FORWARD", "forward", true, 0, 0})(f) }, nil, ""},
		{"a rule that rejects", addChain(Chain{"inet", "mine", "fwd", "forward", false, 5, 2}), []string{"warning refusing rules: 2 of the 5 rules of chain fwd of table inet mine drop or reject"}, "nft list chain inet mine fwd "},
		{"rules that refuse what comes to the host", addChain(Chain{"inet", "mine", "input", "input", false, 5, 2}), nil, ""},
		{"rules of ours that refuse", addChain(Chain{"inet", "twill-policy", "forward", "forward", false, 5, 2}), nil, ""},
		{"firewalld", addChain(Chain{"inet", "firewalld", "filter_FORWARD", "forward", true, 9, 0}), []string{"warning foreign rules: the chain filter_FORWARD of table inet firewalld drops what its 9 rules do not accept"}, "firewall-cmd "},
		{"a firewall of one's own", addChain(Chain{"inet", "mine", "input", "input", true, 2, 0}), []string{"warning foreign rules: the chain input of table inet mine drops what its 2 rules do not accept"}, "nft add rule inet mine input iifname cni0 accept"},
		{"what drops elsewhere", func(f *Facts) {
			addChain(Chain{"bridge", "b", "forward", "forward", true, 0, 0})(f)
			addChain(Chain{"ip", "filter", "OUTPUT", "output", true, 0, 0})(f)
		}, nil, ""},
		{"iptables-legacy", func(f *Facts) { f.Legacy = []string{"ip filter", "ip nat"} }, []string{"warning iptables-legacy: iptables-legacy has the tables ip filter, ip nat, whose rules cannot be read from here"}, "iptables-legacy -S FORWARD"},
		{"chains of Calico and Antrea", func(f *Facts) {
			addChain(Chain{Family: "ip", Table: "filter", Name: "cali-FORWARD"})(f)
			addChain(Chain{Family: "ip", Table: "filter", Name: "ANTREA-FORWARD"})(f)
		}, []string{"warning rules of other networks: Calico left chains: cali-FORWARD", "warning rules of other networks: Antrea left chains: ANTREA-FORWARD"}, "cali-"},
		{"kube-proxy, iptables", func(f *Facts) {
			addChain(Chain{Family: "ip", Table: "nat", Name: "KUBE-SERVICES"})(f)
			addChain(Chain{Family: "ip", Table: "filter", Name: "KUBE-SERVICES"})(f)
		}, []string{"FAILURE kube-proxy: kube-proxy has its chains in the table ip nat"}, "kube-proxy --cleanup"},
		{"kube-proxy, nftables", func(f *Facts) {
			addChain(Chain{Family: "ip", Table: "kube-proxy", Name: "services"})(f)
			addChain(Chain{Family: "ip", Table: "kube-proxy", Name: "nat-prerouting"})(f)
		}, []string{"FAILURE kube-proxy: kube-proxy has the table ip kube-proxy"}, "nft delete table ip kube-proxy"},
		{"kube-proxy, alone", func(f *Facts) { f.Proxy = false; addChain(Chain{Family: "ip", Table: "nat", Name: "KUBE-SERVICES"})(f) }, nil, ""},
		{"another has the VXLAN port", listen("udp", "192.0.2.1:8472", "flanneld"), []string{"FAILURE ports: flanneld has udp 192.0.2.1:8472"}, "sport = :8472"},
		{"nobody known has the VXLAN port, and no device", func(f *Facts) { f.Links = slices.DeleteFunc(f.Links, Link.Overlay) }, []string{"FAILURE ports: a program has udp 0.0.0.0:8472"}, "ss -lunp"},
		{"another VXLAN", addLink(Link{Name: "vxlan7", VXLAN: &kernel.VXLAN{VNI: 7}}), []string{"warning ports: vxlan7 is a VXLAN device with VNI 7 and Twill's port 8472"}, "ip link delete vxlan7"},
		{"the health port", listen("tcp", "0.0.0.0:10270", "nginx"), []string{"FAILURE ports: nginx listens on tcp 0.0.0.0:10270"}, "--health-address"},
		{"the metrics port", func(f *Facts) {
			f.Metrics = netip.MustParseAddrPort("127.0.0.1:9100")
			f.Serves = false
			listen("tcp", "127.0.0.1:9100", "")(f)
		},
			[]string{"FAILURE ports: a program listens on tcp 127.0.0.1:9100"}, "--metrics-address"},
		{"a listener that cannot be seen", listen("tcp", "127.0.0.1:10270", ""), nil, ""},
		{"the page's port", listen("tcp", "127.0.0.1:10280", "nginx"), []string{"FAILURE ports: nginx listens on tcp 127.0.0.1:10280"}, "--page"},
		{"the page's port, without a page", func(f *Facts) { f.Page = netip.AddrPort{}; listen("tcp", "127.0.0.1:10280", "nginx")(f) }, nil, ""},
		{"the port of measurements", listen("udp", "10.244.1.1:10270", "dnsmasq"), []string{"FAILURE ports: dnsmasq has udp 10.244.1.1:10270"}, "ss -lunp sport = :10270"},
		{"the port of measurements, everywhere", func(f *Facts) {
			f.Links = slices.DeleteFunc(f.Links, func(l Link) bool { return l.Name == bridge })
			listen("udp", "[::]:10270", "dnsmasq")(f)
		}, []string{"FAILURE ports: dnsmasq has udp [::]:10270"}, "ss -lunp sport = :10270"},
		{"the port of measurements, by a program that cannot be seen", listen("udp", "0.0.0.0:10270", ""), nil, ""},
		{"the port of measurements, without a page", func(f *Facts) { f.Page = netip.AddrPort{}; listen("udp", "0.0.0.0:10270", "dnsmasq")(f) }, nil, ""},
		{"BGP's port", func(f *Facts) { f.BGP = true; listen("tcp", "192.0.2.1:179", "bird")(f) }, []string{"FAILURE ports: bird listens on tcp 192.0.2.1:179"}, "--bgp-config"},
		{"BGP's port, without BGP", listen("tcp", "192.0.2.1:179", "bird"), nil, ""},
		{"another network comes first", func(f *Facts) {
			f.Confs = append([]NetConf{{Name: "05-cilium.conflist", Types: []string{"cilium-cni"}}}, f.Confs...)
		}, []string{"FAILURE network configurations: /etc/cni/net.d/05-cilium.conflist, of cilium-cni, sorts before 10-twill.conflist"}, "mv /etc/cni/net.d/05-cilium.conflist /etc/cni/net.d/05-cilium.conflist.disabled"},
		{"what cannot be read comes first", func(f *Facts) { f.Confs = []NetConf{{Name: "01-x.conf", Err: errors.New("EOF")}} },
			[]string{"FAILURE network configurations: /etc/cni/net.d/01-x.conf, which sorts before 10-twill.conflist, cannot be read: EOF"}, "mv "},
		{"no plugin", func(f *Facts) { f.Plugins[0].Err = gone }, []string{"FAILURE plugins: /opt/cni/bin/twill: it is not there"}, "twilld --install"},
		{"no plugin yet", func(f *Facts) { f.Plugins[1].Err, f.Confs = gone, nil }, []string{"warning plugins: /opt/cni/bin/twill-ipam: it is not there"}, "twilld --install"},
		{"no loopback", func(f *Facts) { f.Plugins[2].Err = gone }, []string{"warning plugins: /opt/cni/bin/loopback: it is not there"}, "reference CNI plugins"},
		{"another version", func(f *Facts) { f.Plugins[0].Version = "old" }, []string{"warning plugins: /opt/cni/bin/twill was built from old, twillctl from abc"}, "twilld --install"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fit()
			tt.harm(f)
			results := Run(f)
			if diff := cmp.Diff(append([]string{}, tt.want...), told(results)); diff != "" {
				t.Error(diff)
			}
			first := ""
			for _, r := range results {
				for _, found := range r.Found {
					if first == "" {
						first = found.Mend
					}
					if found.Breaks == "" || found.Mend == "" {
						t.Errorf("it is not said what breaks, or the mend: %+v", found)
					}
				}
			}
			if !strings.Contains(first, tt.mend) {
				t.Errorf("mend %q, want %q in it", first, tt.mend)
			}
		})
	}
}

// A firewall's chain at input says by which ports the node is to be heard.
func TestHeard(t *testing.T) {
	tests := []struct {
		name string
		set  func(*Facts)
		want string
	}{
		{"VXLAN and a page", func(*Facts) {}, "the node does not hear other nodes (udp 8472, udp 10270), its own pods, nor who reads its page (tcp 10280), unless its rules accept that"},
		{"no page", func(f *Facts) { f.Page = netip.AddrPort{} }, "the node does not hear other nodes (udp 8472) nor its own pods, unless its rules accept that"},
		{"BGP and a page", func(f *Facts) { f.BGP, f.Overlay = true, false },
			"the node does not hear other nodes (tcp 179, udp 10270), its own pods, nor who reads its page (tcp 10280), unless its rules accept that"},
	}
	for _, tt := range tests {
		f := fit()
		tt.set(f)
		f.Chains = []Chain{{"inet", "mine", "input", "input", true, 2, 0}}
		if found := dropping(f); len(found) != 1 || found[0].Breaks != tt.want {
			t.Errorf("%s: %+v, want %q", tt.name, found, tt.want)
		}
	}
}

// What could not be looked at is no failure, and nothing is guessed.
func TestUnknown(t *testing.T) {
	f := &Facts{Setup: fit().Setup, Unknown: map[Part]error{}}
	f.Policy, f.Proxy, f.IPv4, f.IPv6 = false, false, false, false
	for _, p := range []Part{Features, Links, Chains, Legacy, Sockets, Conf, Plugins} {
		f.Unknown[p] = errors.New("not permitted")
	}
	for _, r := range Run(f) {
		needs := rules[slices.IndexFunc(rules, func(o rule) bool { return o.name == r.Check })].needs
		want := OK
		if len(needs) > 0 {
			want = NotLooked
		}
		if r.Verdict != want || len(r.Found) != len(needs) {
			t.Errorf("%s: %s, %v", r.Check, r.Verdict, r.Found)
		}
	}
	if got := Worst(Run(f)); got != NotLooked {
		t.Errorf("the worst is %s", got)
	}
}

func TestEmptyHost(t *testing.T) {
	for _, r := range Run(&Facts{}) {
		if r.LooksAt == "" || r.Found == nil {
			t.Errorf("%+v", r)
		}
	}
}

func TestResultAsJSON(t *testing.T) {
	text, err := json.Marshal(Result{Check: "ports", LooksAt: "all", Verdict: Failure, Found: []Finding{{Verdict: NotLooked, What: "x"}}})
	if diff := cmp.Diff(`{"check":"ports","looksAt":"all","verdict":"failure","found":[{"verdict":"notLookedAt","what":"x"}]}`, string(text)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
