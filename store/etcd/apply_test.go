package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/store/storetest"
)

// document reads one document.
func document(t testing.TB, text string) manifest.Document {
	t.Helper()
	docs, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return docs[0]
}

// spec is a Service with that spec, in YAML's flow style.
func spec(t testing.TB, name, text string) manifest.Document {
	t.Helper()
	return document(t, "{apiVersion: v1, kind: Service, metadata: {name: "+name+"}, spec: "+text+"}")
}

// consistent checks that what is allocated is what Services say, each with one owner.
func (h *harness) consistent() {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/registry/services/", clientv3.WithPrefix())
	h.must(err)
	want := map[string]string{}
	for _, kv := range resp.Kvs {
		name, err := parseObjectName(strings.TrimPrefix(string(kv.Key), DefaultPrefix+"/registry/services/"))
		h.must(err)
		svc, err := manifest.DecodeService(name, kv.Value)
		h.must(err)
		for claim := range claimsOf(svc) {
			if other, twice := want[claim]; twice {
				h.t.Errorf("%s is both %s's and %s's", claim, other, name)
			}
			want[claim] = name.String()
		}
	}
	if diff := cmp.Diff(want, h.claims()); diff != "" {
		h.t.Errorf("allocations are not those of the Services: %s", diff)
	}
}

func (h *harness) claims() map[string]string {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/allocations/", clientv3.WithPrefix())
	h.must(err)
	claims := map[string]string{}
	for _, kv := range resp.Kvs {
		claims[strings.TrimPrefix(string(kv.Key), DefaultPrefix+"/allocations/")] = string(kv.Value)
	}
	return claims
}

