//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
)

func TestSmoke(t *testing.T) {
	h := open(t)
	ctx := context.Background()
	setUp(t, `
link add eth0 type veth peer name peer0
addr add 192.0.2.1/24 dev eth0
link set eth0 up
link set peer0 up`)
	l := kernel.Link{Name: "flannel.1", MTU: 1450, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}, Up: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/32")},
		VXLAN:     &kernel.VXLAN{VNI: 1, Uplink: "eth0", Local: netip.MustParseAddr("192.0.2.1")},
		Sysctls:   map[string]string{"ipv6/accept_ra": "0"}}
	if errs := h.ApplyLinks(ctx, []kernel.Change[kernel.Link]{{Value: l}}); errs != nil {
		t.Fatal(errs)
	}
	links, err := h.Links(ctx, []string{"flannel.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v %+v", links, links[0].VXLAN)
	const n = 20000
	var fs []kernel.Change[kernel.FDBEntry]
	var ns []kernel.Change[kernel.Neighbor]
	var rs []kernel.Change[kernel.Route]
	for i := range n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(0x0b000000+i*256))
		a := netip.AddrFrom4(b)
		mac := kernel.MAC{2, 1, b[0], b[1], b[2], 0}
		fs = append(fs, kernel.Change[kernel.FDBEntry]{Value: kernel.FDBEntry{"flannel.1", mac, a}})
		ns = append(ns, kernel.Change[kernel.Neighbor]{Value: kernel.Neighbor{"flannel.1", a, mac}})
		rs = append(rs, kernel.Change[kernel.Route]{Value: kernel.Route{Dst: netip.PrefixFrom(a, 24), NextHops: []kernel.NextHop{{Gateway: a, Link: "flannel.1", OnLink: true}}}})
	}
	for range 2 {
		t0 := time.Now()
		if errs := h.ApplyFDB(ctx, fs); errs != nil {
			t.Fatal(errs[0])
		}
		t1 := time.Now()
		if errs := h.ApplyNeighbors(ctx, ns); errs != nil {
			t.Fatal(errs[0])
		}
		t2 := time.Now()
		if errs := h.ApplyRoutes(ctx, rs); errs != nil {
			t.Fatal(errs[0])
		}
		t3 := time.Now()
		t.Log(t1.Sub(t0), t2.Sub(t1), t3.Sub(t2))
	}
	t0 := time.Now()
	rr, err := h.Routes(ctx, []string{"flannel.1"})
	if err != nil || len(rr) != n {
		t.Fatal(err, len(rr))
	}
	t1 := time.Now()
	nn, err := h.Neighbors(ctx, []string{"flannel.1"})
	if err != nil || len(nn) != n {
		t.Fatal(err, len(nn))
	}
	t2 := time.Now()
	ff, err := h.FDB(ctx, []string{"flannel.1"})
	if err != nil || len(ff) != n {
		t.Fatal(err, len(ff))
	}
	t.Log(t1.Sub(t0), t2.Sub(t1), time.Since(t2))
	if d := cmp.Diff(rs[5].Value, rr[5], cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for i := range rs {
		rs[i].Delete = true
	}
	if errs := h.ApplyRoutes(ctx, rs); errs != nil {
		t.Fatal(errs[0])
	}
	if errs := h.ApplyRoutes(ctx, rs); errs != nil {
		t.Fatal(errs[0])
	}
	_, err = FindUplink(UplinkOptions{Iface: "eth9"})
	t.Log(err)
}
