package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// Policies is what is asked about the enforcement of policies; *policy.Inspector of package daemon/policy is the real one.
type Policies interface {
	// Drops returns the last packets that were refused and told of, the oldest first. Of very many, the kernel tells of some.
	Drops() []Drop
	// Pods returns the pods of this node, sorted by name.
	Pods(ctx context.Context) ([]PolicyPod, error)
	// Rules returns the rules that a pod of this node has.
	Rules(ctx context.Context, name store.ObjectName) (*PolicyRules, error)
	// Find returns the pods of the cluster with that name, wherever they are; of two, one has ended and is on its way out.
	Find(ctx context.Context, name store.ObjectName) ([]ClusterPod, error)
	// Verdict says what becomes of a new connection on this node.
	Verdict(ctx context.Context, flow policy.Flow) (*FlowVerdict, error)
	// Differences says what the kernel's table holds and should not, or should hold and does not.
	Differences(ctx context.Context) ([]kernel.Difference, error)
}

// Drop is a packet that was refused.
type Drop struct {
	Time        time.Time  `json:"time"`
	Direction   string     `json:"direction"` // whose policies refused it: egress or ingress; unknown: an address that no known pod has
	Pod         string     `json:"pod,omitempty"`
	PodAddress  netip.Addr `json:"podAddress"`
	Peer        string     `json:"peer,omitempty"` // pod, when it is one's address
	PeerAddress netip.Addr `json:"peerAddress"`
	Protocol    string     `json:"protocol"`
	Port        uint16     `json:"port,omitempty"` // of the destination
	Policies    []string   `json:"policies,omitempty"`
	Reason      string     `json:"reason,omitempty"`
}

// PolicyPod is a pod of this node.
type PolicyPod struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Enforced  bool         `json:"enforced"` // else its addresses are closed until its labels are known
	// Policies that the pod has, in the order in which they are asked; no list: everything is open.
	Egress  []string `json:"egress,omitempty"`
	Ingress []string `json:"ingress,omitempty"`
}

// PolicyRules are the rules of a pod, in the order in which they are asked.
type PolicyRules struct {
	Pod string `json:"pod"`
	// The NetworkPolicies that close the pod in a direction, but for what their rules allow.
	IsolatedEgress  []string     `json:"isolatedEgress,omitempty"`
	IsolatedIngress []string     `json:"isolatedIngress,omitempty"`
	Rules           []PolicyRule `json:"rules"`
}

// PolicyRule is a rule of a policy.
type PolicyRule struct {
	Direction string   `json:"direction"` // egress or ingress
	Tier      string   `json:"tier"`      // Admin, NetworkPolicy or Baseline
	Policy    string   `json:"policy"`
	Rule      int      `json:"rule"` // its number in the policy, from 0
	Name      string   `json:"name,omitempty"`
	Action    string   `json:"action"`          // Accept, Deny or Pass
	Peers     []string `json:"peers,omitempty"` // absent: everybody
	Ports     []string `json:"ports,omitempty"` // absent: every port of every protocol
	// Pods that the peers mean at the moment, and how many more there are.
	Pods     []string `json:"pods,omitempty"`
	MorePods int      `json:"morePods,omitempty"`
}

// ClusterPod is a pod of the cluster, as policies know it.
type ClusterPod struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"`
}

// FlowVerdict is what becomes of a connection.
type FlowVerdict struct {
	Policies FlowPolicies `json:"policies"`

	Allowed bool      `json:"allowed"` // by the table as the daemon has written it
	Egress  FlowSide  `json:"egress"`
	Ingress FlowSide  `json:"ingress"`
	Kernel  KernelWay `json:"kernel"`
}

