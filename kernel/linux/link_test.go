//go:build linux

package linux

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func flannel4() kernel.Link {
	return kernel.Link{Name: "flannel.1", MTU: 1450, MAC: mustMAC("02:00:00:00:00:01"), Up: true, Addresses: prefixes("10.5.0.0/32"),
		VXLAN:   &kernel.VXLAN{VNI: 1, Uplink: "eth0", Local: netip.MustParseAddr("192.0.2.1")},
		Sysctls: map[string]string{"ipv6/accept_ra": "0"}}
}

func flannel6() kernel.Link {
	return kernel.Link{Name: "flannel-v6.1", MTU: 1430, MAC: mustMAC("02:00:00:00:00:06"), Up: true, Addresses: prefixes("fd00:5::/128"),
		VXLAN: &kernel.VXLAN{VNI: 1, Uplink: "eth0", Local: netip.MustParseAddr("2001:db8::1")}}
}

func cni0() kernel.Link {
	return kernel.Link{Name: "cni0", MTU: 1450, MAC: mustMAC("02:00:00:00:00:10"), Up: true,
		Addresses: prefixes("10.5.0.1/24", "fd00:5::1/64"),
		Bridge:    &kernel.Bridge{PortAliasPrefix: kernel.PodLinkAliasPrefix, Hairpin: true}}
}

// wantLink compares what the kernel has with want, but for what a Link leaves open.
func wantLink(t *testing.T, h *Handle, want kernel.Link) {
	t.Helper()
	links, err := h.Links(t.Context(), []string{want.Name})
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 {
		t.Fatalf("have %d links, want 1", len(links))
	}
	got := links[0]
	if want.MAC.IsZero() {
		want.MAC = got.MAC
	}
	if want.TxChecksumOffload == nil {
		want.TxChecksumOffload = got.TxChecksumOffload
	}
	if want.VXLAN != nil && want.VXLAN.Port == 0 {
		v := *want.VXLAN
		v.Port = defaultVXLANPort
		want.VXLAN = &v
	}
	if diff := cmp.Diff(want, got, comparable); diff != "" {
		t.Errorf("link (-want +got):\n%s", diff)
	}
}

func index(t *testing.T, h *Handle, name string) int32 {
	t.Helper()
	i, err := newNames(h.conn.fd).index(name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func off() *bool { v := false; return &v }

func TestLinkIsMade(t *testing.T) {
	gbp := flannel4()
	gbp.VXLAN = &kernel.VXLAN{VNI: 4096, Port: 8473, Local: netip.MustParseAddr("192.0.2.1"), GBP: true, Learning: true}
	noCsum := flannel4()
	noCsum.TxChecksumOffload = off()
	bare := kernel.Link{Name: "flannel.7", MTU: 1500, VXLAN: &kernel.VXLAN{VNI: 7}}
	bridge := cni0()
	bridge.MTU, bridge.MAC = 1500, kernel.MAC{}
	for _, tc := range []struct {
		name string
		link kernel.Link
	}{
		{"IPv4", flannel4()}, {"IPv6", flannel6()}, {"no uplink, GBP, learning", gbp}, {"checksum offload off", noCsum},
		{"as little as can be", bare}, {"bridge", cni0()}, {"bridge of any MAC", bridge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay)
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(tc.link)))
			wantLink(t, h, tc.link)
			before := index(t, h, tc.link.Name)
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(tc.link, tc.link)))
			wantLink(t, h, tc.link)
			if after := index(t, h, tc.link.Name); after != before {
				t.Errorf("the link was made again")
			}
			if out := ip(t, "addr show scope global tentative dev "+tc.link.Name); strings.Contains(out, "inet") {
				t.Errorf("duplicate address detection runs: %s", out)
			}
			wantNoErrors(t, h.ApplyLinks(t.Context(), remove(tc.link, tc.link)))
			if links, err := h.Links(t.Context(), []string{tc.link.Name}); err != nil || len(links) > 0 {
				t.Errorf("have %v, %v; want no link", links, err)
			}
		})
	}
}

