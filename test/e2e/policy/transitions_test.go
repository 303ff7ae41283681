package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// TestTransitions goes from one set of random policies to another and back while connections are opened. What both allow is open all the time, and what
// neither allows is closed all the time; also when daemons are killed on the way, so that the next one finds what the last one has left. Labels stay: see package
// filter.
func TestTransitions(t *testing.T) {
	for _, name := range []string{"alive", "killed"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rounds, turns := 12, 8
			if testing.Short() {
				rounds, turns = 2, 6
			}
			random := newRandom(t)
			r := newRig(t, rigOptions{nodes: 2})
			size := policytest.Size{Nodes: randomNodes(2), Namespaces: 3, Pods: 6, Anywhere: 0.3}
			pods := r.addPods(t, policytest.Generate(random, size).Pods)
			for range rounds {
				size.Policies, size.ClusterPolicies = 3+random.IntN(12), random.IntN(6)
				one := policytest.Generate(random, size).Changes()
				other := policytest.Generate(random, size).Changes()
				other.Namespaces = one.Namespaces
				if random.IntN(2) == 0 { // some policies stay
					for name, p := range one.Policies {
						if random.IntN(2) == 0 {
							other.Policies[name] = p
						}
					}
				}
				r.apply(t, one)
				streams, want := alike(random, pods, one, other)
				for turn := range turns {
					next := []store.PolicyChanges{other, one}[turn%2]
					if name == "alive" {
						r.apply(t, next)
						continue
					}
					step := r.write(t, next)
					n := r.lab.Nodes()[random.IntN(2)]
					time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond) // the moment of an accident
					must(t, n.KillDaemon(t.Context()))
					must(t, n.StartDaemon())
					must(t, n.Ready(t.Context()))
					within(t, patience, func() error { return r.enforced(t.Context(), step) })
				}
				for _, s := range streams {
					s.end(t, want)
				}
				if t.Failed() {
					for _, changes := range []store.PolicyChanges{one, other} {
						text, err := policytest.Manifests(changes)
						must(t, err)
						t.Logf("one of the two:\n%s", text)
					}
					t.Fatalf("the pods were\n%s", describe(pods))
				}
			}
		})
	}
}

// alike begins to ask some of what is the same with both, and returns what the answers should be. A connection that is never open is one that the same end
// refuses with both: nodes do not change at the same moment, so that one end may be at the old policies while the other is at the new ones.
func alike(random *rand.Rand, pods []*pod, one, other store.PolicyChanges) ([]*stream, map[question]string) {
	const most = 4 // questions of each pod, of each kind
	before, after := rulings(one, pods), rulings(other, pods)
	want := map[question]string{}
	chosen := map[*prober][]question{}
	count := map[string]int{}
	for _, i := range random.Perm(len(before)) {
		b, a := before[i], after[i]
		served := b.service.Port == 80 || b.service.Port == 81 || b.service == policytest.Service{}
		never := !b.Egress.Allowed && !a.Egress.Allowed || !b.Ingress.Allowed && !a.Ingress.Allowed
		always := b.Allowed() && a.Allowed()
		kind := fmt.Sprint(b.from.name, always)
		if never == always || !served || count[kind] == most {
			continue
		}
		count[kind]++
		chosen[b.from] = append(chosen[b.from], b.question)
		if want[b.question] = silent; always {
			want[b.question] = open
		}
	}
	var streams []*stream
	for _, questions := range chosen {
		streams = append(streams, newStream(questions...))
	}
	return streams, want
}

// TestRepair has a table that others have changed be what it should be again, soon.
func TestRepair(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 1})
	pods := r.addPods(t, modelPods(1))
	n := r.node(1)
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("y", "deny", ""), true, false)))
	before := uncounted(table(t, n))
	for _, damage := range []string{
		"delete table inet twill-policy",
		"flush chain inet twill-policy forward",
		"flush ruleset",
		"flush map inet twill-policy ingress4; flush map inet twill-policy ingress6",
		"insert rule inet twill-policy forward accept",
		"delete element inet twill-policy ingress4 { 10.70.1.18 }; add element inet twill-policy ingress4 { 10.70.1.18 : goto open }",
		"add set inet twill-policy foreign { type ipv4_addr; }",
	} {
		sh(t, n.Netns(), "nft '"+damage+"'")
		took := within(t, patience, func() error {
			after, err := tryTable(t, n)
			if err == nil && after != before {
				err = fmt.Errorf("the table differs:\n%s", differing(before, after))
			}
			return err
		})
		t.Logf("%s: repaired after %v", damage, took.Round(time.Millisecond))
		wantNoneWrong(t, asks(pods[0].prober, pods[1].record.Addrs, false, "x/a to y/a after "+damage))
		wantNoneWrong(t, asks(pods[0].prober, pods[2].record.Addrs, true, "x/a to z/a after "+damage))
	}
}

// TestUnreadable has an object that cannot be read change nothing.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 1})
	pods := r.addPods(t, modelPods(1))
	changes := changesOf(policytest.Namespaces(), closes(named("y", "deny", ""), true, false))
	r.apply(t, changes)
	for _, key := range []string{"networkpolicies/y/deny", "namespaces/x", "clusternetworkpolicies/new", "networkpolicies/y/new"} {
		_, err := r.etcd.Put(t.Context(), registry+key, `{"spec": 1`)
		must(t, err)
		within(t, patience, func() error { return r.logged(key) })
	}
	pair := func() {
		t.Helper()
		wantNoneWrong(t, asks(pods[0].prober, pods[1].record.Addrs, false, "x/a to y/a"))
		wantNoneWrong(t, asks(pods[0].prober, pods[2].record.Addrs, true, "x/a to z/a"))
	}
	pair()
	// A daemon that has never read the policy cannot enforce it; what the kernel holds of it goes. It says so.
	delete(r.stored, "networkpolicies/y/deny")
	r.apply(t, changes)
	pair()
}

// logged returns nil when the log of the first node has an error about that object.
func (r *rig) logged(object string) error {
	text, err := r.node(1).DaemonLog()
	if err != nil {
		return err
	}
	if !errorAbout(text, object) {
		return fmt.Errorf("the log has no error about %s", object)
	}
	return nil
}

// TestWithoutEtcd has policies stay in force while etcd is away, for pods that come meanwhile, too.
func TestWithoutEtcd(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := r.addPods(t, modelPods(2))
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "locked", "locked"), false, true), closes(named("y", "deny", ""), true, false)))
	must(t, r.lab.Etcd().Stop(t.Context()))
	fresh := r.attachPods(t, []*store.Pod{
		{Node: "node1", Name: store.ObjectName{Namespace: "x", Name: "locked"}, Labels: map[string]string{"app": "locked"}},
		{Node: "node1", Name: store.ObjectName{Namespace: "x", Name: "free"}},
	})
	check := func() {
		t.Helper()
		for _, dst := range pods {
			wantNoneWrong(t, asks(fresh[0].prober, dst.record.Addrs, false, "from a locked pod"))
			wantNoneWrong(t, asks(fresh[1].prober, dst.record.Addrs, dst.record.Name.Namespace != "y", "from a free pod"))
		}
	}
	check()
	// A daemon that starts without etcd leaves what is there.
	must(t, r.node(1).KillDaemon(t.Context()))
	must(t, r.node(1).StartDaemon())
	time.Sleep(2 * time.Second) // what it might do
	check()
	must(t, r.lab.Etcd().Start(t.Context()))
	must(t, r.node(1).Ready(t.Context()))
	check()
}
