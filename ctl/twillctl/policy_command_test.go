package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

var (
	webAddr = netip.MustParseAddr("10.1.1.2")
	apiAddr = netip.MustParseAddr("10.1.2.3")
	guard   = api.PolicyRule{Direction: "egress", Tier: "Admin", Policy: "guard", Name: "metadata", Action: "Deny", Peers: []string{"169.254.169.254/32"}}
)

// policyNode is a node with the pod shop/web, whose egress is open to TCP 8081 of shop/api on another node alone.
type policyNode struct {
	differences []kernel.Difference
	kernel      string // the kernel's answer, where it is not what it should be
}

func (policyNode) Drops() []api.Drop {
	return []api.Drop{
		{Time: time.Unix(1, 0), Direction: "egress", Pod: "shop/web", PodAddress: webAddr, Peer: "shop/api", PeerAddress: apiAddr, Protocol: "TCP", Port: 80, Reason: "isolated"},
		{Time: time.Unix(2, 0), Direction: "unknown", PodAddress: apiAddr, PeerAddress: webAddr, Protocol: "ICMP"},
	}
}

func (policyNode) Pods(context.Context) ([]api.PolicyPod, error) {
	return []api.PolicyPod{
		{Namespace: "shop", Name: "new", Addresses: []netip.Addr{netip.MustParseAddr("10.1.1.9")}},
		{Namespace: "shop", Name: "web", Addresses: []netip.Addr{webAddr}, Enforced: true, Egress: []string{"guard", "shop/web", "base"}},
	}, nil
}

func (policyNode) Rules(_ context.Context, name store.ObjectName) (*api.PolicyRules, error) {
	if name.Name != "web" {
		return &api.PolicyRules{Pod: name.String(), Rules: []api.PolicyRule{}}, nil
	}
	return &api.PolicyRules{Pod: "shop/web", IsolatedEgress: []string{"shop/web"}, Rules: []api.PolicyRule{
		guard,
		{Direction: "egress", Tier: "NetworkPolicy", Policy: "shop/web", Action: "Accept", Peers: []string{"pods app=api of namespace shop"}, Ports: []string{"TCP 8081"}, Pods: []string{"shop/a", "shop/b", "shop/c", "shop/d"}, MorePods: 7},
		{Direction: "egress", Tier: "Baseline", Policy: "base", Rule: 1, Action: "Deny"},
	}}, nil
}

func (policyNode) Find(_ context.Context, name store.ObjectName) ([]api.ClusterPod, error) {
	pods := map[string][]api.ClusterPod{
		"shop/web":   {{Namespace: "shop", Name: "web", Node: "node-a", Addresses: []netip.Addr{webAddr}}},
		"shop/new":   {{Namespace: "shop", Name: "new", Node: "node-a"}},
		"shop/api":   {{Namespace: "shop", Name: "api", Node: "node-b", Addresses: []netip.Addr{apiAddr, netip.MustParseAddr("fd00::3")}}},
		"shop/twins": {{Node: "node-a"}, {Node: "node-b"}},
	}
	return pods[name.String()], nil
}

func (n policyNode) Verdict(_ context.Context, f policy.Flow) (*api.FlowVerdict, error) {
	if f.Src != webAddr {
		return nil, errors.New("the policies are not known yet")
	}
	v := &api.FlowVerdict{
		Policies: api.FlowPolicies{
			Egress:  api.FlowDecision{Pod: "shop/web", Node: "node-a", Tier: "NetworkPolicy", Policies: []string{"shop/web"}, Reason: "egress of shop/web denied: isolated"},
			Ingress: api.FlowDecision{Allowed: true, Pod: "shop/api", Node: "node-b", Reason: "ingress of shop/api allowed: no policy has a say"},
		},
		Egress:  api.FlowSide{Answer: "refused"},
		Ingress: api.FlowSide{Answer: "elsewhere"},
		Kernel:  api.KernelWay{Egress: "egress-1", EgressAnswer: "refused", IngressAnswer: "elsewhere"},
	}
	if f.Dst != apiAddr {
		v.Policies.Ingress = api.FlowDecision{Allowed: true, Reason: "nothing"}
	}
	if f.Port == 8081 || f.Protocol == store.UDP {
		v.Policies.Egress.Allowed, v.Policies.Egress.Reason = true, "egress of shop/web allowed: rule 0"
		v.Egress.Answer, v.Kernel.EgressAnswer = "open", "open"
	}
	if n.kernel != "" {
		v.Kernel.EgressAnswer = n.kernel
	}
	return v, nil
}

