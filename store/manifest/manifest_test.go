package manifest

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/twill-cni/twill/store"
)

var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func mustParse(t testing.TB, text string) []Document {
	t.Helper()
	docs, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

// service reads one Service whose spec is given in YAML's flow style.
func service(t testing.TB, spec string) *corev1.Service {
	t.Helper()
	return mustParse(t, "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: "+spec+"}")[0].Service
}

const everything = `# a comment
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  resourceVersion: "7"
  uid: abc
  creationTimestamp: 2026-01-02T03:04:05Z
  labels: {service.kubernetes.io/service-proxy-name: mine, day: 2026-01-02}
  annotations:
    twill-cni.github.io/scheduler: mh
    twill-cni.github.io/weights: "10.244.1.5=3, node2=2"
    twill-cni.github.io/reset-connections: "true"
    service.kubernetes.io/topology-mode: Auto
spec:
  type: LoadBalancer
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
  clusterIPs: [10.96.0.7, "fd00:96::7"]
  externalIPs: [192.0.2.9]
  loadBalancerSourceRanges: [192.0.2.7/24]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 30999
  sessionAffinity: ClientIP
  trafficDistribution: PreferClose
  publishNotReadyAddresses: true
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.5, ipMode: Proxy}, {hostname: lb.example.com}]
---

---
{
	"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
	"metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
	"addressType": "IPv4",
	"ports": [{"port": 5432}],
	"endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"terminating": true, "ready": false}, "zone": "a", "nodeName": "n1",
		"hints": {"forZones": [{"name": "a"}]}}]
}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old}
subsets:
- addresses: [{ip: 192.0.2.1, nodeName: n1}, {ip: "2001:db8::1"}]
  notReadyAddresses: [{ip: 192.0.2.2}]
  ports: [{port: 5432}]
`

func TestParseAndConvert(t *testing.T) {
	docs := mustParse(t, strings.ReplaceAll(everything, "\t", "  "))
	if len(docs) != 3 {
		t.Fatalf("%d documents", len(docs))
	}
	svc, err := FromService(docs[0].Service)
	if err != nil {
		t.Fatal(err)
	}
	want := &store.Service{
		Name: store.ObjectName{Namespace: "shop", Name: "web"}, Type: store.ServiceLoadBalancer,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00:96::7")},
		Ports: []store.ServicePort{{Name: "http", Protocol: store.TCP, Port: 80, NodePort: 30080, TargetPort: "web"},
			{Name: "dns", Protocol: store.UDP, Port: 53, TargetPort: "53"}},
		ExternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Ingress:       []store.Ingress{{Addr: netip.MustParseAddr("203.0.113.5"), Proxy: true}},
		ExternalLocal: true, InternalLocal: true, HealthCheckNodePort: 30999, AffinityTimeout: 3 * time.Hour, Distribution: "PreferClose",
		TopologyMode: "Auto", ProxyName: "mine", Scheduler: "mh", ResetConnections: true, Weights: map[string]uint32{"10.244.1.5": 3, "node2": 2},
		Selector: map[string]string{"app": "web"}, PublishNotReady: true,
	}
	if diff := cmp.Diff(want, svc, addresses); diff != "" {
		t.Error(diff)
	}
	if docs[0].Service.ResourceVersion != "" || docs[0].Service.UID != "" || docs[0].Service.Labels["day"] != "2026-01-02" {
		t.Errorf("metadata %+v", docs[0].Service.ObjectMeta)
	}
	var slices []*store.EndpointSlice
	for _, d := range docs[1:] {
		for _, s := range d.Slices {
			slice, err := FromEndpointSlice(s)
			if err != nil {
				t.Fatal(err)
			}
			slices = append(slices, slice)
		}
	}
	port := []store.EndpointPort{{Protocol: store.TCP, Port: 5432}}
	wantSlices := []*store.EndpointSlice{
		{Name: store.ObjectName{Namespace: "default", Name: "db-1"}, Service: "db", Ports: port,
			Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("192.0.2.1"), Terminating: true, Node: "n1", Zone: "a", HintZones: []string{"a"}}}},
		{Name: store.ObjectName{Namespace: "default", Name: "old-ipv4-0-0"}, Service: "old", Ports: port, Endpoints: []store.Endpoint{
			{Addr: netip.MustParseAddr("192.0.2.1"), Ready: true, Serving: true, Node: "n1"}, {Addr: netip.MustParseAddr("192.0.2.2")}}},
		{Name: store.ObjectName{Namespace: "default", Name: "old-ipv6-0-0"}, Service: "old", Ports: port, IPv6: true,
			Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("2001:db8::1"), Ready: true, Serving: true}}},
	}
	if diff := cmp.Diff(wantSlices, slices, addresses); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	svc := service(t, `{type: LoadBalancer, ports: [{port: 80}], sessionAffinity: ClientIP}`)
	want := corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP,
		SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(10800))}},
		Ports:                 []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(80)}},
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster, InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster),
		AllocateLoadBalancerNodePorts: new(true),
	}
	if diff := cmp.Diff(want, svc.Spec); diff != "" {
		t.Error(diff)
	}
}