// TestLinkIsAdjusted changes a link behind the handle's back: it is put right without being made again.
func TestLinkIsAdjusted(t *testing.T) {
	vxlan, bridge := flannel4(), cni0()
	vxlan.TxChecksumOffload = off()
	for _, tc := range []struct {
		name    string
		link    kernel.Link
		disturb string
	}{
		{"set down", vxlan, "ip link set flannel.1 down"},
		{"MTU", vxlan, "ip link set flannel.1 mtu 1300"},
		{"MAC", vxlan, "ip link set flannel.1 address 02:99:00:00:00:00"},
		{"alias", vxlan, "ip link set flannel.1 alias other"},
		{"address gone", vxlan, "ip addr flush dev flannel.1"},
		{"address added", vxlan, "ip addr add 10.77.0.1/16 dev flannel.1"},
		{"IPv6 address added", vxlan, "ip addr add fd00:77::1/64 dev flannel.1"},
		{"sysctl", vxlan, "sysctl -w net/ipv6/conf/flannel.1/accept_ra=1"},
		{"checksum offload", vxlan, "ethtool -K flannel.1 tx-checksum-ip-generic on"},
		{"bridge set down", bridge, "ip link set cni0 down"},
		{"bridge MTU", bridge, "ip link set cni0 mtu 1300"},
		{"bridge MAC", bridge, "ip link set cni0 address 02:99:00:00:00:00"},
		{"bridge address", bridge, "ip addr del 10.5.0.1/24 dev cni0"},
		{"primary address that takes the wanted one along", bridge,
			"ip addr flush dev cni0\nip addr add 10.5.0.9/24 dev cni0\nip addr add 10.5.0.1/24 dev cni0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay)
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(tc.link)))
			before := index(t, h, tc.link.Name)
			for command := range strings.Lines(tc.disturb) {
				run(t, command)
			}
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(tc.link)))
			wantLink(t, h, tc.link)
			if after := index(t, h, tc.link.Name); after != before {
				t.Errorf("the link was made again")
			}
		})
	}
}

func TestVXLANIsMadeAgain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*kernel.Link)
	}{
		{"VNI", func(l *kernel.Link) { l.VXLAN.VNI = 2 }},
		{"port", func(l *kernel.Link) { l.VXLAN.Port = 4789 }},
		{"local address", func(l *kernel.Link) { l.VXLAN.Local = netip.MustParseAddr("192.0.2.9") }},
		{"family", func(l *kernel.Link) { l.VXLAN.Local, l.MTU = netip.MustParseAddr("2001:db8::1"), 1430 }},
		{"uplink", func(l *kernel.Link) { l.VXLAN.Uplink = "eth1" }},
		{"no uplink", func(l *kernel.Link) { l.VXLAN.Uplink = "" }},
		{"GBP", func(l *kernel.Link) { l.VXLAN.GBP = true }},
		{"learning", func(l *kernel.Link) { l.VXLAN.Learning = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay)
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4())))
			before := index(t, h, "flannel.1")
			link := flannel4()
			tc.change(&link)
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
			wantLink(t, h, link)
			if after := index(t, h, "flannel.1"); after == before {
				t.Errorf("the link was not made again")
			}
		})
	}
}

// TestLinkOfFlannel adopts the device that flanneld makes, with what is on it.
func TestLinkOfFlannel(t *testing.T) {
	h := open(t)
	setUp(t, underlay+`
link add flannel.1 address 02:aa:00:00:00:01 mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning
addr add 10.5.0.0/32 dev flannel.1
link set flannel.1 up`)
	found, ok, err := h.ReadLink(t.Context(), "flannel.1")
	if err != nil || !ok || found.MAC != mustMAC("02:aa:00:00:00:01") || !found.Unmarked {
		t.Fatalf("have %+v, %t, %v", found, ok, err)
	}
	before := index(t, h, "flannel.1")
	link := flannel4()
	link.MAC = found.MAC
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
	wantLink(t, h, link)
	if after := index(t, h, "flannel.1"); after != before {
		t.Errorf("the link was made again")
	}
	if _, ok, err := h.ReadLink(t.Context(), "flannel.9"); ok || err != nil {
		t.Errorf("have %t, %v; want no link and no error", ok, err)
	}
}

