package policy

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// patience is for what takes milliseconds on an idle machine.
const patience = 60 * time.Second

// networks are those of the model's pods (policytest.Pods): node1 has 10.70.1.0/24 and fd70:0:0:1::/64, and so on.
var networks = []netip.Prefix{netip.MustParsePrefix("10.70.0.0/16"), netip.MustParsePrefix("fd70::/48")}

// rig is a cluster with policies. Its pods have the addresses that a test wants them to have.
type rig struct {
	lab    *lab.Lab
	etcd   *clientv3.Client
	stored map[string]string // keys below the registry that the test has written, with their values
	steps  int               // how often it has written
}

// pod is an attached pod that asks, and is asked.
type pod struct {
	*lab.Pod
	*prober
	record *store.Pod
}

// rigOptions are what differs between rigs.
type rigOptions struct {
	backend string // default vxlan
	nodes   int
	proxy   string
	args    []string // of twilld
}

// newRig makes a rig without pods but for the sentinels. It ends with the test.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	l := harness.NewLab(t, lab.Options{Name: harness.Unique(runName), BinDir: binDir, Family: lab.DualStack, Networks: networks,
		Routing: lab.Routing{Backend: o.backend}, Proxy: o.proxy, DaemonArgs: slices.Concat([]string{"--policy=on"}, o.args), ReadyTimeout: patience})
	must(t, l.Up(t.Context()))
	client, err := l.Etcd().Client()
	must(t, err)
	r := &rig{lab: l, etcd: client, stored: map[string]string{}}
	for number := range o.nodes {
		r.reserve(t, number+1)
		_, err := l.AddNode(t.Context(), lab.NodeOptions{})
		must(t, err)
	}
	for number, n := range l.Nodes() {
		must(t, n.Ready(t.Context()))
		r.addPod(t, &store.Pod{Node: n.Name, Name: sentinel(n), Addrs: podAddrs(number+1, 250)})
	}
	r.write(t, store.PolicyChanges{})
	return r
}

// reserve stores which subnets the node with that number is to have.
func (r *rig) reserve(t *testing.T, number int) {
	t.Helper()
	subnets := store.Subnets{IPv4: netip.PrefixFrom(podAddrs(number, 0)[0], 24), IPv6: netip.PrefixFrom(podAddrs(number, 0)[1], 64)}
	backend := r.lab.Routing().Backend
	lease := store.NewLease(subnets, store.Attributes{PublicIP: netip.AddrFrom4([4]byte{172, 30, 1, byte(number)}), BackendType: backend})
	value, err := lease.Value()
	must(t, err)
	_, err = r.etcd.Put(t.Context(), lab.EtcdPrefix+"/subnets/"+subnets.Key(), string(value))
	must(t, err)
}

// podAddrs are the addresses with that number on the node with that one.
func podAddrs(node int, host byte) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 70, byte(node), host}),
		netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x70, 7: byte(node), 15: host}),
	}
}

// node returns the node of that number, from 1.
func (r *rig) node(number int) *lab.Node { return r.lab.Nodes()[number-1] }

// podOptions are how a pod is attached.
func podOptions(p *store.Pod) lab.PodOptions {
	o := lab.PodOptions{
		Name:   p.Name.Namespace + "-" + p.Name.Name,
		Labels: p.Labels,
		Ports:  labPorts(p.Ports),
		Args:   [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Name.Namespace}, {"K8S_POD_NAME", p.Name.Name}},
	}
	if len(p.Addrs) > 0 {
		o.CapabilityArgs = map[string]any{"ips": p.Addrs}
	}
	return o
}

// labPorts are ports as a runtime passes them.
func labPorts(ports []store.PodPort) []netconf.PodPort {
	var all []netconf.PodPort
	for _, p := range namedOnce(ports) {
		all = append(all, netconf.PodPort{Name: p.Name, ContainerPort: p.Port, Protocol: netconf.Protocol(p.Protocol)})
	}
	return all
}

// namedOnce leaves out ports whose name and protocol an earlier one has. In Kubernetes another container may have such; a plain host's pod has not.
func namedOnce(ports []store.PodPort) []store.PodPort {
	var once []store.PodPort
	for _, p := range ports {
		if !slices.ContainsFunc(once, func(o store.PodPort) bool { return o.Name == p.Name && o.Protocol == p.Protocol }) {
			once = append(once, p)
		}
	}
	return once
}

// addPod attaches a pod, with its addresses if it has some, and has it answer what policytest.Services asks for.
func (r *rig) addPod(t testing.TB, record *store.Pod) *pod {
	t.Helper()
	return r.addPods(t, []*store.Pod{record})[0]
}

