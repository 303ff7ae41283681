package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// attachedTo are the records of a cluster's pods on this node, and the networks of all its nodes.
func attachedTo(c *policytest.Cluster) (records []attachments.Record) {
	for i, p := range c.Pods {
		if p.Node != thisNode || len(p.Addrs) == 0 {
			continue
		}
		r := attachments.Record{Complete: true, Record: attach.Record{Network: network, ContainerID: fmt.Sprint("c", i), IfName: "eth0", Pod: p.Name.String(), PodUID: p.UID}}
		for _, a := range p.Addrs {
			prefix, err := a.Prefix(a.BitLen())
			if err == nil {
				r.Addresses = append(r.Addresses, prefix)
			}
		}
		records = append(records, r)
	}
	return records
}

// What a walk through the kernel's maps finds is what was written, and what the policies mean.
func TestWalk(t *testing.T) {
	l := newLab(t)
	nets := daemontest.Prefixes("10.1.1.0/24", "fd00:1:1::/64", "10.1.2.0/24", "fd00:1:2::/64")
	size := policytest.Size{
		Nodes:      []policytest.Node{{Name: thisNode, IPv4: nets[0], IPv6: nets[1]}, {Name: "node-b", IPv4: nets[2], IPv6: nets[3]}},
		Namespaces: 4, Pods: 30, Policies: 12, ClusterPolicies: 6, Silent: 0.1, Anywhere: 0.1,
	}
	seen := map[string]int{}
	for seed := range uint64(4) {
		c := policytest.Generate(rand.New(rand.NewPCG(seed, 1)), size)
		r := newRig(t, kerneltest.NewTables(), func(o *Options) { o.Kernel = l.handle })
		r.host.put(attachedTo(c)...)
		r.start()
		r.SetNodePods(nodePods)
		r.source.Tell(r.t, c.Changes())
		r.until("the first sync", func() bool { return r.Ready() == nil })
		r.settled()
		i := NewInspector(r.Enforcer, l.handle)
		for _, f := range c.Flows(300) {
			v, err := i.Verdict(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, side := range []struct {
				written  api.FlowSide
				kernel   string
				decision api.FlowDecision
			}{{v.Egress, v.Kernel.EgressAnswer, v.Policies.Egress}, {v.Ingress, v.Kernel.IngressAnswer, v.Policies.Ingress}} {
				seen[side.kernel]++
				if side.kernel != side.written.Answer {
					t.Errorf("seed %d, %+v: the kernel has %s, written is %+v", seed, f, side.kernel, side.written)
				}
				if open := side.kernel == "open"; (open || side.kernel == "refused") && open != side.decision.Allowed {
					t.Errorf("seed %d, %+v: the kernel has %s, policies say %+v", seed, f, side.kernel, side.decision)
				}
			}
		}
		r.stop()
	}
	for _, answer := range []string{"open", "refused", "elsewhere"} {
		if seen[answer] < 20 {
			t.Errorf("%d times %s: that is no test", seen[answer], answer)
		}
	}
}

// An element that somebody removes is missed by a walk, before it is repaired.
func TestWalkSeesTheKernel(t *testing.T) {
	l := newLab(t)
	r := l.enforce(l.handle, shop(), allow("web", "role=web", "role=client"), pod(thisNode, "web", "10.1.1.2", "role=web"), pod("node-b", "client", "10.1.2.2", "role=client"))
	i := NewInspector(r.Enforcer, l.handle)
	to := flowOf(flow(1, "10.1.2.2", "10.1.1.2:80"), nil).Flow
	for _, step := range []struct{ command, want string }{
		{"nft list tables", "open"},
		{"nft delete element inet " + gate.TableName + " pods4 { 10.1.2.2 }", "refused"},
		{"nft delete element inet " + gate.TableName + " ingress4 { 10.1.1.2 }", "unknown"},
		{"nft delete table inet " + gate.TableName, "unknown"},
	} {
		run(t, "%s", step.command)
		v, err := i.Verdict(t.Context(), to)
		if err != nil || v.Kernel.IngressAnswer != step.want || v.Ingress.Answer != "open" {
			t.Errorf("%s: %+v, %v", step.command, v, err)
		}
	}
}

func TestFindAndRules(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.host.put(record("web", "10.1.1.2"))
	everybody := &store.ClusterNetworkPolicy{Name: "guard", Tier: store.TierAdmin, Egress: []store.ClusterPolicyRule{{Name: "metadata", Action: store.ActionDeny,
		Peers: []store.PolicyPeer{{Block: daemontest.Prefixes("169.254.0.0/16")[0], Except: daemontest.Prefixes("169.254.1.0/24", "169.254.2.0/24")}},
		Ports: []store.PolicyPort{{Protocol: store.TCP}, {Protocol: store.UDP, Port: 53, EndPort: 54}, {Name: "http"}}}}}
	r.begin(shop(), allow("web", "role=web", "role=client"), everybody, pod(thisNode, "web", "10.1.1.2", "role=web"),
		pod("node-b", "client", "10.1.2.2", "role=client"), pod("node-b", "other", "10.1.2.3"))
	r.settled()
	i := NewInspector(r.Enforcer, nil)
	found, err := i.Find(t.Context(), store.ObjectName{Namespace: "shop", Name: "client"})
	if err != nil || len(found) != 1 || found[0].Node != "node-b" || !slices.Equal(found[0].Addresses, daemontest.Addrs("10.1.2.2")) {
		t.Errorf("%+v, %v", found, err)
	}
	for _, name := range []store.ObjectName{{Namespace: "shop", Name: "nobody"}, {Namespace: "nowhere", Name: "client"}} {
		if found, err = i.Find(t.Context(), name); err != nil || len(found) != 0 {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	rules, err := i.Rules(t.Context(), store.ObjectName{Namespace: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	want := &api.PolicyRules{Pod: "shop/web", IsolatedIngress: []string{"shop/web"}, Rules: []api.PolicyRule{
		{Direction: "egress", Tier: "Admin", Policy: "guard", Name: "metadata", Action: "Deny", Peers: []string{"169.254.0.0/16 except 169.254.1.0/24, 169.254.2.0/24"},
			Ports: []string{"TCP all ports", "UDP 53-54", "port http"}},
		{Direction: "ingress", Tier: "NetworkPolicy", Policy: "shop/web", Action: "Accept", Peers: []string{"pods role=client of namespace shop"}, Ports: []string{"TCP 80"}, Pods: []string{"shop/client"}},
	}}
	if diff := cmp.Diff(want, rules); diff != "" {
		t.Error(diff)
	}
	if _, err := i.Rules(t.Context(), store.ObjectName{Namespace: "shop", Name: "client"}); err == nil {
		t.Error("rules of another node's pod")
	}
	r.tell(pod("node-c", "client", "10.1.3.2", "role=client")) // of a StatefulSet, that has moved
	if found, err = i.Find(t.Context(), store.ObjectName{Namespace: "shop", Name: "client"}); err != nil || len(found) != 2 || found[0].Node != "node-b" || found[1].Node != "node-c" {
		t.Errorf("after it has moved: %+v, %v", found, err)
	}
}

func TestPeersInWords(t *testing.T) {
	all, web := store.Selector{}, label("role=web")
	for want, p := range map[string]store.PolicyPeer{
		"all pods of namespace shop":           {Pods: &all},
		"pods role=web of all namespaces":      {Namespaces: &all, Pods: &web},
		"all pods of namespaces role=web":      {Namespaces: &web},
		"10.0.0.0/8 except 10.1.0.0/16":        {Block: daemontest.Prefixes("10.0.0.0/8")[0], Except: daemontest.Prefixes("10.1.0.0/16")},
		"pods role=web of namespace shop":      {Pods: &web},
		"all pods of all namespaces":           {Namespaces: &all},
		"pods role=web of namespaces role=web": {Namespaces: &web, Pods: &web},
	} {
		if have := peerText(p, "shop"); have != want {
			t.Errorf("have %q, want %q", have, want)
		}
	}
}