func TestApply(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.ConfigDual)
	s := h.open()
	apply := func(d manifest.Document, want Outcome) *corev1.Service {
		t.Helper()
		outcome, svc, err := s.Apply(h.ctx(), d)
		h.must(err)
		if outcome != want {
			t.Errorf("%s is %s, want %s", d.Name, outcome, want)
		}
		h.consistent()
		return svc
	}
	web := apply(spec(t, "web", "{ports: [{port: 80}]}"), Created)
	addr := netip.MustParseAddr(web.Spec.ClusterIP)
	if !netip.MustParsePrefix("10.96.0.0/16").Contains(addr) || addr.As4()[2] == 0 && addr.As4()[3] == 0 {
		t.Errorf("have address %s", addr)
	}
	apply(spec(t, "web", "{ports: [{port: 80}]}"), Unchanged)
	again := apply(spec(t, "web", "{type: NodePort, ports: [{name: a, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}"), Configured)
	ports := again.Spec.Ports
	if again.Spec.ClusterIP != web.Spec.ClusterIP || !again.CreationTimestamp.Equal(&web.CreationTimestamp) || ports[0].NodePort == 0 ||
		ports[1].NodePort != ports[2].NodePort || ports[1].NodePort == ports[0].NodePort {
		t.Errorf("have %+v", again)
	}
	kept := apply(spec(t, "web", "{type: NodePort, ports: [{name: a, port: 80}]}"), Configured)
	if kept.Spec.Ports[0].NodePort != ports[0].NodePort {
		t.Error("a node port changed without need")
	}
	if apply(spec(t, "web", "{ports: [{name: a, port: 80}]}"), Configured); len(h.claims()) != 1 {
		t.Errorf("node ports were not freed: %v", h.claims())
	}
	dual := apply(spec(t, "web", "{ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}"), Configured)
	if len(dual.Spec.ClusterIPs) != 2 || dual.Spec.ClusterIP != web.Spec.ClusterIP {
		t.Errorf("have %v", dual.Spec.ClusterIPs)
	}
	lb := apply(spec(t, "lb", "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}"), Created)
	if lb.Spec.HealthCheckNodePort == 0 || lb.Spec.HealthCheckNodePort == lb.Spec.Ports[0].NodePort {
		t.Errorf("have %+v", lb.Spec)
	}
	if lb = apply(spec(t, "lb", "{type: LoadBalancer, ports: [{port: 80}]}"), Configured); lb.Spec.HealthCheckNodePort != 0 {
		t.Error("the health check's port was not freed")
	}
	apply(spec(t, "headless", "{clusterIP: None, selector: {a: b}}"), Created)
	apply(spec(t, "name", "{type: ExternalName, externalName: db.example.com}"), Created)
	apply(spec(t, "name", "{ports: [{port: 1}]}"), Configured)
	moved := apply(spec(t, "name", "{clusterIP: 10.96.0.77, ports: [{port: 1}]}"), Configured)
	if moved.Spec.ClusterIP != "10.96.0.77" {
		t.Error("a given address was not honoured")
	}
	for _, name := range []string{"web", "lb", "headless", "name"} {
		h.must(s.Delete(h.ctx(), manifest.KindService, inDefault(name)))
		h.consistent()
	}
	if err := s.Delete(h.ctx(), manifest.KindService, inDefault("web")); !errors.Is(err, ErrNotFound) {
		t.Errorf("have %v", err)
	}
	if left := h.claims(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestApplyRefuses(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	_, _, err := s.Apply(h.ctx(), spec(t, "first", "{type: NodePort, clusterIP: 10.96.0.5, ports: [{port: 80, nodePort: 30080}]}"))
	h.must(err)
	before := h.claims()
	tests := []struct{ name, spec, want string }{
		{"address taken", "{clusterIP: 10.96.0.5, ports: [{port: 80}]}", "service default/x: spec.clusterIPs[0]: 10.96.0.5 is already that of service default/first"},
		{"node port taken", "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}", "spec.ports[0].nodePort: 30080 is already that of service default/first"},
		{"address out of range", "{clusterIP: 10.97.0.5, ports: [{port: 80}]}", "spec.clusterIPs[0]: 10.97.0.5 is no address of the Service networks [10.96.0.0/16]"},
		{"the network's own address", "{clusterIP: 10.96.0.0, ports: [{port: 80}]}", "10.96.0.0 is no address"},
		{"the broadcast address", "{clusterIP: 10.96.255.255, ports: [{port: 80}]}", "10.96.255.255 is no address"},
		{"node port out of range", "{type: NodePort, ports: [{port: 80, nodePort: 80}]}", "spec.ports[0].nodePort: 80 is not in the node port range 30000-32767"},
		{"a family that is not there", "{ipFamilies: [IPv6], ports: [{port: 80}]}", "spec.ipFamilies[0]: Invalid value"},
		{"dual stack that is not there", "{ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}", "spec.ipFamilyPolicy: Invalid value"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := s.Apply(h.ctx(), spec(t, "x", test.spec))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("have %v, want an error with %q", err, test.want)
			}
			if diff := cmp.Diff(before, h.claims()); diff != "" {
				t.Error(diff)
			}
		})
	}
	h.SetNetwork(`{"Network":"10.0.0.0/8"}`)
	if _, _, err := s.Apply(h.ctx(), spec(t, "x", "{ports: [{port: 80}]}")); err == nil || !strings.Contains(err.Error(), "10.96.0.0/16 overlaps the pod network 10.0.0.0/8") {
		t.Errorf("have %v", err)
	}
}

// 50 writers at once get 50 addresses and node ports from ranges that have no more; the next is told that they are full.
func TestConcurrentApplies(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	const n = 50
	h.put("registry/config", `{"serviceNetworks":["10.96.0.0/26"],"nodePorts":"30000-30049"}`) // 62 addresses, 50 ports
	stores := []*Store{h.open(), h.open(), h.open(), h.open()}
	var writers sync.WaitGroup
	for i := range n {
		writers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, _, err := stores[i%len(stores)].Apply(ctx, spec(t, fmt.Sprint("s", i), "{type: NodePort, ports: [{port: 80}]}")); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	h.consistent()
	if len(h.claims()) != 2*n {
		t.Errorf("%d allocations, want %d", len(h.claims()), 2*n)
	}
	_, _, err := stores[0].Apply(h.ctx(), spec(t, "x", "{type: NodePort, ports: [{port: 80}]}"))
	if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "node ports: node port range 30000-30049: all are allocated: 50 of 50") {
		t.Errorf("have %v", err)
	}
	for i := range 12 {
		_, _, err = stores[0].Apply(h.ctx(), spec(t, fmt.Sprint("t", i), "{ports: [{port: 80}]}"))
		h.must(err)
	}
	_, _, err = stores[0].Apply(h.ctx(), spec(t, "x", "{ports: [{port: 80}]}"))
	if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "spec.clusterIPs: Service network 10.96.0.0/26: all are allocated: 62 of 62") {
		t.Errorf("have %v", err)
	}
	h.must(stores[1].Delete(h.ctx(), manifest.KindService, inDefault("t3")))
	_, _, err = stores[0].Apply(h.ctx(), spec(t, "x", "{ports: [{port: 80}]}"))
	h.must(err)
	h.consistent()
}

