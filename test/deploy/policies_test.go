package deploy

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

const policiesDir = deployDir + "/examples/policies"

// examplePods are the pods that the examples' comments speak of, by namespace/name.
var examplePods = makeExamplePods()

func makeExamplePods() map[string]*store.Pod {
	pods := map[string]*store.Pod{}
	for i, p := range []struct{ namespace, name, label, value string }{
		{"shop", "web", "app", "web"}, {"shop", "api", "app", "api"}, {"shop", "db", "app", "db"}, {"shop", "cron", "app", "cron"},
		{"kube-system", "dns", "k8s-app", "kube-dns"}, {"kube-system", "other", "app", "other"},
		{"a1", "one", "app", "one"}, {"a2", "two", "app", "two"}, {"monitoring", "prometheus", "app", "prometheus"},
	} {
		pods[p.namespace+"/"+p.name] = &store.Pod{
			Name: store.ObjectName{Namespace: p.namespace, Name: p.name}, Node: "node1",
			Labels: map[string]string{p.label: p.value}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i)})},
		}
	}
	return pods
}

// exampleWorld is a cluster with those pods and the policies of files.
func exampleWorld(t *testing.T, files ...string) *policy.World {
	t.Helper()
	all := store.PolicyChanges{
		Reset: true, Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: map[string]*store.ClusterNetworkPolicy{},
		Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{},
	}
	for _, p := range examplePods {
		all.Pods[p.Key()] = p
	}
	for _, name := range []string{"a1", "a2"} {
		all.Namespaces[name] = &store.Namespace{Name: name, Labels: map[string]string{store.NamespaceNameLabel: name, "team": "a"}}
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(policiesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		documents, err := manifest.Parse(text)
		if err != nil || len(documents) == 0 {
			t.Fatalf("%s: %d documents, %v", file, len(documents), err)
		}
		for _, d := range documents {
			switch {
			case d.NetworkPolicy != nil:
				p, err := manifest.FromNetworkPolicy(d.NetworkPolicy)
				if err != nil {
					t.Fatal(err)
				}
				all.Policies[p.Name] = p
			case d.ClusterPolicy != nil:
				p, err := manifest.FromClusterNetworkPolicy(d.ClusterPolicy)
				if err != nil {
					t.Fatal(err)
				}
				all.ClusterPolicies[p.Name] = p
			default:
				t.Fatalf("%s holds a %s", file, d.Kind)
			}
		}
	}
	w := policy.NewWorld()
	w.Apply(all)
	return w
}

// exampleFlow is a connection between pods, or an address. A port of UDP is negative.
type exampleFlow struct {
	from, to string
	port     int
}

func (f exampleFlow) flow(t *testing.T) policy.Flow {
	end := func(text string) netip.Addr {
		if p := examplePods[text]; p != nil {
			return p.Addrs[0]
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	flow := policy.Flow{Src: end(f.from), Dst: end(f.to), Protocol: store.TCP, Port: uint16(f.port)}
	if f.port < 0 {
		flow.Protocol, flow.Port = store.UDP, uint16(-f.port)
	}
	return flow
}

func TestExamplesOfPolicies(t *testing.T) {
	const outside, metadata = "198.51.100.1", "169.254.169.254"
	tests := []struct {
		name         string
		files        []string
		open, closed []exampleFlow
	}{
		{"default-deny", []string{"default-deny.yaml"},
			[]exampleFlow{{"kube-system/other", outside, 443}, {"a1/one", "kube-system/other", 80}},
			[]exampleFlow{{"shop/web", "shop/api", 8081}, {"shop/web", "kube-system/dns", -53}, {"shop/web", outside, 443}, {outside, "shop/web", 8080}, {"a1/one", "shop/db", 5432}}},
		{"allow-dns beside default-deny", []string{"default-deny.yaml", "allow-dns.yaml"},
			[]exampleFlow{{"shop/web", "kube-system/dns", -53}, {"shop/cron", "kube-system/dns", 53}},
			[]exampleFlow{{"shop/web", "kube-system/dns", 9153}, {"shop/web", "kube-system/other", -53}, {"shop/web", outside, 443}, {outside, "shop/web", 8080}}},
		{"allow-dns alone closes egress", []string{"allow-dns.yaml"},
			[]exampleFlow{{"shop/web", "kube-system/dns", -53}, {outside, "shop/web", 8080}},
			[]exampleFlow{{"shop/web", outside, 443}, {"shop/web", "shop/api", 8081}}},
		{"three tiers", []string{"default-deny.yaml", "allow-dns.yaml", "three-tier.yaml"},
			[]exampleFlow{{outside, "shop/web", 8080}, {"a1/one", "shop/web", 8080}, {"shop/web", "shop/api", 8081}, {"shop/api", "shop/db", 5432}, {"shop/db", "kube-system/dns", -53}},
			[]exampleFlow{{"shop/web", "shop/db", 5432}, {"shop/web", "shop/api", 80}, {"shop/api", "shop/web", 8080}, {"shop/cron", "shop/api", 8081}, {outside, "shop/api", 8081},
				{"shop/db", "shop/api", 8081}, {"a1/one", "shop/db", 5432}, {"shop/web", "shop/api", -8081}}},
		{"cluster-baseline", []string{"cluster-baseline.yaml"},
			[]exampleFlow{{"a1/one", "a2/two", 80}, {"monitoring/prometheus", "a1/one", 9090}, {outside, "a1/one", 80}, {"a1/one", "shop/web", 80}, {"shop/web", "kube-system/dns", -53}, {"shop/web", outside, 80}},
			[]exampleFlow{{"shop/web", "a1/one", 80}, {"kube-system/other", "a2/two", 80}, {"shop/web", metadata, 80}, {"a1/one", metadata, 80}}},
		{"cluster-baseline over the others", []string{"cluster-baseline.yaml", "default-deny.yaml"},
			[]exampleFlow{{"shop/web", "kube-system/dns", -53}, {"shop/web", "kube-system/dns", 53}},
			[]exampleFlow{{"shop/web", "shop/api", 8081}, {"shop/web", "kube-system/dns", 9153}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := exampleWorld(t, tt.files...)
			for i, flows := range [][]exampleFlow{tt.open, tt.closed} {
				for _, f := range flows {
					if v := w.Decide(f.flow(t)); v.Allowed() != (i == 0) {
						t.Errorf("%v: %v; %v", f, v.Egress, v.Ingress)
					}
				}
			}
		})
	}
}

func TestEveryExampleOfPoliciesIsTested(t *testing.T) {
	files, err := filepath.Glob(policiesDir + "/*.yaml")
	if err != nil || len(files) != 4 {
		t.Errorf("%v, %v: add the new one to TestExamplesOfPolicies", files, err)
	}
}