func (n policyNode) Differences(context.Context) ([]kernel.Difference, error) {
	return n.differences, nil
}

func TestPolicyCommand(t *testing.T) {
	good := policyNode{}
	tests := []struct {
		node   policyNode
		args   string
		code   int
		stdout []string
		stderr string
	}{
		{good, "show shop/web", 0, []string{"Pod shop/web on node-a (10.1.1.2): enforced\n\negress: guard, shop/web, base\n", "shop/a, shop/b, shop/c and 8 more\n", "0 (metadata)", "everybody else", "Baseline", "\ningress: no policy has a say, everything is open\n"}, ""},
		{good, "show shop/new", 0, []string{"(10.1.1.9): closed: its labels are not known yet"}, ""},
		{good, "show shop/web -o json", 0, []string{`"isolatedEgress": [`, `"enforced": true`, `"node": "node-a"`}, ""},
		{good, "show shop/api", 1, nil, "pod shop/api is on node node-b: ask there"},
		{good, "show nobody", 1, nil, "pod default/nobody: not known"},
		{good, "show a/b/c", 1, nil, "want NAME or NAMESPACE/NAME"},
		{good, "drops", 0, []string{"egress      shop/web (10.1.1.2)   shop/api (10.1.2.3)   TCP 80     isolated\n", "unknown     10.1.2.3              10.1.1.2"}, ""},
		{good, "drops -o json", 0, []string{`"pod": "shop/web"`, `"protocol": "ICMP"`}, ""},
		{good, "drops -o xml", 1, nil, "want table, yaml or json"},
		{good, "test shop/web shop/api:8081", 0, []string{
			"shop/web (10.1.1.2, node-a) -> shop/api (10.1.2.3, node-b), TCP 8081\n",
			"  policies   allowed         egress of shop/web allowed: rule 0\n",
			"  kernel     allowed         this node: egress open (chain egress-1)\n",
			"ingress not looked at: it is in the kernel of node-b\n",
			"  probe      not looked at   10.1.1.2 is no pod of a node that was asked\n",
			"allowed by NetworkPolicy shop/web (egress of shop/web); ingress was not looked at in the kernel\n"}, ""},
		{good, "test shop/web shop/api:80 --no-probe", 1, []string{"  policies   denied ", "  kernel     denied ", "\ndenied by NetworkPolicy shop/web (egress of shop/web)"}, ""},
		{good, "test shop/web 192.0.2.1:53 --protocol udp", 0, []string{"-> 192.0.2.1, UDP 53", "  policies   allowed", "egress of shop/web)\n"}, ""},
		{good, "test shop/web shop/api --protocol icmp -o json", 1, []string{`"protocol": "ICMP"`, `"result": "denied"`}, ""},
		{policyNode{kernel: "open"}, "test shop/web shop/api:80", 2, []string{"DISAGREEMENT: the kernel of this node has egress open, the policies say otherwise; the kernel of this node has egress open, its twilld has written refused\n"}, ""},
		{policyNode{differences: []kernel.Difference{{What: "chain forward", Have: "nothing", Want: "7 rules"}}}, "test shop/web shop/api:80", 2, []string{"DISAGREEMENT: the table of this node is not as its twilld has written it (1 differences, the first: chain forward"}, ""},
		{good, "test shop/api shop/web:80", 2, nil, "the policies are not known yet"},
		{good, "test shop/web shop/twins:80", 2, nil, "one on node node-a and one on node node-b"},
		{good, "test shop/web shop/new:80", 2, nil, "shop/new has no address: no family in common"},
		{good, "test shop/web shop/api", 2, nil, "want POD:PORT or ADDRESS:PORT"},
		{good, "test shop/web fd00::3", 2, nil, "want POD:PORT or ADDRESS:PORT"},
		{good, "test shop/web [fd00::3]:80", 2, nil, "no family in common"},
		{good, "test shop/web shop/api:99999", 2, nil, "want a port from 1 to 65535"},
		{good, "test shop/web shop/api:80 --protocol gre", 2, nil, "want tcp, udp, sctp or icmp"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			answer{tt.code, tt.stdout, tt.stderr}.check(t, append(append([]string{"policy"}, strings.Fields(tt.args)...), "--run-dir", withDaemon(t, nil, nil, tt.node))...)
		})
	}
}

