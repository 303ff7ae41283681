package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// webService has the endpoint y/b alone, which is on node2 and whose port web is TCP 81.
const webService = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: y}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {nth: "2"}
  ports:
  - {name: tcp, protocol: TCP, port: 8080, targetPort: 80, nodePort: 30080}
  - {name: udp, protocol: UDP, port: 8080, targetPort: 80, nodePort: 30080}
  - {name: by-name, protocol: TCP, port: 8081, targetPort: web}
`

// twillctl runs the operator's tool in the underlay's namespace, where etcd answers.
func (r *rig) twillctl(t testing.TB, args ...string) string {
	t.Helper()
	args = append(args, "--etcd-endpoints", r.lab.Etcd().Endpoints()[0])
	out, err := lab.Command(t.Context(), r.lab.Underlay(), filepath.Join(binDir, "twillctl"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("twillctl %q: %v: %s", args, err, out)
	}
	return string(out)
}

// applyManifests stores manifests with the operator's tool.
func (r *rig) applyManifests(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return r.twillctl(t, "apply", "-f", file)
}

// TestThroughServices has policies see connections as they are once a Service's endpoint was chosen: ports are those of the endpoint, and so are addresses.
func TestThroughServices(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2, proxy: "nftables"})
	pods := map[string]*pod{}
	for _, p := range r.addPods(t, modelPods(2)) {
		pods[p.name] = p
	}
	outside := newProber(t, "outside", r.lab.Underlay())
	var nodes []*prober
	for _, n := range r.lab.Nodes() {
		nodes = append(nodes, newProber(t, n.Name, n.Netns()))
	}
	r.applyManifests(t, webService)
	cluster := r.clusterIPs(t)

	clusterIP := func(from *prober, allowed bool) []expected { return ports(from, cluster, 8080, allowed) }
	nodePort := func(from *prober, node int, allowed bool) []expected {
		return ports(from, r.node(node).Addrs(), 30080, allowed)
	}
	byName := func(from *prober, allowed bool) []expected {
		return slices.DeleteFunc(ports(from, cluster, 8081, allowed), func(e expected) bool { return e.service.Protocol != store.TCP })
	}
	web := []store.PolicyPort{{Protocol: store.TCP, Name: "web"}}
	tcp := func(port uint16) []store.PolicyPort {
		return []store.PolicyPort{{Protocol: store.TCP, Port: port}, {Protocol: store.UDP, Port: port}}
	}
	in := func(rules ...store.PolicyRule) *store.NetworkPolicy {
		return &store.NetworkPolicy{Name: store.ObjectName{Namespace: "y", Name: "in"}, IsolatesIngress: true, Ingress: rules}
	}
	out := func(rules ...store.PolicyRule) *store.NetworkPolicy {
		return &store.NetworkPolicy{Name: store.ObjectName{Namespace: "x", Name: "out"}, IsolatesEgress: true, Egress: rules}
	}
	block := func(text string) store.PolicyPeer { return store.PolicyPeer{Block: netip.MustParsePrefix(text)} }
	namespaceY := labelled("nth", "2")
	toY := []store.PolicyPeer{{Namespaces: &namespaceY}}
	underlay := []store.PolicyPeer{block("172.30.0.1/32"), block("fd00:30::1/128")}
	allNodes := []store.PolicyPeer{block("172.30.1.0/24"), block("fd00:30::1:0/112"), block("10.70.0.0/16"), block("fd70::/48")}

	x, z := pods["x/a"].prober, pods["z/b"].prober // on the other node than y/b, and on its own
	self := pods["y/b"].prober
	for _, c := range []struct {
		name     string
		policies []*store.NetworkPolicy
		expect   []expected
	}{
		{"no policies", nil, all(clusterIP(x, true), clusterIP(z, true), nodePort(outside, 1, true), nodePort(outside, 2, true), nodePort(x, 2, true), clusterIP(nodes[0], true), clusterIP(nodes[1], true), clusterIP(self, true), byName(x, true), byName(z, true))},
		{"closed, but for itself", []*store.NetworkPolicy{closes(named("y", "both", ""), true, true)}, all(clusterIP(x, false), clusterIP(self, true))},
		{"closed", []*store.NetworkPolicy{in()}, all(clusterIP(self, true), clusterIP(x, false), clusterIP(z, false), nodePort(outside, 1, false), nodePort(outside, 2, false), clusterIP(nodes[0], false), clusterIP(nodes[1], true))},
		{"the target port is open", []*store.NetworkPolicy{in(store.PolicyRule{Ports: tcp(80)})},
			all(clusterIP(x, true), clusterIP(z, true), nodePort(outside, 1, true), nodePort(outside, 2, true), byName(x, false))},
		{"a port by name is open", []*store.NetworkPolicy{in(store.PolicyRule{Ports: web})}, all(byName(x, true), byName(z, true), clusterIP(x, false))},
		{"egress to a port by name", []*store.NetworkPolicy{out(store.PolicyRule{Peers: toY, Ports: web})}, all(byName(x, true), clusterIP(x, false))},
		{"the Service's ports are open", []*store.NetworkPolicy{in(store.PolicyRule{Ports: append(tcp(8080), tcp(30080)...)})},
			all(clusterIP(x, false), clusterIP(z, false), nodePort(outside, 1, false), nodePort(outside, 2, false))},
		{"open to the world, where the world is seen", []*store.NetworkPolicy{in(store.PolicyRule{Peers: underlay})},
			all(clusterIP(x, false), nodePort(outside, 2, true), nodePort(outside, 1, false))},
		{"open to the nodes, behind which the world is", []*store.NetworkPolicy{in(store.PolicyRule{Peers: allNodes})},
			all(nodePort(outside, 1, true), nodePort(outside, 2, false))},
		{"egress to the endpoint's port", []*store.NetworkPolicy{out(store.PolicyRule{Peers: toY, Ports: tcp(80)})}, all(clusterIP(x, true))},
		{"egress to the Service's port", []*store.NetworkPolicy{out(store.PolicyRule{Peers: toY, Ports: tcp(8080)})}, all(clusterIP(x, false))},
		{"egress to the Service's address", []*store.NetworkPolicy{out(store.PolicyRule{Peers: []store.PolicyPeer{
			block(cluster[0].String() + "/32"), block(cluster[1].String() + "/128")}})}, all(clusterIP(x, false))},
		{"egress to the endpoint's address", []*store.NetworkPolicy{out(store.PolicyRule{Peers: []store.PolicyPeer{block("10.70.2.18/32"), block("fd70:0:0:2::12/128")}})},
			all(clusterIP(x, true))},
	} {
		r.apply(t, changesOf(policytest.Namespaces(), c.policies...))
		if c.policies == nil { // the Service comes over time
			within(t, patience, func() error {
				for _, e := range c.expect {
					if answer := one(e.question); !went(answer) {
						return fmt.Errorf("%v is %s", e.question, answer)
					}
				}
				return nil
			})
		}
		if failed := wrong(c.expect); failed != nil {
			t.Errorf("%s: %d of %d wrong: %q", c.name, len(failed), len(c.expect), failed)
		}
	}
}

// clusterIPs are the addresses of webService.
func (r *rig) clusterIPs(t testing.TB) []netip.Addr {
	t.Helper()
	answer, err := r.etcd.Get(t.Context(), registry+"services/y/web")
	must(t, err)
	var svc corev1.Service
	must(t, json.Unmarshal(answer.Kvs[0].Value, &svc))
	var addrs []netip.Addr
	for _, text := range svc.Spec.ClusterIPs {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// ports are questions to one port, of TCP and of UDP.
func ports(from *prober, to []netip.Addr, port uint16, allowed bool) []expected {
	var all []expected
	for _, a := range to {
		for _, protocol := range []store.Protocol{store.TCP, store.UDP} {
			all = append(all, expected{question{from, a, policytest.Service{Protocol: protocol, Port: port}}, allowed, ""})
		}
	}
	return all
}

func all(lists ...[]expected) []expected {
	var out []expected
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// TestOperatorsTool has policies come and go by twillctl alone.
func TestOperatorsTool(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := r.addPods(t, modelPods(2))
	pair := func(dst *pod, allowed bool) {
		t.Helper()
		within(t, patience, func() error {
			for _, a := range dst.record.Addrs {
				q := question{pods[0].prober, a, policytest.Service{Protocol: store.TCP, Port: 80}}
				if answer := ask([]question{q}, quick)[0]; went(answer) != allowed {
					return fmt.Errorf("%v is %s", q, answer)
				}
			}
			return nil
		})
	}
	text, err := policytest.Manifests(changesOf(policytest.Namespaces(), closes(named("y", "deny", ""), true, false)))
	must(t, err)
	if out := r.applyManifests(t, text); !strings.Contains(out, "networkpolicy y/deny created") {
		t.Errorf("twillctl apply says %q", out)
	}
	for _, p := range pods {
		pair(p, p.record.Name.Namespace != "y")
	}
	r.twillctl(t, "delete", "networkpolicy", "deny", "-n", "y")
	for _, p := range pods {
		pair(p, true)
	}
}
