package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// randomNodes are the nodes of newRig.
func randomNodes(nodes int) []policytest.Node {
	var all []policytest.Node
	for number := range nodes {
		a := podAddrs(number+1, 0)
		n := policytest.Node{Name: fmt.Sprintf("node%d", number+1)}
		n.IPv4, _ = a[0].Prefix(24)
		n.IPv6, _ = a[1].Prefix(64)
		all = append(all, n)
	}
	return all
}

// randomServices are what is asked about random policies, whose ports are these and those beside them.
func randomServices() []policytest.Service {
	all := policytest.Services()
	for _, port := range []uint16{53, 79, 82, 443, 8080, 9000, 65535} {
		all = append(all, policytest.Service{Protocol: store.TCP, Port: port}, policytest.Service{Protocol: store.UDP, Port: port})
	}
	return all
}

// TestRandomPolicies has random policies mean the same to packets as to the World of package policy.
func TestRandomPolicies(t *testing.T) {
	t.Parallel()
	clusters, policies := 4, 300
	if testing.Short() {
		clusters, policies = 1, 40
	}
	random := newRandom(t)
	count, open, shut := 0, 0, 0
	for range clusters {
		r := newRig(t, rigOptions{nodes: 3, backend: []string{"vxlan", "bgp"}[random.IntN(2)]})
		size := policytest.Size{Nodes: randomNodes(3), Namespaces: 4, Pods: 9, Anywhere: 0.15}
		pods := r.addPods(t, policytest.Generate(random, size).Pods)
		for written := 0; written < policies && !t.Failed(); {
			size.Policies, size.ClusterPolicies = random.IntN(6), random.IntN(4)
			written += size.Policies + size.ClusterPolicies
			changes := policytest.Generate(random, size).Changes()
			r.apply(t, changes)
			all := decided(changes, pods)
			for _, e := range all {
				if e.allowed {
					open++
				} else {
					shut++
				}
			}
			failed := wrong(all)
			for _, f := range failed[:min(len(failed), 10)] {
				t.Error(f)
			}
			if failed != nil {
				text, err := policytest.Manifests(changes)
				must(t, err)
				t.Errorf("%d of %d wrong with pods\n%s\nand\n%s", len(failed), len(all), describe(pods), text)
				r.dump(t)
			}
		}
		count += policies
		harness.Down(t, r.lab)
	}
	t.Logf("%d policies, %d connections that were open and %d that were not", count, open, shut)
}

// ruling is what the World says of a connection.
type ruling struct {
	question
	policy.Verdict
	why string
}

// rulings are what the World says of all connections between pods.
func rulings(changes store.PolicyChanges, pods []*pod) []ruling {
	changes.Reset, changes.Pods = true, map[store.PodKey]*store.Pod{}
	for _, p := range pods {
		changes.Pods[p.record.Key()] = p.record
	}
	world := policy.NewWorld()
	world.Apply(changes)
	var all []ruling
	for _, src := range pods {
		for _, dst := range pods {
			for _, service := range randomServices() {
				for i, addr := range dst.record.Addrs {
					flow := policy.Flow{Src: src.record.Addrs[i], Dst: addr}
					flow.Protocol, flow.Port = service.For(addr)
					v := world.Decide(flow)
					why := fmt.Sprintf("(%s: %s; %s)", dst.name, v.Egress.Explain(flow), v.Ingress.Explain(flow))
					all = append(all, ruling{question{src.prober, addr, service}, v, why})
				}
			}
		}
	}
	return all
}

// decided are all connections between pods, with what the World says of them.
func decided(changes store.PolicyChanges, pods []*pod) []expected {
	var all []expected
	for _, r := range rulings(changes, pods) {
		all = append(all, expected{question: r.question, allowed: r.Allowed(), why: r.why})
	}
	return all
}

func describe(pods []*pod) string {
	var text strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&text, "%s on %s at %v with %v and %v\n", p.record.Name, p.record.Node, p.record.Addrs, p.record.Labels, p.record.Ports)
	}
	return text.String()
}

// TestOrderDoesNotMatter reaches one state on several ways: policies, namespaces and pods come in other orders, after others that were there before, and
// are changed on the way. The tables are the same in the end.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	random := newRandom(t)
	ways := 12
	if testing.Short() {
		ways = 3
	}
	r := newRig(t, rigOptions{nodes: 2})
	size := policytest.Size{Nodes: randomNodes(2), Namespaces: 4, Pods: 8, Policies: 12, ClusterPolicies: 4, Anywhere: 0.2}
	end := policytest.Generate(random, size)
	changes := end.Changes()
	records := end.Pods
	pods := r.addPods(t, records)
	var first map[string]string
	for way := range ways {
		before := policytest.Generate(random, size).Changes() // the same names of namespaces, and of some policies
		if way > 0 {
			r.apply(t, before)
			pods = r.walk(t, random, changes, pods)
		}
		name := r.write(t, changes)
		within(t, patience, func() error { return r.enforced(t.Context(), name) })
		if failed := wrong(decided(changes, pods)); failed != nil {
			t.Errorf("%d. way: %d wrong: %q", way+1, len(failed), failed[:min(len(failed), 10)])
		}
		tables := map[string]string{}
		for _, n := range r.lab.Nodes() {
			tables[n.Name] = canonical(table(t, n), name)
		}
		if first == nil {
			first = tables
		}
		for node, text := range tables {
			if text != first[node] {
				t.Errorf("%d. way: the table of %s differs:\n%s", way+1, node, differing(first[node], text))
			}
		}
	}
}

// walk goes from what is to the end in single steps, in random order: objects are written one by one, and pods attached anew. A pod is for a while one with
// other labels.
func (r *rig) walk(t *testing.T, random *rand.Rand, end store.PolicyChanges, pods []*pod) []*pod {
	t.Helper()
	wanted := contents(t, end)
	var steps []func()
	for key, value := range wanted {
		steps = append(steps, func() { r.put(t, key, value) })
	}
	for key := range r.stored {
		if _, stays := wanted[key]; !stays {
			steps = append(steps, func() { r.put(t, key, "") })
		}
	}
	now := slices.Clone(pods)
	for i, p := range pods {
		if i%2 == 0 {
			continue
		}
		steps = append(steps, func() {
			other := *p.record
			other.Labels = map[string]string{"app": "b", "tier": "a"}
			must(t, p.Delete(t.Context()))
			q := r.addPod(t, &other)
			must(t, q.Delete(t.Context()))
			now[i] = r.addPod(t, p.record)
		})
	}
	random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, step := range steps {
		step()
	}
	return now
}

// put writes one key of the registry; no value deletes it.
func (r *rig) put(t *testing.T, key, value string) {
	t.Helper()
	if value == "" {
		_, err := r.etcd.Delete(t.Context(), registry+key)
		must(t, err)
		delete(r.stored, key)
		return
	}
	_, err := r.etcd.Put(t.Context(), registry+key, value)
	must(t, err)
	r.stored[key] = value
}
