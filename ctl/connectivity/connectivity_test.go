package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// topology has that many nodes, with a pod of each role, in both families.
func topology(nodes int) *Topology {
	t := &Topology{Parts: map[Part]string{}, Beyond: []string{"beyond"}, Outside: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:443"), netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), 0)}}
	for n := 1; n <= nodes; n++ {
		node := fmt.Sprintf("node%d", n)
		t.Nodes = append(t.Nodes, Node{Name: node, Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n))}, Asks: n == 1})
		for i, role := range []Role{Client, Server} {
			t.Pods = append(t.Pods, Pod{Name: node + "-" + string(role), Node: node, Role: role, MTU: 1500 - n,
				Addresses:   []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.1.%d.%d", n, i+2)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", n, i+2))},
				Service:     []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.96.%d.%d", n, i+2))},
				ServiceName: node + "-" + string(role) + ".twill-connectivity.svc.cluster.local", NameServers: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.1.%d.1", n))}})
		}
		t.Pods[len(t.Pods)-1].NodePorts = map[store.Protocol]uint16{store.TCP: uint16(30000 + n), store.UDP: uint16(31000 + n)}
	}
	return t
}

func TestPlanCounts(t *testing.T) {
	all := map[Kind]int{PodToPod: 48, LargePackets: 24, PodToNode: 8, NodeToPod: 8, PodToService: 24, Hairpin: 8, NodePort: 12, PodToDNS: 4, Outside: 8, Control: 12, Denied: 20, Allowed: 22}
	without := func(kinds ...Kind) map[Kind]int {
		out := map[Kind]int{}
		for k, n := range all {
			if !slices.Contains(kinds, k) {
				out[k] = n
			}
		}
		return out
	}
	with := func(kind Kind, n int) map[Kind]int {
		out := without()
		out[kind] = n
		return out
	}
	tests := []struct {
		name   string
		change func(*Topology)
		want   map[Kind]int
	}{
		{"everything", func(*Topology) {}, all},
		{"no proxy", func(t *Topology) { t.Parts[PartServices] = "off" }, without(PodToService, Hairpin, NodePort)},
		{"no node ports", func(t *Topology) {
			for i := range t.Pods {
				t.Pods[i].NodePorts = nil
			}
		}, without(NodePort)},
		{"nobody beyond", func(t *Topology) { t.Beyond = nil }, with(NodePort, 8)},
		{"no DNS", func(t *Topology) { t.Parts[PartDNS] = "off" }, func() map[Kind]int { out := without(PodToDNS); out[Allowed] = 20; return out }()},
		{"no policies", func(t *Topology) { t.Parts[PartPolicies] = "off" }, without(Control, Denied, Allowed)},
		{"no outside", func(t *Topology) { t.Outside = nil }, func() map[Kind]int { out := without(Outside); out[Denied] = 16; return out }()},
		{"no MTU", func(t *Topology) {
			for i := range t.Pods {
				t.Pods[i].MTU = 0
			}
		}, without(LargePackets)},
		{"nodes ask their own pods", func(t *Topology) {
			for i := range t.Nodes {
				t.Nodes[i].Asks, t.Nodes[i].AsksOwn = false, true
			}
		}, with(NodeToPod, 4)},
		{"nothing", func(t *Topology) { *t = Topology{} }, map[Kind]int{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := topology(2)
			tt.change(in)
			cases, err := Plan(in)
			if err != nil {
				t.Fatal(err)
			}
			got := map[Kind]int{}
			for _, c := range cases {
				got[c.Kind]++
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every denied case has a control, which asks the same and expects an answer; the large packets have the smaller MTU.
func TestPlanControls(t *testing.T) {
	cases, err := Plan(topology(3))
	if err != nil {
		t.Fatal(err)
	}
	controls := map[control]bool{}
	for _, c := range cases {
		if c.Kind == PodToPod || c.Kind == Control || c.Kind == Outside {
			controls[controlOf(c)] = c.Expect == probe.Reached
		}
	}
	for _, c := range cases {
		if c.Kind == Denied && (!controls[controlOf(c)] || c.Expect != probe.Silent) {
			t.Errorf("%s to %s, %s has no control", c.From, c.To, c.Question)
		}
		if c.Kind == LargePackets && c.From == "node1-client" && c.To == "node3-server" && c.Size != 1497 {
			t.Errorf("a packet of %d bytes", c.Size)
		}
	}
}

// Every node is asked from every other one, for pods of every node, of which none is asked of two nodes by the same pod.
func TestPlanNodePorts(t *testing.T) {
	in := topology(5)
	in.Nodes[0].Addresses = append(in.Nodes[0].Addresses, netip.MustParseAddr("192.0.2.101")) // at which the proxy does not answer
	cases, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	fromTo, toPod, fromPod := map[[2]string]int{}, map[[2]string]int{}, map[[2]string]int{}
	for _, c := range cases {
		if c.Kind == NodePort && c.From != "beyond" && c.Protocol == store.TCP {
			fromTo[[2]string{c.From, c.To}]++
			toPod[[2]string{c.To, c.Want[0]}]++
			fromPod[[2]string{c.From, c.Want[0]}]++
		}
		if c.Kind == NodePort && c.From == "beyond" && strings.HasPrefix(c.Want[0], c.To) {
			t.Errorf("from beyond the pod of the node %s itself is asked", c.To)
		}
	}
	for _, pairs := range []map[[2]string]int{fromTo, toPod, fromPod} {
		for pair, n := range pairs {
			if n != 1 || len(pairs) != 25 {
				t.Errorf("%v: %d of %d", pair, n, len(pairs))
			}
		}
	}
}

// What is expected is what the policies mean, and what they deny is denied by one end alone: no policy hides that another does nothing.
func TestPlanAndPolicies(t *testing.T) {
	in := topology(3)
	in.Outside = append(in.Outside, netip.MustParseAddrPort("203.0.113.2:53"))
	world := policy.NewWorld()
	policies, err := Policies()
	if err != nil {
		t.Fatal(err)
	}
	changes := store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{}, Pods: map[store.PodKey]*store.Pod{}}
	for _, d := range policies {
		if changes.Policies[d.Name], err = manifest.FromNetworkPolicy(d.NetworkPolicy); err != nil {
			t.Fatal(err)
		}
	}
	at := map[string]Pod{}
	for _, p := range in.Pods {
		pod := &store.Pod{Name: store.ObjectName{Namespace: Namespace, Name: p.Name}, Node: p.Node, Addrs: p.Addresses, Labels: Labels(p.Name, p.Role)}
		at[p.Name], changes.Pods[pod.Key()] = p, pod
	}
	world.Apply(changes)
	cases, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	judged := map[Kind]int{}
	for _, c := range cases {
		if c.Kind != Denied && c.Kind != Allowed {
			continue
		}
		i := slices.IndexFunc(at[c.From].Addresses, func(a netip.Addr) bool { return a.Is4() == c.Question.To.Addr().Is4() })
		v := world.Decide(policy.Flow{Src: at[c.From].Addresses[i], Dst: c.Question.To.Addr(), Protocol: c.Protocol, Port: c.Question.To.Port()})
		judged[c.Kind]++
		if v.Allowed() != (c.Kind == Allowed) || !v.Egress.Allowed && !v.Ingress.Allowed {
			t.Errorf("%s: %s to %s, %s: %+v", c.Kind, c.From, c.To, c.Question, v)
		}
	}
	if judged[Denied] != 48 || judged[Allowed] != 54 {
		t.Errorf("judged %v", judged)
	}
}

// A Service's node ports may be one for both protocols, or one for each.
func TestServe(t *testing.T) {
	for name, tt := range map[string]struct {
		ports []corev1.ServicePort
		want  map[store.Protocol]uint16
	}{
		"none": {ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: ServicePort}}},
		"each": {ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, NodePort: 30001}, {Protocol: corev1.ProtocolUDP, NodePort: 65535}},
			want: map[store.Protocol]uint16{store.TCP: 30001, store.UDP: 65535}},
	} {
		var p Pod
		err := p.Serve(&corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1"}, Ports: tt.ports}})
		if diff := cmp.Diff(tt.want, p.NodePorts); diff != "" || err != nil || len(p.Service) != 1 {
			t.Errorf("%s: %v, %v %s", name, err, p.Service, diff)
		}
	}
	if err := new(Pod).Serve(&corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: []string{"None"}}}); err == nil {
		t.Error("no address is taken")
	}
}

