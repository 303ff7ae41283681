package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/storetest"
)

// serviceHarness is etcd as the suite of ServiceSource sees it.
type serviceHarness struct {
	*harness
	writer *Store
}

func newServiceHarness(t testing.TB) *serviceHarness {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	return &serviceHarness{h, h.open()}
}

func (h *serviceHarness) Source() store.ServiceSource { return h.open() }

func (h *serviceHarness) apply(d manifest.Document) {
	h.t.Helper()
	h.eventually("it is applied", func() bool { // after a restart, the writer may have to connect again
		_, _, err := h.writer.Apply(h.ctx(), d)
		return err == nil
	})
}

func (h *serviceHarness) PutService(svc *corev1.Service) {
	h.t.Helper()
	h.apply(manifest.Document{Kind: manifest.KindService, Name: nameOf(svc), Service: svc})
}

func (h *serviceHarness) PutSlice(slice *discoveryv1.EndpointSlice) {
	h.t.Helper()
	h.apply(manifest.Document{Kind: manifest.KindEndpointSlice, Name: nameOf(slice), Slices: []*discoveryv1.EndpointSlice{slice}})
}

func (h *serviceHarness) DeleteService(name string) {
	h.t.Helper()
	h.must(h.writer.Delete(h.ctx(), manifest.KindService, inDefault(name)))
}

func (h *serviceHarness) DeleteSlice(name string) {
	h.t.Helper()
	h.must(h.writer.Delete(h.ctx(), manifest.KindEndpointSlice, inDefault(name)))
}

func inDefault(name string) store.ObjectName {
	return store.ObjectName{Namespace: "default", Name: name}
}

func TestServicesContract(t *testing.T) {
	storetest.RunServices(t, func(t *testing.T) storetest.ServiceHarness { return newServiceHarness(t) })
}

// testPod returns a ready pod with the label app=web.
func testPod(name, node, addr string) *store.Pod {
	return &store.Pod{Name: inDefault(name), Node: node, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Labels: map[string]string{"app": "web"}, Ready: true}
}

// publish runs the publisher of a node until the returned function is called.
func (h *harness) publish(s *Store, node string) (p *PodPublisher, stop func()) {
	h.t.Helper()
	p, err := s.Pods(node)
	h.must(err)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(ended); _ = p.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	h.t.Cleanup(stop)
	return p, stop
}

func selecting(name string) *corev1.Service {
	svc := storetest.TestService(name, 80)
	svc.Spec.Selector = map[string]string{"app": "web"}
	return svc
}