// A List, and what "kubectl get -o yaml" prints of the server's own fields, can be applied.
func TestList(t *testing.T) {
	docs := mustParse(t, `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","creationTimestamp":null},
	"spec":{"ports":[{"port":1}]}},{"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"clusterIP":"None"}}]}`)
	if len(docs) != 2 || docs[1].Name.Name != "b" {
		t.Errorf("have %+v", docs)
	}
}

func TestParseErrors(t *testing.T) {
	doc := func(spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  selector: {app: web}\n  ports:\n  - port: 80\n" + spec
	}
	tests := []struct{ name, text, want string }{
		{"no YAML", "a: [", "document 1: yaml: line 1"},
		{"no object", "- 1", "document 1, line 1: want an object"},
		{"no kind", "{}", "apiVersion and kind are missing"},
		{"other kind", "{apiVersion: apps/v1, kind: Deployment}", `kind "Deployment": want Service`},
		{"unknown field", doc("  typ: NodePort\n"), `document 1, line 9: spec.typ: unknown field; did you mean "type"?`},
		{"unknown field far from all", doc("  somethingElse: 1\n"), "known are allocateLoadBalancerNodePorts,"},
		{"wrong case", doc("  clusterIp: 10.96.0.1\n"), `did you mean "clusterIP"?`},
		{"second document", doc("") + "---\n" + doc("    prot: TCP\n"), "document 2, line 18: spec.ports[0].prot: unknown field"},
		{"given twice", doc("  type: NodePort\n  type: ClusterIP\n"), "type"},
		{"number for text", doc("  externalName: 7\n"), `line 9: spec.externalName: want text, have "7": put it in quotes`},
		{"text for a number", doc("    nodePort: x\n"), `line 9: spec.ports[0].nodePort: want a whole number of 32 bits, have "x"`},
		{"number too large", doc("    nodePort: 4294967296\n"), "nodePort: want a whole number"},
		{"object for a list", doc("  externalIPs: {}\n"), "spec.externalIPs: want a list, have an object"},
		{"list for an object", doc("  sessionAffinityConfig: []\n"), "want an object, have a list"},
		{"text for a truth", doc("  publishNotReadyAddresses: yes\n"), "want true or false"},
		{"empty item", doc("  externalIPs: [~]\n"), "spec.externalIPs[0]: is empty"},
		{"alias", doc("  externalIPs: &x [192.0.2.1]\n  clusterIPs: *x\n"), "anchors and aliases are not supported"},
		{"several errors", doc("  typ: x\n  foo: y\n"), "line 10: spec.foo"},
		{"name", "{apiVersion: v1, kind: Service, metadata: {name: A_b}, spec: {ports: [{port: 1}]}}", "metadata.name: Invalid value"},
		{"no name", "{apiVersion: v1, kind: Service, spec: {ports: [{port: 1}]}}", "metadata.name: Required value"},
		{"label", "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {a: b c}}, spec: {ports: [{port: 1}]}}", "metadata.labels[a]: Invalid"},
		{"no ports", "{apiVersion: v1, kind: Service, metadata: {name: a}}", "spec.ports: Required"},
		{"type", doc("  type: Nodeport\n"), `line 9: spec.type: Unsupported value: "Nodeport"`},
		{"port 0", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 0}]}}", "spec.ports[0].port: Invalid"},
		{"port range", doc("  - {name: b, port: 70000}\n"), "line 9: spec.ports[1].port: Invalid value: 70000"},
		{"several ports need names", doc("  - port: 81\n"), "spec.ports[0].name: Required value: with several ports"},
		{"names twice", doc("    name: a\n  - {name: a, port: 81}\n"), `spec.ports[1].name: Duplicate value: "a"`},
		{"port twice", doc("    name: a\n  - {name: b, port: 80}\n"), `spec.ports[1].port: Duplicate value: "80/TCP"`},
		{"protocol", doc("    protocol: tcp\n"), "protocol: Unsupported"},
		{"target port", doc("    targetPort: Not_a_name\n"), "targetPort: Invalid"},
		{"node port without type", doc("    nodePort: 30000\n"), "spec.ports[0].nodePort: Forbidden: needs type NodePort"},
		{"node port twice", doc("    name: a\n    nodePort: 30000\n  - {name: b, port: 81, nodePort: 30000}\n  type: NodePort\n"), "nodePort: Duplicate"},
		{"cluster IP", doc("  clusterIP: 10.96.0.300\n"), "spec.clusterIPs[0]: Invalid"},
		{"mapped cluster IP", doc("  clusterIP: ::ffff:10.96.0.3\n"), "spec.clusterIPs[0]: Invalid"},
		{"cluster IPs of one family", doc("  clusterIPs: [10.96.0.3, 10.96.0.4]\n"), "must be one of each family"},
		{"cluster IP and IPs differ", doc("  clusterIP: 10.96.0.3\n  clusterIPs: [10.96.0.4]\n"), "must be the first of clusterIPs"},
		{"three cluster IPs", doc("  clusterIPs: [10.96.0.3, 'fd00::1', 'fd00::2']\n"), "Too many"},
		{"family", doc("  ipFamilies: [IPv5]\n"), "ipFamilies[0]: Unsupported"},
		{"family twice", doc("  ipFamilies: [IPv4, IPv4]\n"), "ipFamilies[1]: Duplicate"},
		{"address of another family", doc("  ipFamilies: [IPv6]\n  clusterIP: 10.96.0.3\n"), "ipFamilies[0] is IPv6"},
		{"two families, single stack", doc("  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: SingleStack\n"), "two families are given"},
		{"external IP", doc("  externalIPs: [127.0.0.1]\n"), "spec.externalIPs[0]: Invalid"},
		{"source range", doc("  type: LoadBalancer\n  loadBalancerSourceRanges: [10.0.0.0]\n"), "want a network such as"},
		{"source range without type", doc("  loadBalancerSourceRanges: [10.0.0.0/8]\n"), "needs type LoadBalancer"},
		{"headless node port", doc("  type: NodePort\n  clusterIP: None\n"), "can be headless"},
		{"external name", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName}}", "externalName: Required"},
		{"affinity", doc("  sessionAffinity: Client\n"), "sessionAffinity: Unsupported"},
		{"affinity timeout", doc("  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}\n"), "between 1 and 86400"},
		{"traffic policy", doc("  internalTrafficPolicy: local\n"), "internalTrafficPolicy: Unsupported"},
		{"traffic policy without type", doc("  externalTrafficPolicy: Local\n"), "needs type NodePort"},
		{"distribution", doc("  trafficDistribution: Near\n"), "trafficDistribution: Unsupported"},
		{"health check", doc("  healthCheckNodePort: 30000\n"), "needs type LoadBalancer and"},
		{"ingress", doc("  type: LoadBalancer\nstatus: {loadBalancer: {ingress: [{}]}}\n"), "give an ip or a hostname"},
		{"weights", "{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {twill-cni.github.io/weights: a=0}}, spec: {ports: [{port: 1}]}}",
			"a weight is a number from 1 to 65535"},
		{"slice of no Service", "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4}", "name the Service"},
		{"slice of another family", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: a}},
			addressType: IPv6, endpoints: [{addresses: [192.0.2.1]}]}`, "endpoints[0].addresses[0]: Invalid value"},
		{"slice port twice", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: a}},
			addressType: IPv6, ports: [{port: 1}, {port: 2}]}`, "ports[1].name: Duplicate"},
		{"endpoints", "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: x}]}]}", "subsets[0].addresses[0].ip: Invalid"},
		{"endpoints without addresses", "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{ports: [{port: 1}]}]}", "give addresses"},
		{"list in a list", "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List}]}", "a List within a List"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			docs, err := Parse([]byte(strings.ReplaceAll(test.text, "\t", " ")))
			if err == nil || !strings.Contains(err.Error(), test.want) || docs != nil {
				t.Errorf("have %v, error:\n%v\nwant one with %q", docs, err, test.want)
			}
		})
	}
}

