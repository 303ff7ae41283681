package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/twill-cni/twill/store"
)

func TestReleaseFreesTheNodesRecordsAlone(t *testing.T) {
	h := newHarness(t, nil)
	s := h.open()
	network := store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24,
		Min: netip.MustParseAddr("10.5.1.0"), Max: netip.MustParseAddr("10.5.255.0")}}
	attrs := func(ip string) store.Attributes {
		return store.Attributes{PublicIP: netip.MustParseAddr(ip), BackendType: "vxlan"}
	}
	for _, ip := range []string{"192.0.2.1", "192.0.2.2"} {
		reg, err := s.Register(t.Context(), network, attrs(ip), nil)
		h.must(err)
		h.must(reg.Close())
	}
	released, err := s.Release(t.Context(), attrs("192.0.2.1"))
	h.must(err)
	left, _, err := s.records(t.Context())
	h.must(err)
	if len(left) != 1 || left[0].lease.PublicIP != netip.MustParseAddr("192.0.2.2") || len(released) != 1 || slices.Contains(released, left[0].subnets) {
		t.Errorf("released %v, left %+v", released, left)
	}
	if again, err := s.Release(t.Context(), attrs("192.0.2.1")); err != nil || len(again) > 0 {
		t.Errorf("released %v again, error %v", again, err)
	}
}

func TestReleaseKeepsReservations(t *testing.T) {
	h := newHarness(t, nil)
	s := h.open()
	reserved, err := store.ParseKey("10.5.7.0-24")
	h.must(err)
	node := store.Attributes{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan"}
	value, err := store.NewLease(reserved, node).Value()
	h.must(err)
	h.must(s.do(t.Context(), func(ctx context.Context, cli *clientv3.Client) (int64, error) {
		_, err := cli.Put(ctx, s.leasePrefix()+reserved.Key(), string(value))
		return 0, err
	}))
	if released, err := s.Release(t.Context(), node); err != nil || len(released) > 0 {
		t.Errorf("released %v, error %v", released, err)
	}
	if left, _, err := s.records(t.Context()); err != nil || len(left) != 1 {
		t.Errorf("left %v, error %v", left, err)
	}
}

// A node that cannot write its record at its start does not take away the one that it found.
func TestFailedRegistrationKeepsTheRecord(t *testing.T) {
	h := newHarness(t, func(h *harness) {
		h.prepare = func(cfg *embed.Config) { cfg.MaxRequestBytes = 4 << 10 }
	})
	s := h.open()
	network := store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24,
		Min: netip.MustParseAddr("10.5.1.0"), Max: netip.MustParseAddr("10.5.255.0")}}
	node := store.Attributes{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan"}
	reg, err := s.Register(t.Context(), network, node, nil)
	h.must(err)
	h.must(reg.Close())
	node.BackendData = fmt.Appendf(nil, `{"Pad":"%s"}`, strings.Repeat("x", 8<<10))
	if _, err := s.Register(t.Context(), network, node, nil); err == nil {
		t.Fatal("etcd took a request that is too large")
	}
	if left, _, err := s.records(t.Context()); err != nil || len(left) != 1 {
		t.Errorf("left %v, error %v", left, err)
	}
}
