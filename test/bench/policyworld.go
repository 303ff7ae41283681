package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// What the labs of policies have in common: the namespace of their pods, and who they are by their labels.
const policyNamespace = "default"

var (
	clientLabels = map[string]string{"role": "client"} // the last policy allows it
	otherLabels  = map[string]string{"app": "other-0"} // the first one does, at another port
)

// policyLab is a lab with what its etcd is to hold beside it.
type policyLab struct {
	*lab.Lab
	registry *registry
}

// withPolicies runs measure in a sandbox that can have several labs.
func (b bench) withPolicies(measure func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if err := settle(); err != nil {
		return err
	}
	return measure(ctx)
}

// policyLab makes a lab. The sandbox removes it.
func (b bench) policyLab(ctx context.Context, options lab.Options, policy string) (*policyLab, error) {
	options.BinDir, options.DaemonArgs = b.bin, append(options.DaemonArgs, "--policy="+policy)
	l, err := lab.New(options)
	if err != nil {
		return nil, err
	}
	if err := l.Up(ctx); err != nil {
		return nil, err
	}
	client, err := l.Etcd().Client()
	if err != nil {
		return nil, err
	}
	return &policyLab{l, &registry{client: client}}, nil
}

// put writes an object below the registry, when flush comes.
func (l *policyLab) put(ctx context.Context, key string, object any) error {
	value, err := manifest.Encode(object)
	if err != nil {
		return err
	}
	return l.registry.write(ctx, lab.EtcdPrefix+"/registry/"+key, value)
}

func (l *policyLab) putPolicies(ctx context.Context, all ...*networkingv1.NetworkPolicy) error {
	for _, p := range all {
		if err := l.put(ctx, "networkpolicies/"+p.Namespace+"/"+p.Name, p); err != nil {
			return err
		}
	}
	return l.registry.flush(ctx)
}

// putPods writes records of pods on nodes that are not in the lab.
func (l *policyLab) putPods(ctx context.Context, all ...*store.Pod) error {
	for _, p := range all {
		value, err := p.Value()
		if err != nil {
			return err
		}
		if err := l.registry.write(ctx, lab.EtcdPrefix+"/registry/pods/"+p.Node+"/"+p.Name.String(), value); err != nil {
			return err
		}
	}
	return l.registry.flush(ctx)
}

// enforce writes the first n of the layered policies, and waits until all pods of all nodes have them.
func (l *policyLab) enforce(ctx context.Context, n int) error {
	if err := l.putPolicies(ctx, layered(n)...); err != nil {
		return err
	}
	for _, node := range l.Nodes() {
		client := api.NewClient(node.RunDir())
		err := eventually(ctx, fmt.Sprintf("%d policies on %s", n, node.Name), func() (bool, error) {
			pods, err := client.PolicyPods(ctx)
			return err == nil && len(pods) == len(node.Pods()) &&
				!slices.ContainsFunc(pods, func(p api.PolicyPod) bool { return !p.Enforced || len(p.Ingress) != n }), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// layered returns n policies that all select all pods of the namespace. Each allows other pods at another port; the last one alone allows the
// client at the endpoint's port.
func layered(n int) []*networkingv1.NetworkPolicy {
	all := make([]*networkingv1.NetworkPolicy, n)
	for i := range all {
		labels, port := map[string]string{"app": fmt.Sprintf("other-%d", i)}, 10_000+i
		if i == n-1 {
			labels, port = clientLabels, endpointPort
		}
		all[i] = allowing(store.ObjectName{Namespace: policyNamespace, Name: fmt.Sprintf("policy-%05d", i)}, labels, port)
	}
	if n > 0 {
		last := all[n-1]
		last.Name = "policy-last"
		last.Spec.Egress[0].To[0].PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": "server"}}
	}
	return all
}

// allowing is a policy of all pods of a namespace, for both directions: it allows pods with these labels at a port of TCP and UDP.
func allowing(name store.ObjectName, labels map[string]string, port int) *networkingv1.NetworkPolicy {
	peers := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: labels}}}
	var ports []networkingv1.NetworkPolicyPort
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		at := intstr.FromInt(port)
		ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &at})
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: slices.Clone(peers), Ports: ports}},
		},
	}
}

// figure returns the value of one of a node's metrics.
func figure(ctx context.Context, n *lab.Node, name string) (float64, error) {
	text, err := n.Get(ctx, n.MetricsURL())
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("metrics of %s: no %s", n.Name, name)
}

// addrOf returns the pod's IPv4 address.
func addrOf(p *lab.Pod) netip.Addr {
	addrs := p.Addrs()
	return addrs[slices.IndexFunc(addrs, netip.Addr.Is4)]
}