func TestPolicyCommandWithoutADaemon(t *testing.T) {
	for args, want := range map[string]int{"show shop/web": 1, "drops": 1, "test shop/web shop/api:80": exitUnclear} {
		code, _, stderr := runLine(t, append(append([]string{"policy"}, strings.Fields(args)...), "--run-dir", t.TempDir())...)
		if code != want || !strings.Contains(stderr, "twilld does not run") {
			t.Errorf("%s: exit code %d, stderr %q", args, code, stderr)
		}
	}
	code, _, stderr := runLine(t, "policy", "drops", "--run-dir", withDaemon(t, nil, nil, nil))
	if code != 1 || !strings.Contains(stderr, "start twilld with --policy=on") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// What the probe and the policies say together.
func TestConclusions(t *testing.T) {
	tests := []struct {
		name            string
		policies, probe string
		protocol        store.Protocol
		pod             string // at TO
		result, want    string
	}{
		{"both allow", allowed, allowed, store.TCP, "shop/api", allowed, "allowed since no policy has a say"},
		{"both deny", denied, denied, store.TCP, "shop/api", denied, "denied since no policy has a say"},
		{"it got through", denied, allowed, store.TCP, "shop/api", unclear, "DISAGREEMENT: the probe got through, and policies deny it"},
		{"it did not get through", allowed, denied, store.TCP, "shop/api", unclear, "DISAGREEMENT: policies allow it, and no answer comes"},
		{"a server of UDP may be silent", allowed, denied, store.UDP, "shop/api", allowed, "allowed since no policy has a say; that no answer came may have other reasons"},
		{"somebody far away may not be there", allowed, denied, store.TCP, "", allowed, "allowed since no policy has a say; that no answer came may have other reasons"},
		{"there is no route", allowed, unclear, store.TCP, "shop/api", allowed, "allowed since no policy has a say; the probe failed for another reason"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := trialResult{To: trialEnd{Pod: tt.pod}, Policies: trialLook{Result: tt.policies}, Probe: trialLook{Result: tt.probe}}
			r.conclude([2]side{}, trialFlow{Protocol: tt.protocol})
			if r.Result != tt.result || !strings.HasPrefix(r.Conclusion, tt.want) {
				t.Errorf("%s: %s", r.Result, r.Conclusion)
			}
		})
	}
}

// printed is a printer of drops that ends the following with its first call.
type printed struct {
	drops []nodeDrop
	stop  func()
}

func (p *printed) print(all []nodeDrop) error {
	p.drops = append(p.drops, all...)
	p.stop()
	return nil
}

func TestFollowingDropsEndsWhenItIsInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	p := &printed{stop: stop}
	views := []viewpoint{{node: "node1", client: api.NewClient(withDaemon(t, nil, nil, policyNode{}))}}
	if err := showDrops(ctx, views, true, p); err != nil || len(p.drops) != 2 || p.drops[0].Node != "node1" {
		t.Errorf("%v, %v", p.drops, err)
	}
}

func TestDropsSince(t *testing.T) {
	all := policyNode{}.Drops()
	for last, want := range map[int64]int{0: 2, 1: 1, 2: 0} {
		if have := since(all, time.Unix(last, 0)); len(have) != want {
			t.Errorf("since %d: %d drops, want %d", last, len(have), want)
		}
	}
}