func TestComplete(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	type result struct {
		Policy   corev1.IPFamilyPolicy
		Families []corev1.IPFamily
		IPs      []string
		Ports    []int32
		Check    int32
		Wanted   Wanted
	}
	single, prefer, require := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	tests := []struct {
		name, spec, old string // old is empty for none
		families        []corev1.IPFamily
		want            result
		err             string
	}{
		{name: "single stack", spec: `{ports: [{port: 1}]}`, families: []corev1.IPFamily{v6, v4},
			want: result{single, []corev1.IPFamily{v6}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v6}}}},
		{name: "prefer dual stack", spec: `{ports: [{port: 1}], ipFamilyPolicy: PreferDualStack}`, families: []corev1.IPFamily{v4, v6},
			want: result{prefer, []corev1.IPFamily{v4, v6}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4, v6}}}},
		{name: "prefer dual stack where there is one", spec: `{ports: [{port: 1}], ipFamilyPolicy: PreferDualStack}`, families: []corev1.IPFamily{v4},
			want: result{prefer, []corev1.IPFamily{v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}}}},
		{name: "require dual stack where there is one", spec: `{ports: [{port: 1}], ipFamilyPolicy: RequireDualStack}`, families: []corev1.IPFamily{v4},
			err: "ipFamilyPolicy"},
		{name: "the order of families is the manifest's", spec: `{ports: [{port: 1}], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]}`,
			families: []corev1.IPFamily{v4, v6}, want: result{require, []corev1.IPFamily{v6, v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v6, v4}}}},
		{name: "two families mean dual stack", spec: `{ports: [{port: 1}], ipFamilies: [IPv6, IPv4]}`, families: []corev1.IPFamily{v4, v6},
			want: result{require, []corev1.IPFamily{v6, v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v6, v4}}}},
		{name: "a family that the cluster has not", spec: `{ports: [{port: 1}], ipFamilies: [IPv6]}`, families: []corev1.IPFamily{v4}, err: "ipFamilies[0]"},
		{name: "a given address says the family", spec: `{ports: [{port: 1}], clusterIP: 'fd00:96::5'}`, families: []corev1.IPFamily{v4, v6},
			want: result{single, []corev1.IPFamily{v6}, []string{"fd00:96::5"}, []int32{0}, 0, Wanted{}}},
		{name: "one of two addresses is given", spec: `{ports: [{port: 1}], clusterIP: 10.96.0.5, ipFamilyPolicy: PreferDualStack}`, families: []corev1.IPFamily{v4, v6},
			want: result{prefer, []corev1.IPFamily{v4, v6}, []string{"10.96.0.5"}, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v6}}}},
		{name: "headless", spec: `{clusterIP: None, selector: {a: b}}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, []string{"None"}, nil, 0, Wanted{}}},
		{name: "headless without selector", spec: `{clusterIP: None}`, families: []corev1.IPFamily{v4},
			want: result{require, []corev1.IPFamily{v4, v6}, []string{"None"}, nil, 0, Wanted{}}},
		{name: "node ports", spec: `{type: NodePort, ports: [{name: a, port: 1, nodePort: 30001}, {name: b, port: 2}]}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, nil, []int32{30001, 0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}, NodePorts: []int{1}}}},
		{name: "one node port for DNS", spec: `{type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, nil, []int32{0, 0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}, NodePorts: []int{0}}}},
		{name: "health check", spec: `{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 1}]}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}, NodePorts: []int{0}, HealthCheckPort: true}}},
		{name: "no node ports for a load balancer", spec: `{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1}]}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}}}},
		{name: "what was given stays", spec: `{type: NodePort, ports: [{name: b, port: 2}, {name: a, port: 1}]}`,
			old:      `{type: NodePort, clusterIP: 10.96.0.9, ipFamilies: [IPv4], ports: [{name: x, port: 1, nodePort: 30001}]}`,
			families: []corev1.IPFamily{v4, v6}, want: result{single, []corev1.IPFamily{v4}, []string{"10.96.0.9"}, []int32{0, 30001}, 0, Wanted{NodePorts: []int{0}}}},
		{name: "type changes", spec: `{ports: [{port: 1}]}`, old: `{type: NodePort, clusterIP: 10.96.0.9, ipFamilies: [IPv4], ports: [{port: 1, nodePort: 30001}]}`,
			families: []corev1.IPFamily{v4}, want: result{single, []corev1.IPFamily{v4}, []string{"10.96.0.9"}, []int32{0}, 0, Wanted{}}},
		{name: "a second family comes", spec: `{ports: [{port: 1}], ipFamilyPolicy: PreferDualStack}`, old: `{clusterIP: 10.96.0.9, ipFamilies: [IPv4], ports: [{port: 1}]}`,
			families: []corev1.IPFamily{v6, v4}, want: result{prefer, []corev1.IPFamily{v4, v6}, []string{"10.96.0.9"}, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v6}}}},
		{name: "a second family goes", spec: `{ports: [{port: 1}], ipFamilyPolicy: SingleStack}`,
			old:      `{clusterIPs: [10.96.0.9, 'fd00::9'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, ports: [{port: 1}]}`,
			families: []corev1.IPFamily{v4, v6}, want: result{single, []corev1.IPFamily{v4}, []string{"10.96.0.9"}, []int32{0}, 0, Wanted{}}},
		{name: "dual stack stays", spec: `{ports: [{port: 1}]}`,
			old:      `{clusterIPs: [10.96.0.9, 'fd00::9'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, ports: [{port: 1}]}`,
			families: []corev1.IPFamily{v4, v6}, want: result{prefer, []corev1.IPFamily{v4, v6}, []string{"10.96.0.9", "fd00::9"}, []int32{0}, 0, Wanted{}}},
		{name: "the first family stays", spec: `{ports: [{port: 1}], ipFamilies: [IPv6]}`, old: `{clusterIP: 10.96.0.9, ipFamilies: [IPv4], ports: [{port: 1}]}`,
			families: []corev1.IPFamily{v4, v6}, err: "stays so"},
		{name: "a name after an address", spec: `{type: ExternalName, externalName: x.example}`, old: `{clusterIP: 10.96.0.9, ipFamilies: [IPv4], ports: [{port: 1}]}`,
			families: []corev1.IPFamily{v4}, want: result{}},
		{name: "an address after a name", spec: `{ports: [{port: 1}]}`, old: `{type: ExternalName, externalName: x.example}`, families: []corev1.IPFamily{v4},
			want: result{single, []corev1.IPFamily{v4}, nil, []int32{0}, 0, Wanted{ClusterIPs: []corev1.IPFamily{v4}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var old *corev1.Service
			if test.old != "" {
				old = service(t, test.old)
			}
			svc := service(t, test.spec)
			wanted, errs := Complete(svc, old, test.families)
			if test.err != "" {
				if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.err) {
					t.Errorf("have error %v, want one with %q", errs, test.err)
				}
				return
			}
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			have := result{Families: svc.Spec.IPFamilies, IPs: svc.Spec.ClusterIPs, Check: svc.Spec.HealthCheckNodePort, Wanted: wanted}
			if svc.Spec.IPFamilyPolicy != nil {
				have.Policy = *svc.Spec.IPFamilyPolicy
			}
			for _, p := range svc.Spec.Ports {
				have.Ports = append(have.Ports, p.NodePort)
			}
			if diff := cmp.Diff(test.want, have, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGive(t *testing.T) {
	svc := service(t, `{type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.0.1,
		ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 80}]}`)
	w, errs := Complete(svc, nil, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	w.Give(svc, []netip.Addr{netip.MustParseAddr("fd00::1")}, []uint16{30001, 30002, 30003})
	s, err := FromService(svc)
	if err != nil {
		t.Fatal(err)
	}
	if s.ClusterIPs[1].String() != "fd00::1" || s.Ports[0].NodePort != 30001 || s.Ports[1].NodePort != 30001 || s.Ports[2].NodePort != 30002 ||
		s.HealthCheckNodePort != 30003 {
		t.Errorf("have %+v", s)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":1}]}}]}`))
	f.Add([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, targetPort: web}], type: NodePort}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Parse(data)
		if err != nil {
			return
		}
		for _, d := range docs {
			for _, slice := range d.Slices {
				if _, err := FromEndpointSlice(slice); err != nil {
					t.Errorf("a valid slice: %v", err)
				}
			}
			if d.Service == nil {
				continue
			}
			if _, err := FromService(d.Service); err != nil {
				t.Errorf("a valid Service: %v", err)
			}
			text, err := Encode(d.Service)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(text)
			if err != nil || len(again) != 1 {
				t.Fatalf("%s cannot be read again: %v", text, err)
			}
			if diff := cmp.Diff(d.Service, again[0].Service); diff != "" {
				t.Errorf("it reads differently the second time: %s", diff)
			}
			_, _ = Complete(d.Service, again[0].Service, []corev1.IPFamily{corev1.IPv4Protocol})
		}
	})
}

func FuzzDecodeService(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"a","namespace":"b"},"spec":{"ports":[{"port":80,"protocol":"TCP"}],"clusterIPs":["10.96.0.1"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := store.ObjectName{Namespace: "b", Name: "a"}
		if svc, err := DecodeService(name, data); err == nil {
			if s, err := FromService(svc); err == nil && s.Name != name {
				t.Errorf("have %s", s.Name)
			}
		}
		if slice, err := DecodeEndpointSlice(name, data); err == nil {
			_, _ = FromEndpointSlice(slice)
		}
	})
}

// The documentation's manifests can be applied.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i, block := range strings.Split(string(text), "```") {
		if body, ok := strings.CutPrefix(block, "yaml\n"); ok && i%2 == 1 && strings.Contains(body, "apiVersion:") {
			found++
			if _, err := Parse([]byte(body)); err != nil {
				t.Errorf("%s\n%v", body, err)
			}
		}
	}
	if found == 0 {
		t.Error("no manifest was found")
	}
}
