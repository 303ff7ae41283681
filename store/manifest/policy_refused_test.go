package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store"
)

// repeated returns a YAML list of n elements.
func repeated(n int, element string) string {
	return "[" + strings.Join(slices.Repeat([]string{element}, n), ", ") + "]"
}

func TestPoliciesRefused(t *testing.T) {
	policy := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec:\n  " + spec
	}
	ingress := func(rule string) string { return policy("ingress: [" + rule + "]") }
	cluster := func(spec string) string {
		return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: web}\nspec:\n  " + spec
	}
	full := func(more string) string {
		return cluster("{tier: Admin, priority: 7, subject: {namespaces: {}}, " + more + "}")
	}
	egress := func(rule string) string { return full("egress: [{action: Deny, " + rule + "}]") }
	protocol := func(p string) string { return egress("to: [{namespaces: {}}], protocols: [" + p + "]") }
	tests := []struct{ name, text, want string }{
		{"name", strings.Replace(policy("{}"), "web", "We_b", 1), "metadata.name: Invalid"},
		{"unknown field", policy("podSelectr: {}"), `line 5: spec.podSelectr: unknown field; did you mean "podSelector"?`},
		{"old API", strings.Replace(policy("{}"), "networking.k8s.io/v1", "extensions/v1beta1", 1), "NetworkPolicy of networking.k8s.io/v1"},
		{"policy type", policy("policyTypes: [ingress]"), `spec.policyTypes[0]: Unsupported value: "ingress"`},
		{"too many policy types", policy("policyTypes: [Ingress, Egress, Ingress]"), "spec.policyTypes: Too many"},
		{"selector key", policy("podSelector: {matchLabels: {-a: b}}"), "line 5: spec.podSelector.matchLabels: Invalid"},
		{"selector value", policy("podSelector: {matchLabels: {a: b c}}"), "spec.podSelector.matchLabels"},
		{"operator", policy("podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}"), "spec.podSelector.matchExpressions[0].operator: Invalid"},
		{"In without values", policy("podSelector: {matchExpressions: [{key: a, operator: In}]}"), "matchExpressions[0].values: Required"},
		{"NotIn without values", policy("podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}"), "matchExpressions[0].values: Required"},
		{"Exists with values", policy("podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"), "matchExpressions[0].values: Forbidden"},
		{"DoesNotExist with values", policy("podSelector: {matchExpressions: [{key: a, operator: DoesNotExist, values: [b]}]}"), "matchExpressions[0].values: Forbidden"},
		{"value of an expression", policy("podSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}"), "matchExpressions[0].values[0]: Invalid"},
		{"no key", policy("podSelector: {matchExpressions: [{operator: Exists}]}"), "matchExpressions[0].key"},
		{"selector of a peer", ingress("{from: [{podSelector: {matchLabels: {a: b c}}}]}"), "spec.ingress[0].from[0].podSelector"},
		{"selector of a peer's namespaces", ingress("{from: [{namespaceSelector: {matchLabels: {a: b c}}}]}"), "spec.ingress[0].from[0].namespaceSelector"},
		{"empty peer", ingress("{from: [{}]}"), "spec.ingress[0].from[0]: Required value: give a podSelector"},
		{"block and selector", ingress("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}"), "spec.ingress[0].from[0]: Forbidden: an ipBlock is a peer of its own"},
		{"empty peer of egress", policy("egress: [{to: [{}]}]"), "spec.egress[0].to[0]: Required"},
		{"port of egress", policy("egress: [{ports: [{port: 0}]}]"), "spec.egress[0].ports[0].port: Invalid"},
		{"no cidr", ingress("{from: [{ipBlock: {}}]}"), "ipBlock.cidr: Required"},
		{"address for a cidr", ingress("{from: [{ipBlock: {cidr: 10.0.0.1}}]}"), "ipBlock.cidr: Invalid"},
		{"mapped cidr", ingress("{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}"), "ipBlock.cidr: Invalid"},
		{"zeros in a cidr", ingress("{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}"), "ipBlock.cidr: Invalid"},
		{"except is no network", ingress("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.1]}}]}"), "ipBlock.except[0]: Invalid"},
		{"except outside", ingress("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16]}}]}"), "ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a smaller network"},
		{"except of another family", ingress("{from: [{ipBlock: {cidr: 0.0.0.0/0, except: ['fd00::/8']}}]}"), "ipBlock.except[0]: Invalid"},
		{"except is all", ingress("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}"), "ipBlock.except[0]: Invalid"},
		{"except is more", ingress("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/7]}}]}"), "ipBlock.except[0]: Invalid"},
		{"protocol", ingress("{ports: [{protocol: ICMP}]}"), "ports[0].protocol: Unsupported"},
		{"port 0", ingress("{ports: [{port: 0}]}"), "ports[0].port: Invalid"},
		{"port too large", ingress("{ports: [{port: 65536}]}"), "ports[0].port: Invalid"},
		{"port name", ingress("{ports: [{port: HTTP_1}]}"), "ports[0].port: Invalid"},
		{"long port name", ingress("{ports: [{port: abcdefghijklmnop}]}"), "ports[0].port: Invalid"},
		{"end without port", ingress("{ports: [{endPort: 80}]}"), "ports[0].endPort: Forbidden: needs port"},
		{"end of a name", ingress("{ports: [{port: http, endPort: 80}]}"), "ports[0].endPort: Forbidden: needs a port that is a number"},
		{"end before port", ingress("{ports: [{port: 80, endPort: 79}]}"), "ports[0].endPort: Invalid value: 79"},
		{"end too large", ingress("{ports: [{port: 80, endPort: 65536}]}"), "ports[0].endPort: Invalid value: 65536"},

		{"no tier", cluster("{priority: 1, subject: {namespaces: {}}}"), "spec.tier: Required"},
		{"tier", cluster("{tier: admin, priority: 1, subject: {namespaces: {}}}"), `spec.tier: Unsupported value: "admin"`},
		{"no priority", cluster("{tier: Admin, subject: {namespaces: {}}}"), "spec.priority: Required"},
		{"priority below 0", cluster("{tier: Admin, priority: -1, subject: {namespaces: {}}}"), "spec.priority: Invalid value: -1"},
		{"priority too large", cluster("{tier: Admin, priority: 1001, subject: {namespaces: {}}}"), "spec.priority: Invalid value: 1001"},
		{"no subject", cluster("{tier: Admin, priority: 1}"), "spec.subject: Required"},
		{"two subjects", cluster("{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}"), "spec.subject: Forbidden: give one alone"},
		{"networks as a subject", cluster("{tier: Admin, priority: 1, subject: {networks: [10.0.0.0/8]}}"), "spec.subject.networks: unknown field"},
		{"selector of a subject", cluster("{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {a: b c}}}}"), "spec.subject.namespaces.matchLabels"},
		{"subject without a pod selector", cluster("{tier: Admin, priority: 1, subject: {pods: {}}}"), "spec.subject.pods.podSelector: Required"},
		{"a namespace", strings.Replace(full(""), "{name: web}", "{name: web, namespace: a}", 1), "metadata.namespace: Forbidden"},
		{"v1alpha1", strings.Replace(full(""), "v1alpha2", "v1alpha1", 1), "ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2"},
		{"26 rules", full("ingress: " + repeated(26, "{action: Deny, from: [{namespaces: {}}]}")), "spec.ingress: Too many: 26: must have at most 25"},
		{"26 rules of egress", full("egress: " + repeated(26, "{action: Deny, to: [{namespaces: {}}]}")), "spec.egress: Too many: 26"},
		{"26 peers", egress("to: " + repeated(26, "{namespaces: {}}")), "spec.egress[0].to: Too many: 26"},
		{"26 networks", egress("to: [{networks: " + repeated(26, "10.0.0.0/8") + "}]"), "spec.egress[0].to[0].networks: Too many: 26"},
		{"26 protocols", egress("to: [{namespaces: {}}], protocols: " + repeated(26, "{destinationNamedPort: a}")), "spec.egress[0].protocols: Too many: 26"},
		{"long name", egress("to: [{namespaces: {}}], name: " + strings.Repeat("ä", 101)), "spec.egress[0].name: Invalid"},
		{"no action", full("ingress: [{from: [{namespaces: {}}]}]"), "spec.ingress[0].action: Required"},
		{"action", full("ingress: [{action: Allow, from: [{namespaces: {}}]}]"), `spec.ingress[0].action: Unsupported value: "Allow"`},
		{"no peers", full("ingress: [{action: Deny}]"), "spec.ingress[0].from: Required"},
		{"empty peers", egress("to: []"), "spec.egress[0].to: Required"},
		{"peer without a field", egress("to: [{}]"), "spec.egress[0].to[0]: Required value: give namespaces, pods or networks"},
		{"peer with two fields", egress("to: [{namespaces: {}, networks: [10.0.0.0/8]}]"), "spec.egress[0].to[0]: Forbidden: give one alone"},
		{"networks as a source", full("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]"), "spec.ingress[0].from[0].networks: unknown field"},
		{"nodes", egress("to: [{nodes: {}}]"), "spec.egress[0].to[0].nodes: Forbidden: is of the API's experimental channel, which is not supported"},
		{"domain names", egress("to: [{domainNames: [a.example]}]"), "spec.egress[0].to[0].domainNames: Forbidden: is of the API's experimental channel"},
		{"network", egress("to: [{networks: [10.0.0.0]}]"), "to[0].networks[0]: Invalid"},
		{"mapped network", egress("to: [{networks: ['::ffff:10.0.0.0/104']}]"), "to[0].networks[0]: Invalid"},
		{"no networks", egress("to: [{networks: []}]"), "to[0]: Required"},
		{"network twice", egress("to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]"), "to[0].networks[1]: Duplicate"},
		{"peer without a pod selector", egress("to: [{pods: {namespaceSelector: {}}}]"), "to[0].pods.podSelector: Required"},
		{"selector of pods", egress("to: [{pods: {podSelector: {matchLabels: {a: b c}}}}]"), "to[0].pods.podSelector"},
		{"selector of their namespaces", egress("to: [{pods: {podSelector: {}, namespaceSelector: {matchLabels: {a: b c}}}}]"), "to[0].pods.namespaceSelector"},
		{"no protocols", egress("to: [{namespaces: {}}], protocols: []"), "spec.egress[0].protocols: Required"},
		{"protocol without a field", protocol("{}"), "protocols[0]: Required"},
		{"protocol with two fields", protocol("{tcp: {destinationPort: {number: 1}}, destinationNamedPort: a}"), "protocols[0]: Forbidden: give one alone"},
		{"icmp", protocol("{icmp: {}}"), "protocols[0].icmp: unknown field"},
		{"no destination port", protocol("{tcp: {}}"), "protocols[0].tcp.destinationPort: Required"},
		{"no number", protocol("{udp: {destinationPort: {}}}"), "protocols[0].udp.destinationPort: Required"},
		{"number and range", protocol("{sctp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}"), "protocols[0].sctp.destinationPort: Forbidden"},
		{"number 0", protocol("{tcp: {destinationPort: {number: 0}}}"), "tcp.destinationPort.number: Invalid"},
		{"number too large", protocol("{tcp: {destinationPort: {number: 65536}}}"), "tcp.destinationPort.number: Invalid"},
		{"range backwards", protocol("{tcp: {destinationPort: {range: {start: 2, end: 1}}}}"), "tcp.destinationPort.range: Invalid"},
		{"range of one", protocol("{tcp: {destinationPort: {range: {start: 2, end: 2}}}}"), "tcp.destinationPort.range: Invalid"},
		{"range without a start", protocol("{tcp: {destinationPort: {range: {end: 2}}}}"), "tcp.destinationPort.range.start: Invalid"},
		{"range too large", protocol("{tcp: {destinationPort: {range: {start: 1, end: 65536}}}}"), "tcp.destinationPort.range.end: Invalid"},
		{"named port", protocol("{destinationNamedPort: HTTP_1}"), "protocols[0].destinationNamedPort: Invalid"},
		{"named port of networks", egress("to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]"), "protocols[0].destinationNamedPort: Forbidden: the rule has networks"},

		{"namespace without a name", "{apiVersion: v1, kind: Namespace}", "metadata.name: Required"},
		{"namespace's name", "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}", "metadata.name: Invalid"},
		{"namespace's label", "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {a: b c}}}", "metadata.labels[a]: Invalid"},
		{"namespace in a namespace", "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}", "metadata.namespace: Forbidden"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			docs, err := Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) || docs != nil {
				t.Errorf("have %v, error:\n%v\nwant one with %q", docs, err, test.want)
			}
		})
	}
}

func testPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u", Labels: map[string]string{"app": "web"}}}
	p.Spec.NodeName = "n1"
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {ContainerPort: 81}}},
		{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "http", ContainerPort: 80}, {Name: "bad"}}}}
	p.Spec.InitContainers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "once", ContainerPort: 7}}},
		{Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 8}}, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	p.Status.PodIP = "10.244.1.5"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.244.1.5"}, {IP: "fd00::5"}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	change(p)
	return p
}

func TestFromPod(t *testing.T) {
	said := func(p *store.Pod) string {
		if p == nil {
			return "none"
		}
		return fmt.Sprintf("%s on %s: %s %v %v %t %s", p.Name, p.Node, p.Addrs, p.Labels, p.Ports, p.Ready, p.UID)
	}
	const ports = "[{http TCP 80} {dns UDP 53} {mesh TCP 8}]"
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"all", func(*corev1.Pod) {}, "shop/web-1 on n1: [10.244.1.5 fd00::5] map[app:web] " + ports + " true u"},
		{"without addresses", func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }, "shop/web-1 on n1: [] map[app:web] " + ports + " false u"},
		{"podIP alone", func(p *corev1.Pod) { p.Status.PodIPs = nil }, "shop/web-1 on n1: [10.244.1.5] map[app:web] " + ports + " true u"},
		{"nonsense", func(p *corev1.Pod) {
			p.Status.PodIP, p.Status.PodIPs = "x", []corev1.PodIP{{IP: "0.0.0.0"}, {IP: "127.0.0.1"}, {IP: "224.0.0.1"}, {IP: "10.0.0.1"}, {IP: "10.0.0.2"}}
		}, "shop/web-1 on n1: [10.0.0.1] map[app:web] " + ports + " true u"},
		{"being deleted", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, "shop/web-1 on n1: [10.244.1.5 fd00::5] map[app:web] " + ports + " true u"},
		{"its node's network", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "none"},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "none"},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "none"},
		{"on no node", func(p *corev1.Pod) { p.Spec.NodeName = "" }, "none"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, said(FromPod(testPod(test.change)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzPolicies feeds Parse with policies: what it lets through is understood in full, and reads the same the second time.
func FuzzPolicies(f *testing.F) {
	f.Add([]byte(clusterPolicyYAML))
	f.Add([]byte(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}],
  ports: [{port: 1, endPort: 2}, {port: http, protocol: UDP}]}], ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}]}]}}`))
	f.Add([]byte("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {b: c}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Parse(data)
		if err != nil {
			return
		}
		for _, d := range docs {
			var object any
			switch d.Kind {
			case KindNetworkPolicy:
				object = d.NetworkPolicy
				_, err = FromNetworkPolicy(d.NetworkPolicy)
			case KindClusterNetworkPolicy:
				object = d.ClusterPolicy
				_, err = FromClusterNetworkPolicy(d.ClusterPolicy)
			case KindNamespace:
				object = d.Namespace
			default:
				continue
			}
			if err != nil {
				t.Errorf("a valid object: %v", err)
			}
			text, err := Encode(object)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(text)
			if err != nil || len(again) != 1 {
				t.Fatalf("%s cannot be read again: %v", text, err)
			}
			if encoded, err := Encode(objectOf(again[0])); err != nil || string(encoded) != string(text) {
				t.Errorf("%s reads differently the second time: %s, %v", text, encoded, err)
			}
		}
	})
}

func objectOf(d Document) any {
	switch d.Kind {
	case KindNetworkPolicy:
		return d.NetworkPolicy
	case KindClusterNetworkPolicy:
		return d.ClusterPolicy
	}
	return d.Namespace
}

// FuzzDecodePolicies feeds the decoders of what a datastore holds with anything: a policy that comes out of it is whole, and no rule of it is
// wider than what was understood.
func FuzzDecodePolicies(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a"},"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}},"egress":[{"action":"Deny","to":[{"networks":["10.0.0.0/8"]}]}]}}`))
	f.Add([]byte(`{"metadata":{"name":"a"},"spec":{"ingress":[{"from":[{"podSelector":{}}],"ports":[{"port":80}]},{"from":[{}]}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := DecodeClusterNetworkPolicy("a", data); err == nil {
			if c, err := FromClusterNetworkPolicy(p); c != nil {
				for _, r := range append(slices.Clone(c.Ingress), c.Egress...) {
					if len(r.Peers) == 0 || err != nil && r.Action == "" {
						t.Errorf("rule %+v, %v", r, err)
					}
				}
			}
		}
		if p, err := DecodeNetworkPolicy(store.ObjectName{Name: "a"}, data); err == nil {
			if c, _ := FromNetworkPolicy(p); c != nil {
				widest := func(rules []store.PolicyRule) int {
					n := 0
					for _, r := range rules {
						if len(r.Peers) == 0 {
							n++
						}
					}
					return n
				}
				given := 0
				for _, r := range p.Spec.Ingress {
					if len(r.From) == 0 {
						given++
					}
				}
				if widest(c.Ingress) > given {
					t.Errorf("%d rules of everybody came of %d", widest(c.Ingress), given)
				}
			}
		}
		if ns, err := DecodeNamespace("a", data); err == nil && FromNamespace(ns).Labels[store.NamespaceNameLabel] != "a" {
			t.Error("a namespace without its name")
		}
	})
}