func TestForeignLinkIsLeftAlone(t *testing.T) {
	for _, tc := range []struct {
		name, foreign string
		link          kernel.Link
	}{
		{"veth in the VXLAN device's place", "link add flannel.1 type veth peer name other", flannel4()},
		{"bridge in the VXLAN device's place", "link add flannel.1 type bridge", flannel4()},
		{"VXLAN device in the bridge's place", "link add cni0 type vxlan id 9 dstport 8472", cni0()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+"\n"+tc.foreign)
			before := kept(t, "-d link show "+tc.link.Name)
			for _, changes := range [][]kernel.Change[kernel.Link]{set(tc.link), remove(tc.link)} {
				errs := h.ApplyLinks(t.Context(), changes)
				if len(errs) != 1 || !errors.Is(errs[0], unix.EEXIST) || !strings.Contains(errs[0].Error(), "remove or rename it") {
					t.Errorf("have %v", errs)
				}
			}
			if diff := cmp.Diff(before, kept(t, "-d link show "+tc.link.Name)); diff != "" {
				t.Errorf("the foreign link changed:\n%s", diff)
			}
		})
	}
}

func TestBadLinks(t *testing.T) {
	tooLong, noUplink, noKind, badSysctl, alt, twin := flannel4(), flannel4(), flannel4(), flannel4(), flannel4(), flannel4()
	twin.Name, twin.VXLAN.VNI = "flannel.2", 2
	tooLong.MTU = 1500
	noUplink.Name, noUplink.VXLAN.VNI, noUplink.VXLAN.Uplink = "flannel.9", 9, "eth9"
	noKind.VXLAN = nil
	badSysctl.Sysctls = map[string]string{"ipv6/../../all/forwarding": "1"}
	alt.Name = "also-eth0"
	h := open(t)
	setUp(t, underlay+`
link property add dev eth0 altname also-eth0
link add rival type vxlan id 2 dstport 8472`)
	good := cni0()
	for _, tc := range []struct {
		name string
		link kernel.Link
		want string
	}{
		{"MTU beyond the uplink's", tooLong, "link flannel.1: set MTU 1500, which is 1450: invalid argument"},
		{"no such uplink", noUplink, `link flannel.9: create: uplink: link "eth9": no such device`},
		{"no kind", noKind, "neither a VXLAN nor a bridge"},
		{"sysctl that leads astray", badSysctl, "want ipv4/NAME or ipv6/NAME"},
		{"VNI and port of another device", twin, "link flannel.2: create: link rival has VNI 2 and port 8472; run `ip link delete rival` if nothing uses it, or give the network another VNI: it is not Twill's: file exists"},
		{"another link's alternative name", alt, `"also-eth0" is an alternative name of link eth0`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := h.ApplyLinks(t.Context(), set(tc.link, good))
			if len(errs) != 2 || errs[1] != nil || errs[0] == nil || !strings.Contains(errs[0].Error(), tc.want) {
				t.Errorf("have %v, want an error with %q for the first", errs, tc.want)
			}
		})
	}
}

