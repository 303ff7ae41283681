package manifest

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
)

// selectorsEqual compares selectors by what they match.
var selectorsEqual = cmp.Comparer(func(a, b store.Selector) bool { return a.Equal(b) })

func label(key, value string) store.Selector {
	return store.NewSelector(store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
}

// netpol reads a NetworkPolicy shop/web whose spec is given in YAML's flow style.
func netpol(t testing.TB, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	return mustParse(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: "+spec+"}")[0].NetworkPolicy
}

// cnp reads a ClusterNetworkPolicy as the datastore does, which lets everything through.
func cnp(t testing.TB, spec string) *ClusterNetworkPolicy {
	t.Helper()
	p, err := DecodeClusterNetworkPolicy("web", []byte(`{"metadata": {"name": "web"}, "spec": `+spec+`}`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNetworkPolicy(t *testing.T) {
	name := store.ObjectName{Namespace: "shop", Name: "web"}
	all, web := store.Selector{}, label("app", "web")
	tests := []struct {
		name, spec string
		want       store.NetworkPolicy
	}{
		{"nothing isolates ingress of all", `{}`, store.NetworkPolicy{IsolatesIngress: true}},
		{"rules of egress isolate egress, too", `{egress: [{}]}`,
			store.NetworkPolicy{IsolatesIngress: true, IsolatesEgress: true, Egress: []store.PolicyRule{{}}}},
		{"no rules of egress do not", `{egress: []}`, store.NetworkPolicy{IsolatesIngress: true}},
		{"rules of a direction that is not isolated", `{policyTypes: [Egress], ingress: [{}], egress: [{}]}`,
			store.NetworkPolicy{IsolatesEgress: true, Egress: []store.PolicyRule{{}}}},
		{"both, without rules", `{policyTypes: [Egress, Ingress]}`, store.NetworkPolicy{IsolatesIngress: true, IsolatesEgress: true}},
		{"pods", `{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: NotIn, values: [b, a]}, {key: x, operator: Exists}, {key: y, operator: DoesNotExist}]}}`,
			store.NetworkPolicy{IsolatesIngress: true, Pods: store.NewSelector(store.Requirement{Key: "app", Operator: store.SelectorIn, Values: []string{"web"}},
				store.Requirement{Key: "tier", Operator: store.SelectorNotIn, Values: []string{"a", "b"}},
				store.Requirement{Key: "x", Operator: store.SelectorExists}, store.Requirement{Key: "y", Operator: store.SelectorDoesNotExist})}},
		{"peers", `{ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}, {podSelector: {}, namespaceSelector: {matchLabels: {app: web}}}]}]}`,
			store.NetworkPolicy{IsolatesIngress: true, Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{
				{Pods: &web}, {Namespaces: &all}, {Pods: &all, Namespaces: &web}}}}}},
		{"blocks", `{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.1/16, 10.0.0.0/9]}}, {ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}}]}]}`,
			store.NetworkPolicy{IsolatesEgress: true, Egress: []store.PolicyRule{{Peers: []store.PolicyPeer{
				{Block: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("10.0.0.0/9")}},
				{Block: netip.MustParsePrefix("2001:db8::/32"), Except: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}}}}}}},
		{"ports", `{ingress: [{ports: [{port: 80}, {port: http}, {protocol: UDP}, {protocol: SCTP, port: 1, endPort: 65535}, {port: 7, endPort: 7}, {}]}]}`,
			store.NetworkPolicy{IsolatesIngress: true, Ingress: []store.PolicyRule{{Ports: []store.PolicyPort{
				{Protocol: store.TCP, Port: 80}, {Protocol: store.TCP, Name: "http"}, {Protocol: store.UDP}, {Protocol: store.SCTP, Port: 1, EndPort: 65535},
				{Protocol: store.TCP, Port: 7, EndPort: 7}, {Protocol: store.TCP}}}}}},
		{"empty lists mean everything", `{ingress: [{from: [], ports: []}]}`, store.NetworkPolicy{IsolatesIngress: true, Ingress: []store.PolicyRule{{}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := netpol(t, test.spec)
			test.want.Name = name
			have, err := FromNetworkPolicy(p)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, have, addresses, selectorsEqual); diff != "" {
				t.Error(diff)
			}
			// An object without defaults means the same: etcd may hold one that somebody wrote there by hand.
			p.Spec.PolicyTypes = nil
			if strings.Contains(test.spec, "policyTypes") {
				return
			}
			if have, err = FromNetworkPolicy(p); err != nil || cmp.Diff(&test.want, have, addresses, selectorsEqual) != "" {
				t.Errorf("without policyTypes: %+v, %v", have, err)
			}
		})
	}
}