// Many writers of one Service: one state wins as a whole, and nothing is left of the others.
func TestConcurrentWritersOfOneService(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	specs := []string{"{ports: [{port: 80}]}", "{type: NodePort, ports: [{port: 80}]}", "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}", ""}
	var writers sync.WaitGroup
	for i := range 40 {
		writers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			text := specs[i%len(specs)]
			if text == "" {
				if err := s.Delete(ctx, manifest.KindService, inDefault("x")); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				return
			}
			if _, _, err := s.Apply(ctx, spec(t, "x", text)); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	h.consistent()
}

const writerVariable = "TWILL_TEST_WRITER" // the endpoint, in a process that only writes

// A writer that is killed leaves no address without a Service and no Service without its address.
func TestKilledWriter(t *testing.T) {
	if endpoint := os.Getenv(writerVariable); endpoint != "" {
		writeForEver(t, endpoint)
		return
	}
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledWriter$")
		cmd.Env = append(os.Environ(), writerVariable+"=http://"+h.proxy.addr)
		h.must(cmd.Start())
		before := len(h.claims())
		h.eventually("it writes", func() bool { return len(h.claims()) != before })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		h.consistent()
	}
}

func writeForEver(t *testing.T, endpoint string) {
	s, err := Open(Config{Endpoints: []string{endpoint}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		name := fmt.Sprint("s", i%7)
		if i%3 == 2 {
			_ = s.Delete(t.Context(), manifest.KindService, inDefault(name))
			continue
		}
		_, _, _ = s.Apply(t.Context(), spec(t, name, []string{"{type: NodePort, ports: [{port: 80}]}", "{ports: [{port: 80}]}"}[i%2]))
	}
}

// A connection that is cut while a request is under way leaves it done or not done; done again, it is what it should be.
func TestApplyWhileEtcdGoesAway(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	for i := range 20 {
		done := make(chan error, 1)
		go func() {
			_, _, err := s.Apply(h.ctx(), spec(t, fmt.Sprint("s", i), "{type: NodePort, ports: [{port: 80}]}"))
			done <- err
		}()
		h.cut()
		<-done
		h.mend()
		h.consistent()
		h.eventually("it is applied", func() bool {
			_, _, err := s.Apply(h.ctx(), spec(t, fmt.Sprint("s", i), "{type: NodePort, ports: [{port: 80}]}"))
			return err == nil
		})
		h.consistent()
	}
}

func TestApplySlices(t *testing.T) {
	h := newHarness(t, nil)
	s := h.open()
	endpoints := func(subsets string) manifest.Document {
		return document(t, "{apiVersion: v1, kind: Endpoints, metadata: {name: db}, subsets: "+subsets+"}")
	}
	slice := "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-ipv4-0-7, labels: {kubernetes.io/service-name: db}}, addressType: IPv4}"
	for _, step := range []struct {
		d    manifest.Document
		want Outcome
		have string
	}{
		{document(t, slice), Created, "db-ipv4-0-7"}, // by hand, with a name like those of Endpoints
		{document(t, slice), Unchanged, "db-ipv4-0-7"},
		{endpoints("[{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 1}]}]"), Created, "db-ipv4-0-0 db-ipv4-0-7 db-ipv6-0-0"},
		{endpoints("[{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 1}]}]"), Unchanged, "db-ipv4-0-0 db-ipv4-0-7 db-ipv6-0-0"},
		{endpoints("[{addresses: [{ip: 'fd00::2'}], ports: [{port: 1}]}]"), Configured, "db-ipv4-0-7 db-ipv6-0-0"},
		{endpoints("[]"), Configured, "db-ipv4-0-7"},
	} {
		outcome, _, err := s.Apply(h.ctx(), step.d)
		h.must(err)
		r, err := s.Registry(h.ctx())
		h.must(err)
		var names []string
		for _, slice := range r.Slices {
			names = append(names, slice.Name)
		}
		if outcome != step.want || strings.Join(names, " ") != step.have {
			t.Errorf("%s, slices %v; want %s, %s", outcome, names, step.want, step.have)
		}
	}
	_, _, err := s.Apply(h.ctx(), endpoints("[{addresses: [{ip: 10.0.0.1}]}]"))
	h.must(err)
	h.must(s.Delete(h.ctx(), manifest.KindEndpoints, inDefault("db")))
	h.must(s.Delete(h.ctx(), manifest.KindEndpointSlice, inDefault("db-ipv4-0-7")))
	if err := s.Delete(h.ctx(), manifest.KindEndpoints, inDefault("db")); !errors.Is(err, ErrNotFound) {
		t.Errorf("have %v", err)
	}
}

// What is not a claim of the Service's own is not freed with it, though it says so.
func TestForeignClaimStays(t *testing.T) {
	h := newHarness(t, nil)
	h.SetNetwork(storetest.Config4)
	s := h.open()
	_, _, err := s.Apply(h.ctx(), spec(t, "first", "{clusterIP: 10.96.0.5, ports: [{port: 80}]}"))
	h.must(err)
	forged := spec(t, "forged", "{clusterIP: 10.96.0.5, ports: [{port: 80}]}").Service
	value, err := manifest.Encode(forged)
	h.must(err)
	h.put("registry/services/default/forged", string(value))
	h.must(s.Delete(h.ctx(), manifest.KindService, inDefault("forged")))
	h.consistent()
	h.put("registry/services/default/first", "{")
	if _, _, err := s.Apply(h.ctx(), spec(t, "first", "{ports: [{port: 80}]}")); err == nil || !strings.Contains(err.Error(), "delete it first") {
		t.Errorf("have %v", err)
	}
	h.must(s.Delete(h.ctx(), manifest.KindService, inDefault("first")))
	if left := h.claims(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestPools(t *testing.T) {
	for _, p := range []pool{addressPool(netip.MustParsePrefix("10.96.0.0/24")), addressPool(netip.MustParsePrefix("10.96.0.0/30")),
		addressPool(netip.MustParsePrefix("fd00:96::/112")), addressPool(netip.MustParsePrefix("fd00:96::/126")), addressPool(netip.MustParsePrefix("fd00::/64")),
		portPool(store.PortRange{First: 30000, Last: 32767}), portPool(store.PortRange{First: 65535, Last: 65535})} {
		t.Run(p.what, func(t *testing.T) {
			for _, n := range []uint64{0, p.band, p.size - 1} {
				if n >= p.size {
					continue
				}
				if back, ok := p.number(strings.TrimPrefix(p.key(n), p.folder)); !ok || back != n {
					t.Errorf("%d is %s, which is %d", n, p.key(n), back)
				}
			}
			taken := map[uint64]bool{}
			for i := range min(p.size, 5000) {
				n, err := p.choose(taken)
				if err != nil || n >= p.size || taken[n] || n < p.band && i < p.size-p.band {
					t.Fatalf("draw %d is %d, %v", i, n, err)
				}
				taken[n] = true
			}
			if _, err := p.choose(taken); p.size <= 5000 && !errors.Is(err, ErrExhausted) {
				t.Errorf("an exhausted pool: %v", err)
			}
		})
	}
	keys := slices.Sorted(maps.Keys(claimsOf(spec(t, "x", "{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 1, nodePort: 7}]}").Service)))
	if diff := cmp.Diff([]string{"clusterips/10.96.0.1", "nodeports/7"}, keys); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkApply is one new Service among 10,000.
func BenchmarkApply(b *testing.B) {
	h := newServiceHarness(b)
	h.fillServices(10000)
	i := 0
	for b.Loop() {
		i++
		if _, _, err := h.writer.Apply(h.ctx(), spec(b, fmt.Sprint("new", i), "{type: NodePort, ports: [{port: 80}]}")); err != nil {
			b.Fatal(err)
		}
	}
}