func TestLinksOfOursAreFoundByAlias(t *testing.T) {
	h := open(t)
	setUp(t, underlay+`
link add other type bridge
link add stale type vxlan id 9 dstport 8472
link set stale alias twill`)
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4(), cni0())))
	links, err := h.Links(t.Context(), []string{"eth0", "absent"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	if diff := cmp.Diff([]string{"eth0", "stale", "flannel.1", "cni0"}, names); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

// TestBridgeKeepsMACAndMTU adds ports with a lower MAC and a lower MTU, which a bridge follows on its own.
func TestBridgeKeepsMACAndMTU(t *testing.T) {
	for _, tc := range []struct {
		name, made string
		mac        kernel.MAC
	}{
		{"made by us", "", mustMAC("02:00:00:00:00:10")},
		{"found, with its own MAC", "link add cni0 mtu 1500 address 0e:00:00:00:00:10 type bridge", kernel.MAC{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+"\n"+tc.made)
			link := cni0()
			link.MAC = tc.mac
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
			before, _, err := h.ReadLink(t.Context(), "cni0")
			if err != nil {
				t.Fatal(err)
			}
			setUp(t, `
link add low mtu 1300 address 00:00:00:00:00:02 type veth peer name high
link set low master cni0`)
			after, _, err := h.ReadLink(t.Context(), "cni0")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, after, comparable); diff != "" {
				t.Errorf("the bridge followed its port (-before +after):\n%s", diff)
			}
		})
	}
}

func TestOrphanedPortsGoBack(t *testing.T) {
	h := open(t)
	setUp(t, underlay+`
link add pod1 type veth peer name in1
link add pod2 type veth peer name in2
link add foreign type veth peer name in3
link add other type bridge`)
	for _, pod := range []string{"pod1", "pod2"} {
		setAlias(t, h, pod, kernel.PodLinkAliasPrefix+pod+"/eth0")
	}
	link := cni0()
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
	wantLink(t, h, link)
	check := func() {
		t.Helper()
		for _, port := range []string{"pod1", "pod2"} {
			if out := ip(t, "-d link show "+port); !strings.Contains(out, "master cni0") || !strings.Contains(out, "hairpin on") {
				t.Errorf("port: %s", out)
			}
		}
		if out := ip(t, "link show foreign"); strings.Contains(out, "master") {
			t.Errorf("the foreign link was put on the bridge: %s", out)
		}
	}
	check()
	for _, disturb := range []string{"link set pod2 nomaster", "link set pod1 type bridge_slave hairpin off"} {
		ip(t, disturb)
		links, err := h.Links(t.Context(), []string{"cni0"})
		if err != nil || cmp.Equal(links[0], link, comparable) {
			t.Errorf("after %q the dump shows no difference, %v", disturb, err)
		}
		wantNoErrors(t, h.ApplyLinks(t.Context(), set(link)))
		wantLink(t, h, link)
		check()
	}
	ip(t, "link set pod2 master other") // somebody else wants it: not an orphan
	wantLink(t, h, link)
}

func setAlias(t *testing.T, h *Handle, link, alias string) {
	t.Helper()
	dev, err := h.findLink(link)
	if err == nil {
		err = h.links.LinkSetAlias(dev, alias)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCleanup(t *testing.T) {
	h := open(t)
	setUp(t, underlay+`
link add other type bridge
route add 10.9.0.0/24 via 192.0.2.9`)
	state := func() string { // without link-local addresses and the carrier's state, which come by themselves a moment after a link
		return strings.ReplaceAll(ip(t, "route"), "linkdown ", "") + ip(t, "-6 route show root 2000::/3") + ip(t, "-br link show type bridge") + ip(t, "-o addr show scope global")
	}
	foreign := state()
	wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4(), flannel6(), cni0())))
	p := makePeers(10, false)
	p.apply(t, h)
	wantNoErrors(t, h.ApplyRoutes(t.Context(), set(route("10.1.0.0/24", via("192.0.2.2", "eth0")), route("fd00:1::/64", via("2001:db8::2", "eth0")))))
	for range 2 {
		if _, err := h.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantRoutes(t, h, nil)
		if diff := cmp.Diff(foreign, state()); diff != "" {
			t.Errorf("what is left (-want +got):\n%s", diff)
		}
	}
}