func TestTooMany(t *testing.T) {
	if _, err := Plan(topology(200)); err == nil || !strings.Contains(err.Error(), "400 pods") {
		t.Error(err)
	}
}

// fake is a cluster in which everything is as it is to be, save what broken says.
type fake struct {
	broken func(from string, q Question, enforced bool) *probe.Answer

	mu       sync.Mutex
	enforced bool
	asked    map[string]int
}

var errNoProgram = errors.New("no such program")

func (f *fake) Ask(_ context.Context, from string, q Question, _ time.Duration) (probe.Answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[from+" "+q.String()]++
	if a := f.broken(from, q, f.enforced); a != nil {
		if a.Outcome == "" {
			return *a, errNoProgram
		}
		return *a, nil
	}
	if f.enforced && denies(from, q) {
		return probe.Answer{Outcome: probe.Silent, Detail: "no answer within 2s"}, nil
	}
	return probe.Answer{Outcome: probe.Reached}, nil
}

// denies is what the policies deny.
func denies(from string, q Question) bool {
	client := strings.HasSuffix(from, string(Client))
	switch {
	case q.Lookup != "":
		return false
	case len(q.Want) == 0:
		return client
	case q.To.Port() == ClosedPort:
		return client || strings.HasSuffix(q.Want[0], string(Server))
	}
	return !client && strings.HasSuffix(q.Want[0], string(Server))
}

