package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// fakePolicies answers with what it has, and keeps the flow.
type fakePolicies struct {
	drops   []Drop
	pods    []PolicyPod
	verdict FlowVerdict
	differ  []kernel.Difference
	asked   policy.Flow
	err     error
}

func (f *fakePolicies) Drops() []Drop                             { return f.drops }
func (f *fakePolicies) Pods(context.Context) ([]PolicyPod, error) { return f.pods, f.err }
func (f *fakePolicies) Differences(context.Context) ([]kernel.Difference, error) {
	return f.differ, f.err
}
func (f *fakePolicies) Find(_ context.Context, name store.ObjectName) ([]ClusterPod, error) {
	return []ClusterPod{{Namespace: name.Namespace, Name: name.Name, Node: "node-b", Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}}, f.err
}
func (f *fakePolicies) Rules(_ context.Context, name store.ObjectName) (*PolicyRules, error) {
	return &PolicyRules{Pod: name.String(), Rules: []PolicyRule{{Policy: "guard", Tier: "Admin"}}}, f.err
}
func (f *fakePolicies) Verdict(_ context.Context, flow policy.Flow) (*FlowVerdict, error) {
	f.asked = flow
	return &f.verdict, f.err
}

func servePolicies(t *testing.T, about func() Policies) *Client {
	t.Helper()
	dir := t.TempDir()
	serveAbout(t, dir, About{BGP: func() BGP { return nil }, Services: func() Services { return nil }, Policies: about}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return NewClient(dir)
}

func TestPolicies(t *testing.T) {
	pod, peer := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("10.1.2.3")
	f := &fakePolicies{
		drops: []Drop{{Time: time.Unix(1_000_000, 0).UTC(), Direction: "ingress", Pod: "shop/web", PodAddress: pod, PeerAddress: peer, Protocol: "TCP", Port: 81, Policies: []string{"shop/web"}}},
		pods:  []PolicyPod{{Namespace: "shop", Name: "web", Addresses: []netip.Addr{pod}, Enforced: true, Ingress: []string{"shop/web"}}},
		verdict: FlowVerdict{Egress: FlowSide{Answer: "elsewhere"}, Ingress: FlowSide{Answer: "refused", Pod: "shop/web"},
			Kernel: KernelWay{Ingress: "ingress-1"}},
		differ: []kernel.Difference{{What: "chain forward", Have: "nothing", Want: "7 rules"}},
	}
	c := servePolicies(t, func() Policies { return f })
	drops, err := c.Drops(t.Context())
	if diff := cmp.Diff(f.drops, drops, comparable); diff != "" || err != nil {
		t.Error(diff, err)
	}
	pods, err := c.PolicyPods(t.Context())
	if diff := cmp.Diff(f.pods, pods, comparable); diff != "" || err != nil {
		t.Error(diff, err)
	}
	found, err := c.FindPods(t.Context(), store.ObjectName{Namespace: "shop", Name: "api"})
	want := []ClusterPod{{Namespace: "shop", Name: "api", Node: "node-b", Addresses: []netip.Addr{peer}}}
	if diff := cmp.Diff(want, found, comparable); diff != "" || err != nil {
		t.Error(diff, err)
	}
	rules, err := c.PolicyRules(t.Context(), store.ObjectName{Namespace: "shop", Name: "api"})
	if diff := cmp.Diff(PolicyRules{Pod: "shop/api", Rules: []PolicyRule{{Policy: "guard", Tier: "Admin"}}}, rules); diff != "" || err != nil {
		t.Error(diff, err)
	}
	differ, err := c.PolicyDifferences(t.Context())
	if diff := cmp.Diff(f.differ, differ); diff != "" || err != nil {
		t.Error(diff, err)
	}
	flow := policy.Flow{Src: peer, Dst: pod, Protocol: store.TCP, Port: 81}
	verdict, err := c.Verdict(t.Context(), flow)
	if diff := cmp.Diff(f.verdict, verdict); diff != "" || err != nil || f.asked != flow {
		t.Error(diff, err, f.asked)
	}
	f.err = errors.New("not read yet")
	if _, err := c.PolicyPods(t.Context()); err == nil || !strings.Contains(err.Error(), "twilld answers: not read yet") {
		t.Errorf("error %v", err)
	}
}

func TestPoliciesAreOff(t *testing.T) {
	c := servePolicies(t, func() Policies { return nil })
	if _, err := c.Drops(t.Context()); err == nil || !strings.Contains(err.Error(), "start twilld with --policy=on") {
		t.Errorf("error %v", err)
	}
}

func TestParseFlow(t *testing.T) {
	good := func() url.Values {
		return flowForm(policy.Flow{Src: netip.MustParseAddr("10.1.1.2"), Dst: netip.MustParseAddr("10.1.2.3"), Protocol: store.UDP, Port: 53})
	}
	for name, to := range map[string]string{"from": "x", "to": "fd00::1", "protocol": "tcp", "port": "65536"} {
		form := good()
		form.Set(name, to)
		if _, err := parseFlow(form); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s %s: error %v", name, to, err)
		}
	}
	if _, err := parseFlow(good()); err != nil {
		t.Error(err)
	}
}