// addPods attaches pods side by side, and waits until etcd has them: so a daemon that hears of what is written from now on has heard of them.
func (r *rig) addPods(t testing.TB, records []*store.Pod) []*pod {
	t.Helper()
	pods := r.attachPods(t, records)
	for _, p := range pods {
		wanted := *p.record
		wanted.Ready = true // as all pods of plain hosts are
		value, err := wanted.Value()
		must(t, err)
		key := fmt.Sprintf("%spods/%s/%s", registry, wanted.Node, wanted.Name)
		within(t, patience, func() error {
			answer, err := r.etcd.Get(t.Context(), key)
			if err == nil && (len(answer.Kvs) == 0 || !bytes.Equal(answer.Kvs[0].Value, value)) {
				err = fmt.Errorf("etcd has %v under %s, not %s", answer.Kvs, key, value)
			}
			return err
		})
	}
	return pods
}

// attachPods attaches pods side by side, and waits for nothing else.
func (r *rig) attachPods(t testing.TB, records []*store.Pod) []*pod {
	t.Helper()
	attached := make([]*lab.Pod, len(records))
	var g errgroup.Group
	g.SetLimit(4)
	for i, record := range records {
		g.Go(func() (err error) {
			n, err := r.lab.Node(record.Node)
			if err == nil {
				attached[i], err = n.AddPod(t.Context(), podOptions(record))
			}
			return err
		})
	}
	must(t, g.Wait())
	var all []*pod
	for i, record := range records {
		own := *record
		own.Addrs, own.Ports = attached[i].Addrs(), namedOnce(record.Ports)
		for _, want := range record.Addrs {
			if !slices.Contains(own.Addrs, want) {
				t.Fatalf("pod %s has the addresses %v, and was to have %v", record.Name, own.Addrs, record.Addrs)
			}
		}
		p := &pod{Pod: attached[i], record: &own, prober: newProber(t, record.Name.String(), attached[i].Netns())}
		p.serve(t, own.Addrs)
		all = append(all, p)
	}
	return all
}

// sentinel is the name of a pod that each node has: when it has the policy that a step brought last, the node enforces the step.
func sentinel(n *lab.Node) store.ObjectName {
	return store.ObjectName{Namespace: "sentinel", Name: n.Name}
}

// apply replaces all namespaces and policies that the test has written by these, in one transaction if they are few, and waits until all nodes
// enforce them.
func (r *rig) apply(t *testing.T, changes store.PolicyChanges) {
	t.Helper()
	name := r.write(t, changes)
	within(t, patience, func() error { return r.enforced(t.Context(), name) })
}

// enforced returns nil when every node's daemon says that the sentinel's policy is in force, which was written with everything else.
func (r *rig) enforced(ctx context.Context, name string) error {
	for _, n := range r.lab.Nodes() {
		pods, err := api.NewClient(n.RunDir()).PolicyPods(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		at := slices.IndexFunc(pods, func(p api.PolicyPod) bool {
			return (store.ObjectName{Namespace: p.Namespace, Name: p.Name}) == sentinel(n)
		})
		switch {
		case at < 0:
			return fmt.Errorf("%s does not know its pod %s", n.Name, sentinel(n))
		case !pods[at].Enforced || !slices.Contains(pods[at].Ingress, name):
			return fmt.Errorf("%s: %s has the policies %v, not %s", n.Name, sentinel(n), pods[at].Ingress, name)
		}
	}
	return nil
}

// table is the table of policies as nft lists it.
func table(t testing.TB, n *lab.Node) string {
	t.Helper()
	return sh(t, n.Netns(), "nft list table inet twill-policy")
}

// tryTable is the table without what packets change in it.
func tryTable(t testing.TB, n *lab.Node) (string, error) {
	out, err := n.Command(t.Context(), "nft", "list", "table", "inet", "twill-policy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("list the table of %s: %w: %s", n.Name, err, out)
	}
	return uncounted(string(out)), nil
}

// dump keeps the tables of all nodes for who looks into a failure, in a file of its own each time.
func (r *rig) dump(t testing.TB) {
	t.Helper()
	for _, n := range r.lab.Nodes() {
		file := filepath.Join(os.TempDir(), fmt.Sprintf("%s-step%d-%s.nft", r.lab.Name(), r.steps, n.Name))
		must(t, os.WriteFile(file, []byte(table(t, n)), 0o600))
		t.Logf("the table of %s is in %s", n.Name, file)
	}
}

// metric returns the value of one metric, for example `twill_policy_policies`; of one that is not there, 0.
func metric(t testing.TB, n *lab.Node, name string) float64 {
	t.Helper()
	text, err := n.Get(t.Context(), n.MetricsURL())
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var value float64
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatalf("metric %s: %v", name, err)
			}
			return value
		}
	}
	return 0
}

// modelPods are the model's pods on as many nodes as there are.
func modelPods(nodes int) []*store.Pod {
	return slices.DeleteFunc(policytest.Pods(), func(p *store.Pod) bool { return p.Node > fmt.Sprintf("node%d", nodes) })
}