func (f *fake) Enforce(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enforced = true
	return nil
}

func (f *fake) Command(c Case) string { return "trace " + c.From + " " + c.Target() }

func run(t *testing.T, f *fake, settle time.Duration) (*Report, error) {
	t.Helper()
	f.asked = map[string]int{}
	last := Progress{}
	report, err := Run(t.Context(), f, topology(2), Options{Patience: time.Second, Settle: settle, Together: 4,
		Progress: func(p Progress) {
			if p.Done != last.Done+1 || p.Done > p.Total {
				t.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		},
		Explain: func(_ context.Context, c Case) string { return "explained" }})
	if err == nil && last.Done != report.Total {
		t.Errorf("progress ends with %+v", last)
	}
	return report, err
}

// failedKinds counts what failed.
func failedKinds(r *Report) map[Kind]int {
	out := map[Kind]int{}
	for _, one := range r.Results {
		if !one.OK {
			out[one.Case.Kind]++
		}
	}
	return out
}

func TestRun(t *testing.T) {
	silent, reached := &probe.Answer{Outcome: probe.Silent, Detail: "no answer"}, &probe.Answer{Outcome: probe.Reached}
	at := netip.MustParseAddr("10.1.2.3")
	seen := map[string]bool{}
	tests := []struct {
		name   string
		broken func(from string, q Question, enforced bool) *probe.Answer
		want   map[Kind]int
	}{
		{"all well", func(string, Question, bool) *probe.Answer { return nil }, map[Kind]int{}},
		{"one way is dead, and what it denies is not judged", func(from string, q Question, _ bool) *probe.Answer {
			if from == "node1-server" && q.To.Addr() == at {
				return silent
			}
			return nil
		}, map[Kind]int{PodToPod: 2, LargePackets: 1, Denied: 1}},
		{"nothing lives: denied does not pass", func(string, Question, bool) *probe.Answer { return silent },
			map[Kind]int{PodToPod: 48, LargePackets: 24, PodToNode: 8, NodeToPod: 8, PodToService: 24, Hairpin: 8, NodePort: 12, PodToDNS: 4, Outside: 8, Control: 12, Denied: 20, Allowed: 22}},
		{"policies do nothing", func(string, Question, bool) *probe.Answer { return reached }, map[Kind]int{Denied: 20}},
		{"policies close everything", func(_ string, _ Question, enforced bool) *probe.Answer {
			if enforced {
				return silent
			}
			return nil
		}, map[Kind]int{Allowed: 22}},
		{"the policy on egress does nothing", func(from string, q Question, enforced bool) *probe.Answer {
			if enforced && strings.HasSuffix(from, string(Client)) && (len(q.Want) == 0 || strings.HasSuffix(q.Want[0], string(Client))) {
				return reached
			}
			return nil
		}, map[Kind]int{Denied: 8}},
		{"the policy on egress closes names", func(_ string, q Question, enforced bool) *probe.Answer {
			if enforced && q.Lookup != "" {
				return silent
			}
			return nil
		}, map[Kind]int{Allowed: 2}},
		{"nobody is outside, and what is denied of it is not judged", func(_ string, q Question, _ bool) *probe.Answer {
			if q.To.Port() == 443 {
				return silent
			}
			return nil
		}, map[Kind]int{Outside: 4, Denied: 2}},
		{"one node has no node ports", func(_ string, q Question, _ bool) *probe.Answer {
			if q.To.Addr() == netip.MustParseAddr("192.0.2.2") && q.To.Port() >= 30000 {
				return silent
			}
			return nil
		}, map[Kind]int{NodePort: 6}},
		{"a Service settles", func(from string, q Question, _ bool) *probe.Answer {
			key := from + q.String()
			if (q.To.Port() == ServicePort || q.To.Port() >= 30000) && !seen[key] {
				seen[key] = true
				return silent
			}
			return nil
		}, map[Kind]int{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			settle := 100 * time.Millisecond
			if len(tt.want) == 0 {
				settle = time.Minute // which nothing waits for
			}
			r, err := run(t, &fake{broken: tt.broken}, settle)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, failedKinds(r)); diff != "" {
				t.Error(diff)
			}
			explained := 0
			for _, one := range r.Results {
				if one.Why != "" {
					explained++
				}
				if one.OK != (one.Command == "") {
					t.Errorf("%+v", one)
				}
			}
			if explained > mostExplained || r.Failed > 0 && explained == 0 || r.OK() != (len(tt.want) == 0) {
				t.Errorf("%d explained of %d failed, OK %t", explained, r.Failed, r.OK())
			}
		})
	}
}