// matchesNobody is the peer of rules that are about nobody, since they are not understood.
var matchesNobody = func() []store.PolicyPeer {
	none := store.NewSelector(store.Requirement{Key: store.NamespaceNameLabel, Operator: store.SelectorIn})
	return []store.PolicyPeer{{Namespaces: &none}}
}()

// What a later version of the API may let through allows nothing, and the rest of the policy counts.
func TestNetworkPolicyOfLaterVersion(t *testing.T) {
	web := label("app", "web")
	peer, port := []store.PolicyPeer{{Pods: &web}}, []store.PolicyPort{{Protocol: store.TCP, Port: 80}}
	closed := []store.PolicyRule{{Peers: matchesNobody}}
	tests := []struct {
		name, spec string // JSON
		want       []store.PolicyRule
		err        string
	}{
		{"unknown peer", `{"ingress": [{"from": [{"service": {}}]}]}`, closed, "spec.ingress[0].from[0]: is neither"},
		{"unknown peer among others", `{"ingress": [{"from": [{}, {"podSelector": {"matchLabels": {"app": "web"}}}]}]}`, []store.PolicyRule{{Peers: peer}}, "from[0]"},
		{"block and selector", `{"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}`, closed, "from[0]"},
		{"unknown operator", `{"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]}]}`, closed, "from[0].podSelector"},
		{"namespace operator", `{"ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}]}`, closed, "from[0].namespaceSelector"},
		{"unknown protocol", `{"ingress": [{"ports": [{"protocol": "QUIC", "port": 80}]}]}`, closed, "ports[0].protocol"},
		{"unknown protocol among others", `{"ingress": [{"ports": [{"protocol": "QUIC"}, {"port": 80}]}]}`, []store.PolicyRule{{Ports: port}}, "ports[0].protocol"},
		{"port 0", `{"ingress": [{"ports": [{"port": 0}]}]}`, closed, "ports[0].port"},
		{"empty name", `{"ingress": [{"ports": [{"port": ""}]}]}`, closed, "ports[0].port"},
		{"range of a name", `{"ingress": [{"ports": [{"port": "http", "endPort": 90}]}]}`, closed, "ports[0].endPort"},
		{"range backwards", `{"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}`, closed, "ports[0].endPort"},
		{"end too large", `{"ingress": [{"ports": [{"port": 90, "endPort": 80000}]}]}`, closed, "ports[0].endPort"},
		{"no network", `{"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}]}`, closed, "ipBlock.cidr"},
		{"no network to except", `{"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}]}`, closed, "ipBlock.except[0]"},
		{"nothing is left", `{"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/7"]}}]}]}`, closed, "leaves nothing"},
		{"the rules after it keep their numbers", `{"ingress": [{"from": [{}]}, {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}`,
			append(closed, store.PolicyRule{Peers: peer}), "spec.ingress[0].from[0]"},
		{"unknown type", `{"policyTypes": ["Ingress", "Forward"]}`, nil, "spec.policyTypes[1]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name := store.ObjectName{Namespace: "shop", Name: "web"}
			p, err := DecodeNetworkPolicy(name, []byte(`{"metadata": {"name": "web", "namespace": "shop"}, "spec": `+test.spec+`}`))
			if err != nil {
				t.Fatal(err)
			}
			have, err := FromNetworkPolicy(p)
			if err == nil || !strings.Contains(err.Error(), "network policy shop/web: "+test.err) && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want one with %s", err, test.err)
			}
			want := &store.NetworkPolicy{Name: name, IsolatesIngress: true, Ingress: test.want, Flaw: strings.TrimPrefix(err.Error(), "network policy shop/web: ")}
			if diff := cmp.Diff(want, have, addresses, selectorsEqual); diff != "" {
				t.Error(diff)
			}
		})
	}
	p, err := DecodeNetworkPolicy(store.ObjectName{Namespace: "a", Name: "b"}, []byte(`{"metadata": {"namespace": "a", "name": "b"}, "spec": {"podSelector": {"matchLabels": {"a": "b c"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if have, err := FromNetworkPolicy(p); have != nil || err == nil || !strings.Contains(err.Error(), "spec.podSelector") {
		t.Errorf("pods that cannot be told: %+v, %v", have, err)
	}
}

func TestNetworkOf(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3/8": "10.0.0.0/8", "010.001.0.0/08": "10.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0", "000.0.0.0/00": "0.0.0.0/0",
		"::ffff:10.1.0.0/112": "10.1.0.0/16", "::ffff:0.0.0.0/90": "::ffc0:0:0/90", "2001:db8::1/64": "2001:db8::/64",
		"10.0.0.0": "", "10.0.0.0/": "", "10..0.0/8": "", "10.0.0.0/33": "", "": "", "/": "", "x/8": "", "fe80::%eth0/64": "",
	} {
		have, err := networkOf(text)
		if want == "" && err == nil || want != "" && (err != nil || have.String() != want) {
			t.Errorf("%q is %v, %v; want %q", text, have, err, want)
		}
	}
}

const clusterPolicyYAML = `apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: web, creationTimestamp: 2026-01-02T03:04:05Z}
spec:
  tier: Admin
  priority: 0
  subject:
    pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}
  ingress:
  - name: from all
    action: Pass
    from: [{namespaces: {}}, {pods: {podSelector: {matchLabels: {app: web}}}}]
    protocols:
    - tcp: {destinationPort: {number: 80}}
    - udp: {destinationPort: {range: {start: 1, end: 65535}}}
    - sctp: {destinationPort: {number: 9}}
    - destinationNamedPort: http
  egress:
  - action: Deny
    to: [{networks: [10.0.0.0/8, "fd00::/8"]}]
