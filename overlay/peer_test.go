package overlay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// peerLease returns the lease of node n of a dual-stack cluster, changed.
func peerLease(n int, change func(*store.Lease)) *store.Lease {
	data := fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"%s"}`, peerMAC(n))
	l := &store.Lease{
		Subnet:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24),
		IPv6Subnet:  netip.MustParsePrefix(fmt.Sprintf("fd00:5:0:%x::/64", n)),
		PublicIP:    netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		PublicIPv6:  netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n)),
		BackendType: "vxlan", BackendData: data, BackendV6Data: data,
	}
	if change != nil {
		change(l)
	}
	return l
}

func peerMAC(n int) kernel.MAC { return kernel.MAC{2, 0, 0, 0, 0, byte(n)} }

func fragments(t *testing.T, b *Backend, leases ...*store.Lease) ([]*kernel.Fragment, []store.Reject) {
	t.Helper()
	fs, rejects, err := b.Fragments(eth0(), self(), leases)
	if err != nil {
		t.Fatal(err)
	}
	return fs, rejects
}

func TestFragment(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.5.2.0"), netip.MustParseAddr("fd00:5:0:2::")
	tunnel := &kernel.Fragment{
		Owner: "10.5.2.0-24&fd00:5:0:2::-64",
		FDB: []kernel.FDBEntry{
			{Link: "flannel.1", MAC: peerMAC(2), Dst: netip.MustParseAddr("192.0.2.2")},
			{Link: "flannel-v6.1", MAC: peerMAC(2), Dst: netip.MustParseAddr("2001:db8::2")},
		},
		Neighbors: []kernel.Neighbor{
			{Link: "flannel.1", IP: v4, MAC: peerMAC(2)},
			{Link: "flannel-v6.1", IP: v6, MAC: peerMAC(2)},
		},
		Routes: []kernel.Route{
			{Dst: netip.PrefixFrom(v4, 24), NextHops: []kernel.NextHop{{Gateway: v4, Link: "flannel.1", OnLink: true}}},
			{Dst: netip.PrefixFrom(v6, 64), NextHops: []kernel.NextHop{{Gateway: v6, Link: "flannel-v6.1", OnLink: true}}},
		},
	}
	direct := &kernel.Fragment{
		Owner: tunnel.Owner,
		Routes: []kernel.Route{
			{Dst: netip.PrefixFrom(v4, 24), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("192.0.2.2"), Link: "eth0"}}},
			{Dst: netip.PrefixFrom(v6, 64), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("2001:db8::2"), Link: "eth0"}}},
		},
	}
	ipv4Part := &kernel.Fragment{Owner: tunnel.Owner, FDB: tunnel.FDB[:1], Neighbors: tunnel.Neighbors[:1], Routes: tunnel.Routes[:1]}
	mixed := &kernel.Fragment{Owner: tunnel.Owner, FDB: slices.Clone(tunnel.FDB), Neighbors: tunnel.Neighbors,
		Routes: tunnel.Routes}
	mixed.FDB[0].Dst = netip.MustParseAddr("198.51.100.2")
	far := func(l *store.Lease) {
		l.PublicIP, l.PublicIPv6 = netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")
	}
	tests := []struct {
		name   string
		config string
		direct bool
		change func(*store.Lease)
		want   *kernel.Fragment
	}{
		{"dual stack", dual, false, nil, tunnel},
		{"IPv4 network ignores the IPv6 half", ipv4Only, false, nil, ipv4Part},
		{"peer without IPv6 in a dual-stack network", dual, false, func(l *store.Lease) { l.IPv6Subnet, l.BackendV6Data = netip.Prefix{}, nil },
			&kernel.Fragment{Owner: "10.5.2.0-24", FDB: tunnel.FDB[:1], Neighbors: tunnel.Neighbors[:1], Routes: tunnel.Routes[:1]}},
		{"old flannel without VNI", ipv4Only, false, func(l *store.Lease) { l.BackendData = []byte(`{"VtepMAC":"02:00:00:00:00:02"}`) }, ipv4Part},
		{"direct routing to a neighbour", dual, true, nil, direct},
		{"direct routing for one family only", dual, true, far, &kernel.Fragment{Owner: tunnel.Owner, FDB: mixed.FDB[:1],
			Neighbors: tunnel.Neighbors[:1], Routes: []kernel.Route{tunnel.Routes[0], direct.Routes[1]}}},
		{"peer behind a router", dual, false, far, mixed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := backend(t, tt.config, func(o *Options) { o.Config.DirectRouting = tt.direct })
			got, rejects := fragments(t, b, peerLease(2, tt.change))
			if len(rejects) > 0 {
				t.Fatalf("rejected: %v", rejects)
			}
			if diff := cmp.Diff([]*kernel.Fragment{tt.want}, got, equateNetip, equatePrefix); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadPeersAreSkippedAndNamed(t *testing.T) {
	tests := []struct {
		name   string
		change func(*store.Lease)
		want   string
	}{
		{"other backend", func(l *store.Lease) { l.BackendType = "host-gw" }, `backend type is "host-gw", not "vxlan"`},
		{"BGP without an overlay", func(l *store.Lease) { l.BackendType, l.BackendData = "bgp", []byte(`{"AS":64512}`) },
			"the node routes with BGP and has no overlay"},
		{"other VNI", func(l *store.Lease) { l.BackendData = []byte(`{"VNI":2,"VtepMAC":"02:00:00:00:00:02"}`) }, "VNI is 2, this network's is 1"},
		{"no data", func(l *store.Lease) { l.BackendData = nil }, "no backend data"},
		{"broken data", func(l *store.Lease) { l.BackendData = []byte(`{"VNI":`) }, "backend data: unexpected end of JSON input"},
		{"no MAC", func(l *store.Lease) { l.BackendData = []byte(`{"VNI":1}`) }, "VtepMAC: "},
		{"group MAC", func(l *store.Lease) { l.BackendData = []byte(`{"VtepMAC":"03:00:00:00:00:02"}`) }, "not the address of another device"},
		{"no public address", func(l *store.Lease) { l.PublicIP = netip.Addr{} }, "no public address"},
		{"our public address", func(l *store.Lease) { l.PublicIP = netip.MustParseAddr("192.0.2.1") }, "public address 192.0.2.1 is this node's own"},
		{"multicast public address", func(l *store.Lease) { l.PublicIP = netip.MustParseAddr("224.0.0.1") }, "is no IPv4 unicast address"},
		{"IPv6 as IPv4", func(l *store.Lease) { l.PublicIP = netip.MustParseAddr("2001:db8::2") }, "is no IPv4 unicast address"},
		{"outside the network", func(l *store.Lease) { l.Subnet = netip.MustParsePrefix("10.6.2.0/24") }, "subnet 10.6.2.0/24 is outside the network 10.5.0.0/16"},
		{"larger than the network", func(l *store.Lease) { l.Subnet = netip.MustParsePrefix("10.0.0.0/8") }, "is outside the network"},
		{"over our subnet", func(l *store.Lease) { l.Subnet = netip.MustParsePrefix("10.5.0.0/20") }, "overlaps this node's own, 10.5.1.0/24"},
		{"host bits", func(l *store.Lease) { l.Subnet = netip.MustParsePrefix("10.5.2.9/24") }, "10.5.2.9/24 is no IPv4 subnet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := backend(t, ipv4Only, nil)
			got, rejects := fragments(t, b, peerLease(2, tt.change), peerLease(3, nil))
			if len(rejects) != 1 || !strings.Contains(rejects[0].Err.Error(), "IPv4: ") || !strings.Contains(rejects[0].Err.Error(), tt.want) {
				t.Fatalf("rejected %v, want one with %q", rejects, tt.want)
			}
			if len(got) != 1 || got[0].Owner != peerLease(3, nil).Key() {
				t.Errorf("fragments %v, want the other peer's alone", got)
			}
		})
	}
}

func TestPeerThatRoutesAndHasAnOverlay(t *testing.T) {
	b := backend(t, ipv4Only, nil)
	got, rejects := fragments(t, b, peerLease(2, func(l *store.Lease) {
		l.BackendType, l.BackendData = "bgp", []byte(`{"AS":64512,"Node":"b","VNI":1,"VtepMAC":"02:00:00:00:00:02"}`)
	}))
	if len(rejects) > 0 || len(got) != 1 || len(got[0].FDB) != 1 {
		t.Errorf("fragments %+v, rejected %v", got, rejects)
	}
}

func TestOneBadFamilyLeavesTheOther(t *testing.T) {
	b := backend(t, dual, nil)
	got, rejects := fragments(t, b, peerLease(2, func(l *store.Lease) { l.BackendV6Data = []byte(`{}`) }))
	if len(rejects) != 1 || len(got) != 1 || len(got[0].Routes) != 1 || !got[0].Routes[0].Dst.Addr().Is4() {
		t.Errorf("fragments %+v, rejected %v: want the IPv4 half and one reject", got, rejects)
	}
}

func TestOwnLeaseIsSkipped(t *testing.T) {
	b := backend(t, dual, nil)
	if got, rejects := fragments(t, b, self(), peerLease(1, nil)); len(got)+len(rejects) > 0 {
		t.Errorf("fragments %v, rejected %v for our own lease", got, rejects)
	}
}

func TestSameLeaseYieldsTheSameFragment(t *testing.T) {
	b := backend(t, dual, func(o *Options) { o.Config.DirectRouting = true })
	bad := peerLease(9, func(l *store.Lease) { l.BackendType = "udp" })
	leases := []*store.Lease{peerLease(2, nil), peerLease(3, nil), peerLease(4, nil), bad}
	first, rejects := fragments(t, b, leases...)

	shuffled := slices.Clone(leases)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	again, rejectsAgain := fragments(t, b, shuffled...)
	for _, f := range again {
		if !slices.Contains(first, f) {
			t.Errorf("%s got a new fragment", f.Owner)
		}
	}
	if len(again) != len(first) || len(rejects) != 2 || len(rejectsAgain) != 2 {
		t.Errorf("fragments %d then %d, rejects %d then %d", len(first), len(again), len(rejects), len(rejectsAgain))
	}

	if !slices.IsSortedFunc(again, func(a, b *kernel.Fragment) int { return strings.Compare(a.Owner, b.Owner) }) {
		t.Error("fragments are not sorted by owner")
	}

	leases[0] = peerLease(2, nil) // stored again: equal, but another pointer
	third, _ := fragments(t, b, leases...)
	if slices.Contains(first, third[0]) || third[1] != first[1] {
		t.Error("want a new fragment for the new lease alone")
	}

	moved := eth0()
	moved.Name = "eth1"
	fourth, _, err := b.Fragments(moved, self(), leases)
	if err != nil {
		t.Fatal(err)
	}
	if fourth[1] == third[1] {
		t.Error("a direct route by another uplink is the same fragment")
	}
}

func FuzzLeaseData(f *testing.F) {
	f.Add([]byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`))
	f.Add([]byte(`{"VtepMAC":"ff:ff:ff:ff:ff:ff"}`))
	b, err := New(Options{Config: Config{VNI: 1}, NodeName: "a",
		Network: store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lease := peerLease(2, func(l *store.Lease) { l.BackendData = data })
		fs, rejects, err := b.Fragments(eth0(), self(), []*store.Lease{lease})
		if err != nil || len(fs)+len(rejects) != 1 {
			t.Fatalf("fragments %v, rejects %v, error %v", fs, rejects, err)
		}
		if len(fs) == 1 && !fs[0].FDB[0].MAC.IsUnicast() {
			t.Errorf("accepted MAC %s", fs[0].FDB[0].MAC)
		}
	})
}

func BenchmarkFragmentsOneChange(b *testing.B) {
	be, err := New(Options{Config: Config{VNI: 1}, NodeName: "a",
		Network: store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.0.0.0/8")}}})
	if err != nil {
		b.Fatal(err)
	}
	var leases []*store.Lease
	for n := range 20_000 {
		leases = append(leases, &store.Lease{
			Subnet:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 6 + byte(n>>8), byte(n), 0}), 24),
			PublicIP:    netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}),
			BackendType: "vxlan",
			BackendData: fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}`, n>>8, n&0xff),
		})
	}
	own := &store.Lease{Subnet: netip.MustParsePrefix("10.5.1.0/24")}
	for b.Loop() {
		changed := *leases[0]
		leases[0] = &changed
		if fs, _, err := be.Fragments(eth0(), own, leases); err != nil || len(fs) != len(leases) {
			b.Fatalf("%d fragments, error %v", len(fs), err)
		}
	}
}