func TestCannotBeAsked(t *testing.T) {
	f := &fake{broken: func(string, Question, bool) *probe.Answer { return &probe.Answer{} }}
	if _, err := run(t, f, 0); !errors.Is(err, errNoProgram) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = &fake{asked: map[string]int{}, broken: func(string, Question, bool) *probe.Answer { return nil }}
	if _, err := Run(ctx, f, topology(1), Options{Together: 1, Progress: func(Progress) {}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The JUnit file is read back as XML, with hostile text in it, and counts and names what failed.
func TestJUnit(t *testing.T) {
	in := topology(2)
	in.Parts[PartDNS] = `--dns=off on "node1" & <node2>`
	q := echoTo(in.Pods[0].Addresses[0])
	bad := Result{Case: Case{Kind: PodToPod, From: "a<b", To: `c"d`, Question: q, Expect: probe.Reached}, Outcome: probe.Failed, Detail: "]]> \x00 & \xff", Why: "because", Command: "twillctl trace a b:1"}
	r := newReport(in, []Result{bad, newResult(Case{Kind: Denied, From: "a", To: "b", Question: q, Expect: probe.Silent}, probe.Answer{Outcome: probe.Silent}, time.Second)}, time.Now())
	var out bytes.Buffer
	if err := r.WriteJUnit(&out); err != nil {
		t.Fatal(err)
	}
	var got junitSuites
	if err := xml.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 3 || got.Failures != 1 || got.Skipped != 1 || len(got.Suites) != 3 {
		t.Errorf("%+v", got)
	}
	c := got.Suites[0].Cases[0]
	if c.Name != `a<b to c"d, 10.1.1.2` || c.Failure == nil || c.Failure.Text != "because\ntwillctl trace a b:1" || got.Suites[1].Cases[0].Failure != nil {
		t.Errorf("%+v", c)
	}
	if s := got.Suites[2].Cases[0].Skipped; s == nil || s.Message != in.Parts[PartDNS] {
		t.Errorf("%+v", s)
	}
}

func TestWriteAndJSON(t *testing.T) {
	in := topology(2)
	in.Parts[PartPolicies] = "--policy=off on node2"
	cases, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	var results []Result
	for _, c := range cases {
		a := probe.Answer{Outcome: probe.Reached}
		if c.From == "node1-client" && c.Kind == PodToPod && c.To == "node2-server" && c.Family() == "IPv4" {
			a = probe.Answer{Outcome: probe.Silent, Detail: "no answer within 2s"}
		}
		r := newResult(c, a, time.Millisecond)
		if !r.OK {
			r.Command = "twillctl trace"
		}
		results = append(results, r)
	}
	r := newReport(in, results, time.Now())
	r.Seconds = 1
	var out strings.Builder
	if err := r.Write(&out, false); err != nil {
		t.Fatal(err)
	}
	want := `pod to pod (TCP and UDP, in each family)
                node1-client  node1-server  node2-client  node2-server
  node1-client  ·             ✓             ✓             ✗
  node1-server  ✓             ·             ✓             ✓
  node2-client  ✓             ✓             ·             ✓
  node2-server  ✓             ✓             ✓             ·

                            IPv4      IPv6
  pod to pod                22/24     24/24
  large packets             12/12     12/12
  pod to node               8/8       -
  node to pod               4/4       4/4
  pod to Service            24/24     -
  pod to itself by Service  8/8       -
  node ports                12/12     -
  pod to DNS                4/4       -
  pod to outside            4/4       4/4
  policies: not run: --policy=off on node2

✗ pod to pod: node1-client → node2-server, 10.1.2.3:8080/tcp: no answer within 2s
    twillctl trace
✗ pod to pod: node1-client → node2-server, 10.1.2.3:8080/udp: no answer within 2s
    twillctl trace
✗ 2 of 144 cases failed (1.0 s)
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"question":"10.1.2.3:8080/udp","expect":"reached","outcome":"silent","ok":false,"detail":"no answer within 2s"`) {
		t.Errorf("%v: %s", err, text)
	}
}

// What an operator's datastore is given is valid, and concerns the test's own pods alone.
func TestObjects(t *testing.T) {
	services, err := Services([]Pod{{Name: "a", Role: Client}, {Name: "b", Role: Server}})
	if err != nil || len(services) != 2 || services[1].Service.Spec.Selector[podLabel] != "b" ||
		services[0].Service.Spec.Type != corev1.ServiceTypeClusterIP || services[1].Service.Spec.Type != corev1.ServiceTypeNodePort {
		t.Errorf("%v %+v", err, services)
	}
	policies, err := Policies()
	if err != nil || len(policies) != 3 {
		t.Fatalf("%v %+v", err, policies)
	}
	for _, d := range policies {
		if d.Kind != manifest.KindNetworkPolicy || d.Name.Namespace != Namespace || d.NetworkPolicy.Spec.PodSelector.MatchLabels[roleLabel] == "" {
			t.Errorf("%+v", d)
		}
	}
	if none, err := Services(nil); err != nil || none != nil {
		t.Errorf("%v %v", none, err)
	}
}