// FlowSide is what becomes of a connection at one of its ends.
type FlowSide struct {
	Answer string `json:"answer"` // open, refused, unknown: an address that no known pod has, or elsewhere: not asked on this node
	Pod    string `json:"pod,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// FlowPolicies is what the policies of the cluster mean for a connection, at both ends, wherever these are: by what the datastore has told the daemon, and
// without a look at what was made of it.
type FlowPolicies struct {
	Egress  FlowDecision `json:"egress"`
	Ingress FlowDecision `json:"ingress"`
}

// FlowDecision is what the policies of one end say.
type FlowDecision struct {
	Allowed  bool     `json:"allowed"`
	Pod      string   `json:"pod,omitempty"` // whose policies were asked; empty: the address is no pod's
	Node     string   `json:"node,omitempty"`
	Tier     string   `json:"tier,omitempty"` // that decided; empty: no policy has a say
	Policies []string `json:"policies,omitempty"`
	Reason   string   `json:"reason"`
}

// KernelWay is what the kernel's maps hold at this moment for the addresses of a connection.
type KernelWay struct {
	Egress  string `json:"egress,omitempty"`  // the chain for the source; empty: it has no element
	Ingress string `json:"ingress,omitempty"` // the chain for the destination

	// The answers that a packet finds in them: open, refused, unknown or elsewhere, as in FlowSide.
	EgressAnswer  string `json:"egressAnswer"`
	IngressAnswer string `json:"ingressAnswer"`
}

// handlePolicies adds the answers about policies.
func (a About) handlePolicies(mux *http.ServeMux) {
	mux.Handle("GET /policies/drops", a.policies(func(_ context.Context, p Policies, _ url.Values) (any, error) { return p.Drops(), nil }))
	mux.Handle("GET /policies/pods", a.policies(func(ctx context.Context, p Policies, _ url.Values) (any, error) { return p.Pods(ctx) }))
	mux.Handle("GET /policies/find", a.policies(func(ctx context.Context, p Policies, form url.Values) (any, error) {
		return p.Find(ctx, podName(form))
	}))
	mux.Handle("GET /policies/rules", a.policies(func(ctx context.Context, p Policies, form url.Values) (any, error) {
		return p.Rules(ctx, podName(form))
	}))
	mux.Handle("GET /policies/differences", a.policies(func(ctx context.Context, p Policies, _ url.Values) (any, error) { return p.Differences(ctx) }))
	mux.Handle("GET /policies/verdict", a.policies(func(ctx context.Context, p Policies, form url.Values) (any, error) {
		flow, err := parseFlow(form)
		if err != nil {
			return nil, err
		}
		return p.Verdict(ctx, flow)
	}))
}

func podName(form url.Values) store.ObjectName {
	namespace, name, _ := strings.Cut(form.Get("name"), "/")
	return store.ObjectName{Namespace: namespace, Name: name}
}

func (a About) policies(ask func(context.Context, Policies, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var p Policies
		if a.Policies != nil {
			p = a.Policies()
		}
		if p == nil {
			http.Error(w, "policies are not enforced on this node: start twilld with --policy=on", http.StatusNotFound)
			return
		}
		value, err := ask(r.Context(), p, r.URL.Query())
		Answer(w, value, err)
	}
}

// Drops returns the last packets that the daemon's node refused and told of, the oldest first.
func (c *Client) Drops(ctx context.Context) ([]Drop, error) {
	return get[[]Drop](ctx, c, "/policies/drops", nil)
}

// PolicyPods returns the pods of the daemon's node and their policies.
func (c *Client) PolicyPods(ctx context.Context) ([]PolicyPod, error) {
	return get[[]PolicyPod](ctx, c, "/policies/pods", nil)
}

// FindPods returns the pods of the cluster with that name.
func (c *Client) FindPods(ctx context.Context, name store.ObjectName) ([]ClusterPod, error) {
	return get[[]ClusterPod](ctx, c, "/policies/find", nameForm(name))
}

// PolicyRules returns the rules that a pod of the daemon's node has.
func (c *Client) PolicyRules(ctx context.Context, name store.ObjectName) (PolicyRules, error) {
	return get[PolicyRules](ctx, c, "/policies/rules", nameForm(name))
}

// PolicyDifferences returns what the kernel's table of policies holds and should not, or should hold and does not.
func (c *Client) PolicyDifferences(ctx context.Context) ([]kernel.Difference, error) {
	return get[[]kernel.Difference](ctx, c, "/policies/differences", nil)
}

// Verdict returns what becomes of a new connection on the daemon's node.
func (c *Client) Verdict(ctx context.Context, flow policy.Flow) (FlowVerdict, error) {
	return get[FlowVerdict](ctx, c, "/policies/verdict", flowForm(flow))
}

func flowForm(f policy.Flow) url.Values {
	return url.Values{
		"from": {f.Src.String()}, "to": {f.Dst.String()},
		"protocol": {strconv.Itoa(int(f.Protocol))}, "port": {strconv.Itoa(int(f.Port))},
	}
}

func parseFlow(form url.Values) (f policy.Flow, err error) {
	if f.Src, err = netip.ParseAddr(form.Get("from")); err != nil {
		return f, fmt.Errorf("from: %w", err)
	}
	if f.Dst, err = netip.ParseAddr(form.Get("to")); err != nil {
		return f, fmt.Errorf("to: %w", err)
	}
	if f.Src.Unmap().Is4() != f.Dst.Unmap().Is4() {
		return f, fmt.Errorf("from %s to %s: want addresses of one family", f.Src, f.Dst)
	}
	protocol, err := strconv.ParseUint(form.Get("protocol"), 10, 8)
	if err != nil {
		return f, fmt.Errorf("protocol %q: want a number from 0 to 255", form.Get("protocol"))
	}
	port, err := strconv.ParseUint(form.Get("port"), 10, 16)
	if err != nil {
		return f, fmt.Errorf("port %q: want a number from 0 to 65535", form.Get("port"))
	}
	f.Protocol, f.Port = store.Protocol(protocol), uint16(port)
	return f, nil
}