// endpointsIn returns the addresses of all endpoints, sorted by slice.
func endpointsIn(v *storetest.View) string {
	var all []string
	for _, s := range v.Slices {
		for _, e := range s.Endpoints {
			all = append(all, e.Addr.String()+"@"+e.Node)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestPodsBehindServices(t *testing.T) {
	h := newServiceHarness(t)
	h.PutService(selecting("web"))
	v := storetest.WatchServices(t, h.Source())
	expect := func(want string) {
		t.Helper()
		v.Until("endpoints "+want, func() bool { return endpointsIn(v) == want })
	}
	expect("")
	s := h.open()
	one, stop := h.publish(s, "n1")
	two, _ := h.publish(h.open(), "n2")
	one.Publish([]*store.Pod{testPod("a", "n1", "10.244.1.2"), testPod("b", "n1", "10.244.1.3")})
	two.Publish([]*store.Pod{testPod("a", "n2", "10.244.2.2")})
	expect("10.244.1.2@n1 10.244.1.3@n1 10.244.2.2@n2")
	one.Publish([]*store.Pod{testPod("b", "n1", "10.244.1.3")})
	expect("10.244.1.3@n1 10.244.2.2@n2")

	// Somebody deletes a record: the publisher puts it back with its next look, here because pods are published again.
	h.delete("registry/pods/n1/default/b")
	expect("10.244.2.2@n2")
	one.Publish([]*store.Pod{testPod("b", "n1", "10.244.1.3")})
	expect("10.244.1.3@n1 10.244.2.2@n2")

	// A restarted daemon goes on with the lease and writes nothing.
	stop()
	before, err := h.client.Get(h.ctx(), DefaultPrefix+"/registry/pods/n1/default/b")
	h.must(err)
	again, _ := h.publish(h.open(), "n1")
	again.Publish([]*store.Pod{testPod("b", "n1", "10.244.1.3"), testPod("c", "n1", "10.244.1.4")})
	expect("10.244.1.3@n1 10.244.1.4@n1 10.244.2.2@n2")
	after, err := h.client.Get(h.ctx(), DefaultPrefix+"/registry/pods/n1/default/b")
	h.must(err)
	if before.Kvs[0].ModRevision != after.Kvs[0].ModRevision || after.Kvs[0].Lease == 0 {
		t.Error("a restarted publisher wrote a record that was right")
	}
	again.Publish(nil)
	expect("10.244.2.2@n2")
	h.DeleteService("web")
	v.Until("no slices", func() bool { return len(v.Slices) == 0 })
}

// The pods of a node that is dead vanish with its lease; those that are alive are put back under a new one when it is lost.
func TestPodLease(t *testing.T) {
	h := newServiceHarness(t)
	h.PutService(selecting("web"))
	v := storetest.WatchServices(t, h.Source())
	h.config = func(c *Config) { c.PodTTL = time.Second }
	p, stop := h.publish(h.open(), "n1")
	p.Publish([]*store.Pod{testPod("a", "n1", "10.244.1.2")})
	v.Until("an endpoint", func() bool { return endpointsIn(v) != "" })
	resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/registry/pods/n1/default/a")
	h.must(err)
	_, err = h.client.Revoke(h.ctx(), clientv3.LeaseID(resp.Kvs[0].Lease))
	h.must(err)
	v.Until("no endpoint", func() bool { return endpointsIn(v) == "" })
	v.Until("the endpoint is back", func() bool { return endpointsIn(v) != "" })
	stop()
	v.Until("the dead node's pod is gone", func() bool { return endpointsIn(v) == "" })
}

// An etcd that lost everything takes no endpoint from a Service while daemons publish again; what nobody restores is gone in the end.
func TestServicesWiped(t *testing.T) {
	h := newServiceHarness(t)
	for i := range 20 { // revisions that the new history does not reach
		h.PutService(storetest.TestService("x", int32(1+i)))
	}
	h.PutService(selecting("web"))
	p, _ := h.publish(h.open(), "n1")
	p.Publish([]*store.Pod{testPod("a", "n1", "10.244.1.2")})
	s := h.open()
	v := storetest.WatchServices(t, s)
	v.Until("all", func() bool { return len(v.Services) == 2 && endpointsIn(v) == "10.244.1.2@n1" })
	h.eventually("health", func() bool { return s.Health() == nil })
	told := v.Told
	h.Wipe(storetest.Config4)
	web := selecting("web")
	h.PutService(web)
	v.Until("what nobody restored is gone", func() bool {
		if endpointsIn(v) != "10.244.1.2@n1" {
			t.Errorf("after %d changes, endpoints are %q", v.Told-told, endpointsIn(v))
		}
		return len(v.Services) == 1
	})
}

func TestServiceGarbage(t *testing.T) {
	h := newServiceHarness(t)
	h.PutService(storetest.TestService("a", 80))
	h.put("registry/services/default/bad", "{")
	h.put("registry/pods/n1/default/bad", "7")
	h.put("registry/later/thing", "7")
	v := storetest.WatchServices(t, h.Source())
	v.Until("a", func() bool { return len(v.Services) == 1 })
	if len(v.Rejected) != 2 || v.Rejected[0].Key != "pods/n1/default/bad" || v.Rejected[1].Key != "services/default/bad" {
		t.Errorf("rejected: %v", v.Rejected)
	}
	h.put("registry/services/default/a", `{"metadata":{"name":"b"}}`)
	h.put("registry/endpointslices/x", `{}`)
	v.Until("four are rejected", func() bool { return len(v.Rejected) == 4 })
	if len(v.Services) != 1 {
		t.Error("garbage took a Service away: the last good one has to stay")
	}
	h.PutService(storetest.TestService("c", 80))
	v.Until("c", func() bool { return len(v.Services) == 2 })
	h.delete("registry/services/default/a")
	v.Until("a is gone", func() bool { return len(v.Services) == 1 })
}

func TestServiceNetworks(t *testing.T) {
	h := newServiceHarness(t)
	v := storetest.WatchServices(t, h.Source())
	networks := func(want string) {
		t.Helper()
		v.Until("networks "+want, func() bool { return fmt.Sprint(v.Networks) == want })
	}
	networks("[10.96.0.0/16]")
	h.put("registry/config", `{"serviceNetworks":["10.97.0.0/24"]}`)
	networks("[10.97.0.0/24]")
	h.put("registry/config", `{"serviceNetworks":["10.244.0.0/24"]}`) // the pods'
	v.Until("it is rejected", func() bool { return len(v.Rejected) == 1 })
	if fmt.Sprint(v.Networks) != "[10.97.0.0/24]" || !strings.Contains(v.Rejected[0].Err.Error(), "overlaps the pod network") {
		t.Errorf("networks %v, rejected %v", v.Networks, v.Rejected)
	}
	h.delete("registry/config")
	networks("[10.96.0.0/16]")

	h.SetNetwork(`{"Network":"10.0.0.0/8"}`)
	w := storetest.WatchServices(t, h.Source())
	w.Until("the defaults are rejected", func() bool { return len(w.Rejected) == 1 })
	if w.Networks == nil || len(w.Networks) > 0 {
		t.Errorf("networks %v, want none: they may be pods' addresses", w.Networks)
	}
}

// Nothing is told before the pods' network is known: what is a Service's address cannot be told from what is a pod's.
func TestServicesWaitForNetwork(t *testing.T) {
	h := newServiceHarness(t)
	h.delete("config")
	s := h.open()
	v := storetest.WatchServices(t, s)
	h.eventually("health", func() bool { return s.Health() == nil })
	if !v.Still() {
		t.Error("something was told")
	}
	h.SetNetwork(storetest.Config4)
	v.Until("the networks", func() bool { return len(v.Networks) == 1 })
	h.SetNetwork("{")
	h.Stop()
	h.Start()
	h.SetNetwork("{")
	h.Compact()
	h.put("registry/config", `{"serviceNetworks":["10.97.0.0/24"]}`)
	v.Until("another network", func() bool { return fmt.Sprint(v.Networks) == "[10.97.0.0/24]" })
}

// BenchmarkFirstServices10000 measures the time from Open to the first reset of 10,000 Services with a slice of five endpoints each.
func BenchmarkFirstServices10000(b *testing.B) {
	h := newServiceHarness(b)
	const n = 10000
	h.fillServices(n)
	for b.Loop() {
		s := h.open()
		changes := make(chan store.ServiceChanges, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { _ = s.WatchServices(ctx, func(c store.ServiceChanges) { changes <- c }) }()
		if c := <-changes; len(c.Services) != n || len(c.Slices) != n {
			b.Fatalf("%d services, %d slices", len(c.Services), len(c.Slices))
		}
		cancel()
	}
}

// BenchmarkPodAmong10000Services measures a pod's way from its publication to the change that a node is told.
func BenchmarkPodAmong10000Services(b *testing.B) {
	h := newServiceHarness(b)
	h.fillServices(10000)
	h.PutService(selecting("web"))
	changes := make(chan store.ServiceChanges, 10)
	s := h.open()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = s.WatchServices(ctx, func(c store.ServiceChanges) { changes <- c }) }()
	<-changes
	p, _ := h.publish(h.open(), "n1")
	i := 0
	for b.Loop() {
		i++
		p.Publish([]*store.Pod{testPod("a", "n1", fmt.Sprintf("10.244.1.%d", 2+i%2))})
		<-changes
	}
}

// fillServices writes objects past Apply, in large transactions.
func (h *serviceHarness) fillServices(n int) {
	h.t.Helper()
	var ops []clientv3.Op
	flush := func() {
		_, err := h.client.Txn(h.ctx()).Then(ops...).Commit()
		h.must(err)
		ops = nil
	}
	for i := range n {
		svc := storetest.TestService(fmt.Sprint("s", i), 80)
		addr := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs, svc.Spec.IPFamilies = addr, []string{addr}, []corev1.IPFamily{corev1.IPv4Protocol}
		var addrs []string
		for e := range 5 {
			addrs = append(addrs, fmt.Sprintf("10.244.%d.%d", e*40+i>>8, i&255))
		}
		for key, object := range map[string]any{h.writer.serviceKey(nameOf(svc)): svc, h.writer.sliceKey(inDefault(fmt.Sprint("s", i, "-1"))): storetest.TestSlice(fmt.Sprint("s", i, "-1"), svc.Name, addrs...)} {
			value, err := manifest.Encode(object)
			h.must(err)
			ops = append(ops, clientv3.OpPut(key, string(value)))
		}
		if len(ops) >= 100 {
			flush()
		}
	}
	if len(ops) > 0 {
		flush()
	}
}
