package kube

import (
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

// Nodes are listed with their zones, those that have not registered, too.
func TestListNodes(t *testing.T) {
	h := newHarness(t, startCluster(t))
	h.SetNetwork(storetest.Config4)
	for name, key := range map[string]string{"node-a": "10.244.1.0-24", "node-b": "10.244.2.0-24"} {
		s, err := store.ParseKey(key)
		must(t, err)
		must(t, h.create(name, s, nil))
	}
	nodes := h.api.CoreV1().Nodes()
	a, err := nodes.Get(h.ctx, "node-a", metav1.GetOptions{})
	must(t, err)
	a.Labels = map[string]string{store.ZoneLabel: "z1", "other": "x"}
	_, err = nodes.Update(h.ctx, a, metav1.UpdateOptions{})
	must(t, err)
	c := h.open("")
	network, err := c.Network(t.Context())
	must(t, err)
	_, err = c.Register(t.Context(), network, store.Attributes{NodeName: "node-a", PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan"}, nil)
	must(t, err)
	all, err := c.ListNodes(t.Context(), store.WithExpiries)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v: %+v", err, all)
	}
	if e := all[0]; e.Name != "node-a" || e.Lease == nil || e.Lease.BackendType != "vxlan" || e.Created.IsZero() || len(e.Labels) != 1 || e.Labels[store.ZoneLabel] != "z1" || !e.Expires.IsZero() {
		t.Errorf("%+v", e)
	}
	if e := all[1]; e.Name != "node-b" || e.Lease != nil || e.Err != nil || e.Subnets.IPv4.String() != "10.244.2.0/24" {
		t.Errorf("%+v", e)
	}
}