status:
  conditions: [{type: Accepted, status: "True", reason: A, message: b, lastTransitionTime: 2026-01-02T03:04:05Z}]
`

func TestClusterNetworkPolicy(t *testing.T) {
	d := mustParse(t, clusterPolicyYAML)[0]
	if d.Kind != KindClusterNetworkPolicy || d.Name != (store.ObjectName{Name: "web"}) || Title(d.Kind, d.Name) != "clusternetworkpolicy web" {
		t.Errorf("have %s %s", d.Kind, d.Name)
	}
	have, err := FromClusterNetworkPolicy(d.ClusterPolicy)
	if err != nil {
		t.Fatal(err)
	}
	all, web := store.Selector{}, label("app", "web")
	want := &store.ClusterNetworkPolicy{Name: "web", Tier: store.TierAdmin, Namespaces: label("team", "a"), Pods: web,
		Ingress: []store.ClusterPolicyRule{{Name: "from all", Action: store.ActionPass, Peers: []store.PolicyPeer{{Namespaces: &all}, {Namespaces: &all, Pods: &web}},
			Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 80}, {Protocol: store.UDP, Port: 1, EndPort: 65535}, {Protocol: store.SCTP, Port: 9}, {Name: "http"}}}},
		Egress: []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: []store.PolicyPeer{{Block: netip.MustParsePrefix("10.0.0.0/8")}, {Block: netip.MustParsePrefix("fd00::/8")}}}}}
	if diff := cmp.Diff(want, have, addresses, selectorsEqual); diff != "" {
		t.Error(diff)
	}
	text, err := Encode(d.ClusterPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if again := mustParse(t, string(text))[0]; cmp.Diff(d, again) != "" || strings.Contains(string(text), "status") {
		t.Errorf("it reads differently the second time: %s", text)
	}
}

// Rules that cannot be understood fail closed: those that accept match nothing, others deny everything.
func TestClusterNetworkPolicyFailsClosed(t *testing.T) {
	const from = `"from": [{"namespaces": {}}]`
	tests := []struct{ name, rule, err string }{
		{"unknown peer", `"from": [{"services": {}}]`, "ingress[0].from[0]"},
		{"unknown peer among others", `"from": [{"namespaces": {}}, {"services": {}}]`, "ingress[0].from[1]"},
		{"no peers", `"from": []`, "ingress[0].from: has no peer"},
		{"two fields", `"from": [{"namespaces": {}, "pods": {"podSelector": {}}}]`, "has 2 fields"},
		{"no pod selector", `"from": [{"pods": {}}]`, "from[0].pods.podSelector"},
		{"selector of pods", `"from": [{"pods": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}}]`, "from[0].pods.podSelector"},
		{"selector of their namespaces", `"from": [{"pods": {"podSelector": {}, "namespaceSelector": {"matchLabels": {"": "x"}}}}]`, "from[0].pods.namespaceSelector"},
		{"selector of namespaces", `"from": [{"namespaces": {"matchLabels": {"a": "b,c"}}}]`, "from[0].namespaces"},
		{"unknown protocol", from + `, "protocols": [{"icmp": {}}]`, "protocols[0]: has 0 fields"},
		{"unknown detail of a protocol", from + `, "protocols": [{"tcp": {"sourcePort": 7}}]`, "protocols[0].tcp.destinationPort: is neither"},
		{"no number and no range", from + `, "protocols": [{"udp": {"destinationPort": {}}}]`, "protocols[0].udp.destinationPort: is neither"},
		{"port", from + `, "protocols": [{"tcp": {"destinationPort": {"number": 65536}}}]`, "protocols[0].tcp.destinationPort: 65536"},
		{"start of a range", from + `, "protocols": [{"tcp": {"destinationPort": {"range": {"end": 7}}}}]`, "protocols[0].tcp.destinationPort: 0"},
		{"end of a range", from + `, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 7}}}}]`, "protocols[0].tcp.destinationPort: 0"},
		{"range backwards", from + `, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 7, "end": 6}}}}]`, "7-6 is no range"},
	}
	subject := `{"tier": "Baseline", "priority": 7, "subject": {"namespaces": {}}, `
	denied := []store.ClusterPolicyRule{{Name: "r", Action: store.ActionDeny,
		Peers: []store.PolicyPeer{{Block: netip.MustParsePrefix("0.0.0.0/0")}, {Block: netip.MustParsePrefix("::/0")}}}}
	accepted := []store.ClusterPolicyRule{{Name: "r", Action: store.ActionAccept, Peers: matchesNobody}}
	check := func(t *testing.T, field, rule, wrong string) {
		t.Helper()
		for action, want := range map[string][]store.ClusterPolicyRule{"Accept": accepted, "Deny": denied, "Pass": denied, "Log": denied} {
			have, err := FromClusterNetworkPolicy(cnp(t, subject+`"`+field+`": [{"name": "r", "action": "`+action+`", `+rule+`}]}`))
			if err == nil || action != "Log" && !strings.Contains(err.Error(), wrong) || have == nil || !strings.HasSuffix(err.Error(), have.Flaw) || have.Flaw == "" {
				t.Fatalf("%s: have %v, %v; want an error with %s", action, have, err, wrong)
			}
			rules := have.Ingress
			if field == "egress" {
				rules = have.Egress
			}
			if diff := cmp.Diff(want, rules, addresses, selectorsEqual); diff != "" {
				t.Errorf("%s: %s", action, diff)
			}
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { check(t, "ingress", test.rule, test.err) })
	}
	t.Run("nodes", func(t *testing.T) {
		check(t, "egress", `"to": [{"nodes": {}}]`, "to[0].nodes: is of the API's experimental channel")
	})
	t.Run("domain names", func(t *testing.T) {
		check(t, "egress", `"to": [{"domainNames": ["a.example"]}]`, "to[0].domainNames: is of the API's experimental channel")
	})
	t.Run("networks", func(t *testing.T) { check(t, "egress", `"to": [{"networks": ["10.0.0.0"]}]`, "to[0].networks[0]") })
	for _, spec := range []string{
		`{"tier": "Default", "priority": 7, "subject": {"namespaces": {}}}`, `{"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}`,
		`{"tier": "Admin", "subject": {"namespaces": {}}}`, `{"tier": "Admin", "priority": 7, "subject": {}}`,
		`{"tier": "Admin", "priority": 7, "subject": {"pods": {"podSelector": {"matchLabels": {"a": "b c"}}}}}`,
	} {
		if have, err := FromClusterNetworkPolicy(cnp(t, spec)); have != nil || err == nil {
			t.Errorf("%s: have %+v", spec, have)
		}
	}
}

func TestNamespace(t *testing.T) {
	d := mustParse(t, `{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}`)[0]
	want := &store.Namespace{Name: "shop", Labels: map[string]string{"team": "a", store.NamespaceNameLabel: "shop"}}
	if diff := cmp.Diff(want, FromNamespace(d.Namespace)); diff != "" || d.Namespace.Labels[store.NamespaceNameLabel] != "shop" || d.Name.Name != "shop" {
		t.Error(diff, d.Namespace.Labels)
	}
	if d := mustParse(t, "{apiVersion: v1, kind: Namespace, metadata: {name: a}}")[0]; d.Namespace.Labels[store.NamespaceNameLabel] != "a" || d.Name.Namespace != "" {
		t.Errorf("have %+v", d)
	}
}
