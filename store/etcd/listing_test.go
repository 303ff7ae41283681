package etcd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/twill-cni/twill/store"
)

// A lease is listed with its time, and with the name that its data, or a pod of the node, tells.
func TestListNodes(t *testing.T) {
	h := newHarness(t, nil)
	granted, err := h.client.Grant(h.ctx(), 600)
	h.must(err)
	h.put("subnets/10.5.1.0-24", `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"6e:9a:31:5c:00:01"}}`, clientv3.WithLease(granted.ID))
	h.put("subnets/10.5.2.0-24", `{"PublicIP":"192.0.2.2","BackendType":"bgp","BackendData":{"AS":64512,"Node":"routed","RouterID":"192.0.2.2"}}`)
	h.put("subnets/10.5.3.0-24", `{"PublicIP":"192.0.2.3","BackendType":"vxlan","BackendData":{}}`)
	h.put("subnets/10.5.4.0-24", `no JSON`)
	h.put("subnets/neither", `{}`)
	h.put("registry/pods/bare/ns/strange", `no JSON`)
	h.put("registry/pods/node-1/ns/a", `{"addresses":["10.5.1.2"],"ready":true}`)
	h.put("registry/pods/node-1/ns/b", `{"addresses":["10.5.3.2"],"ready":true}`) // of a node, one pod is looked at
	h.put("registry/pods/node-1-longer/ns/a", `{"addresses":["10.5.9.2"],"ready":true}`)
	h.put("nodes/node-1", `{"labels":{"`+store.ZoneLabel+`":"z1"}}`)
	h.put("nodes/routed", `no JSON`)

	all, err := h.open().ListNodes(t.Context(), store.WithExpiries)
	if err != nil || len(all) != 5 {
		t.Fatalf("%v: %+v", err, all)
	}
	by := map[string]store.NodeEntry{}
	for _, e := range all {
		by[e.Subnets.String()] = e
	}
	first := by["10.5.1.0/24"]
	if left := time.Until(first.Expires); first.Name != "node-1" || first.Labels[store.ZoneLabel] != "z1" || left < 300*time.Second || left > 600*time.Second || first.Err != nil {
		t.Errorf("%+v", first)
	}
	if e := by["10.5.2.0/24"]; e.Name != "routed" || !e.Expires.IsZero() || e.Lease == nil || e.Labels != nil {
		t.Errorf("%+v", e)
	}
	if e := by["10.5.3.0/24"]; e.Name != "" || e.Lease == nil {
		t.Errorf("%+v", e)
	}
	if e := by["10.5.4.0/24"]; e.Err == nil || e.Lease != nil {
		t.Errorf("%+v", e)
	}
	h.cut()
	if _, err := h.open().ListNodes(t.Context(), store.WithExpiries); err == nil {
		t.Error("no error while etcd is away")
	}
}

// With many nodes, etcd is asked few times for their names, and for the leases' times only if these are wanted.
func TestListNodesAsksSeldom(t *testing.T) {
	const nodes = maxTxn + 72 // so that one request is not enough
	var asked atomic.Int64
	h := newHarness(t, func(h *harness) {
		h.prepare = func(c *embed.Config) {
			c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				asked.Add(1)
				return next(ctx, req)
			})}
		}
	})
	granted, err := h.client.Grant(h.ctx(), 600)
	h.must(err)
	for n := range nodes {
		h.put(fmt.Sprintf("subnets/10.6.%d.0-24", n), `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{}}`, clientv3.WithLease(granted.ID))
		h.put(fmt.Sprintf("registry/pods/node-%d/ns/a", n), fmt.Sprintf(`{"addresses":["10.6.%d.2"],"ready":true}`, n))
	}
	s := h.open()
	for _, tt := range []struct {
		what        store.NodeDetail
		least, most int64
	}{{store.WithNames, 1, 20}, {store.WithExpiries, nodes, nodes + 20}} {
		asked.Store(0)
		all, err := s.ListNodes(t.Context(), tt.what)
		if err != nil || len(all) != nodes {
			t.Fatalf("%v: %d", err, len(all))
		}
		if n := asked.Load(); n < tt.least || n > tt.most {
			t.Errorf("detail %d: %d requests", tt.what, n)
		}
		for _, e := range all {
			if want := fmt.Sprintf("node-%d", e.Subnets.IPv4.Addr().As4()[2]); e.Name != want || e.Expires.IsZero() != (tt.what == store.WithNames) {
				t.Errorf("%s is %q, expires %s", e.Subnets, e.Name, e.Expires)
			}
		}
	}
}
