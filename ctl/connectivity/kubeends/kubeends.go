package kubeends

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/connectivity/agent"
	"github.com/twill-cni/twill/ctl/kubenodes"
	"github.com/twill-cni/twill/ctl/probe"
)

const (
	together   = 16               // pods that are made, or connected to, at one time
	mostStart  = 3 * time.Minute  // for how long pods may take until they run: images may be pulled
	mostProbed = 15 * time.Second // for how long running pods may take until they are ready; who is not then is a case that fails
	looking    = 250 * time.Millisecond
)

// Options say what is tested. Owner and Flags are required.
type Options struct {
	Nodes   []string         // their names; none: all that pods may be placed on
	Outside []netip.AddrPort // none: nothing outside is asked
	Image   string           // with twillctl in it; default: that of each node's daemon
	Keep    bool             // Close leaves everything as it is
	Owner   string           // whose test it is, for others
	Flags   string           // those of twillctl that lead to the cluster
}

// Cluster is a Kubernetes cluster with the test's pods in it. It is a connectivity.Cluster.
type Cluster struct {
	kube    *kubenodes.Cluster
	options Options
	space   *kubenodes.Workspace
	nodes   []node
	agents  map[string]*agent.Client // by the pod's name
}

// node is one that is tested.
type node struct {
	kubenodes.Machine
	daemon kubenodes.Node
	short  string // what its pods' names begin with
}

// Open makes the test's pods and Services. The caller closes the Cluster; an error leaves nothing behind. ctx has to last until then.
func Open(ctx context.Context, kube *kubenodes.Cluster, options Options) (*Cluster, *connectivity.Topology, error) {
	c := &Cluster{kube: kube, options: options, agents: map[string]*agent.Client{}}
	t := &connectivity.Topology{Parts: map[connectivity.Part]string{}, Outside: options.Outside}
	if err := c.choose(ctx, t); err != nil {
		return nil, nil, err
	}
	if err := connectivity.Fits(len(c.nodes) * len(roles)); err != nil {
		return nil, nil, err
	}
	c.parts(ctx, t)
	var err error
	if c.space, err = kube.OpenWorkspace(ctx, kubenodes.WorkspaceOptions{Name: connectivity.Namespace, Owner: options.Owner}); err != nil {
		return nil, nil, err
	}
	if err := c.open(ctx, t); err != nil {
		c.options.Keep = false
		return nil, nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, t, nil
}

// open makes all that is in the namespace, and leaves it to Close when it fails in between.
func (c *Cluster) open(ctx context.Context, t *connectivity.Topology) error {
	if err := c.pods(ctx, t); err != nil {
		return err
	}
	if err := c.services(ctx, t); err != nil {
		return err
	}
	if err := c.names(ctx, t); err != nil {
		return err
	}
	return c.awaitReady(ctx)
}

// choose takes the nodes that have a daemon and may be given pods. What is left out is said.
func (c *Cluster) choose(ctx context.Context, t *connectivity.Topology) error {
	machines, err := c.kube.Machines(ctx)
	if err != nil {
		return err
	}
	daemons, err := c.kube.List(ctx)
	if err != nil {
		return err
	}
	at, wanted := map[string]kubenodes.Node{}, map[string]bool{}
	for _, d := range daemons {
		at[d.Name] = d
	}
	for _, name := range c.options.Nodes {
		if !slices.ContainsFunc(machines, func(m kubenodes.Machine) bool { return m.Name == name }) {
			return fmt.Errorf("--nodes: the cluster has no node %s", name)
		}
		wanted[name] = true
	}
	var names []string
	for _, m := range machines {
		if len(wanted) > 0 && !wanted[m.Name] {
			continue
		}
		daemon, has := at[m.Name]
		if m.Unfit == "" && !has {
			m.Unfit = "it has no pod of Twill's DaemonSet"
		}
		if m.Unfit != "" {
			t.Parts[connectivity.Part("node "+m.Name)] = m.Unfit
			continue
		}
		c.nodes, names = append(c.nodes, node{Machine: m, daemon: daemon}), append(names, m.Name)
		t.Nodes = append(t.Nodes, connectivity.Node{Name: m.Name, Addresses: m.Addresses, AsksOwn: true})
	}
	if len(names) == 0 {
		var why []string
		for part, reason := range t.Parts {
			why = append(why, fmt.Sprintf("%s: %s", part, reason))
		}
		slices.Sort(why)
		return fmt.Errorf("there is no node to be tested: %s", strings.Join(why, "; "))
	}
	short := shorten(names)
	for i := range c.nodes {
		c.nodes[i].short = short[c.nodes[i].Name]
	}
	return nil
}

var roles = [...]connectivity.Role{connectivity.Client, connectivity.Server}

// pods makes a pod of each role on each node, and connects to them once they run.
func (c *Cluster) pods(ctx context.Context, t *connectivity.Topology) error {
	g, making := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for _, n := range c.nodes {
		for _, role := range roles {
			name := n.short + "-" + string(role)
			t.Pods = append(t.Pods, connectivity.Pod{Name: name, Node: n.Name, Role: role})
			image := n.daemon.Image
			if c.options.Image != "" {
				image = c.options.Image
			}
			g.Go(func() error { return c.space.CreatePod(making, podFor(name, role, n.Name, image)) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	addresses, err := c.awaitRunning(ctx, len(t.Pods))
	if err != nil {
		return err
	}
	return c.connect(ctx, t, addresses)
}

// awaitRunning waits until all pods run, and returns their addresses by name.
func (c *Cluster) awaitRunning(ctx context.Context, want int) (map[string][]netip.Addr, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, mostStart, fmt.Errorf("not within %v", mostStart))
	defer cancel()
	for {
		pods, err := c.space.Pods(ctx)
		if err != nil {
			return nil, err
		}
		addresses, waits := map[string][]netip.Addr{}, []string{}
		for _, p := range pods {
			why, over := running(&p)
			if over {
				return nil, fmt.Errorf("the pod %s does not run: %s", p.Name, why)
			}
			if why != "" {
				waits = append(waits, p.Name+": "+why)
				continue
			}
			for _, ip := range p.Status.PodIPs {
				if a, err := netip.ParseAddr(ip.IP); err == nil {
					addresses[p.Name] = append(addresses[p.Name], a.Unmap())
				}
			}
		}
		if len(addresses) == want {
			return addresses, nil
		}
		select {
		case <-time.After(looking):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%d of %d pods run, %w; %s", len(addresses), want, context.Cause(ctx), strings.Join(waits[:min(3, len(waits))], "; "))
		}
	}
}

// connect starts an agent that asks in each pod, and takes down what it says of the pod.
func (c *Cluster) connect(ctx context.Context, t *connectivity.Topology, addresses map[string][]netip.Addr) error {
	agents := make([]*agent.Client, len(t.Pods))
	var g errgroup.Group // its context would end the streams
	g.SetLimit(together)
	for i := range t.Pods {
		p := &t.Pods[i]
		g.Go(func() error {
			conn, err := c.space.Exec(ctx, p.Name, "twillctl", "agent", "ask")
			if err != nil {
				return err
			}
			greeting, cancel := context.WithTimeoutCause(ctx, mostStart, fmt.Errorf("no answer within %v", mostStart))
			defer cancel()
			if agents[i], err = agent.Dial(greeting, conn); err != nil {
				return fmt.Errorf("pod %s: %w", p.Name, err)
			}
			p.Addresses, p.MTU, p.NameServers = addresses[p.Name], agents[i].Hello.MTU, agents[i].Hello.NameServers
			return nil
		})
	}
	err := g.Wait()
	for i, a := range agents {
		if a != nil {
			c.agents[t.Pods[i].Name] = a
		}
	}
	return err
}

// awaitReady gives kubelets time for a first probe.
func (c *Cluster) awaitReady(ctx context.Context) error {
	until := time.Now().Add(mostProbed)
	for {
		pods, err := c.space.Pods(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !ready(&p) }) || time.Now().After(until) {
			return nil
		}
		select {
		case <-time.After(looking):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ask asks from inside the pod of that name. What a node asks is the readiness probe of its kubelet.
func (c *Cluster) Ask(ctx context.Context, from string, q connectivity.Question, patience time.Duration) (probe.Answer, error) {
	if a, ok := c.agents[from]; ok {
		answer, err := a.Ask(ctx, q, patience)
		if err != nil {
			err = fmt.Errorf("ask from pod %s: %w", from, err)
		}
		return answer, err
	}
	return c.probed(ctx, q, patience)
}

// probed waits for as long as patience until the pod that a node asks is ready.
func (c *Cluster) probed(ctx context.Context, q connectivity.Question, patience time.Duration) (probe.Answer, error) {
	until := time.Now().Add(patience)
	for {
		p, err := c.space.Pod(ctx, q.Want[0])
		if err != nil {
			return probe.Answer{}, err
		}
		if ready(p) {
			return probe.Answer{Outcome: probe.Reached, Detail: "the kubelet's readiness probe was answered"}, nil
		}
		if time.Now().After(until) {
			return probe.Answer{Outcome: probe.Silent, Detail: "the kubelet's readiness probe has no answer"}, nil
		}
		select {
		case <-time.After(looking):
		case <-ctx.Done():
			return probe.Answer{}, ctx.Err()
		}
	}
}

// Enforce makes the policies.
func (c *Cluster) Enforce(ctx context.Context) error {
	documents, err := connectivity.Policies()
	if err != nil {
		return err
	}
	for _, d := range documents {
		if err := c.space.CreatePolicy(ctx, d.NetworkPolicy); err != nil {
			return err
		}
	}
	return nil
}

// Command is `twillctl trace`, which judges policies, too; of a readiness probe, where the kubelet says more of it.
func (c *Cluster) Command(one connectivity.Case) string {
	if one.Kind == connectivity.NodeToPod {
		return fmt.Sprintf("kubectl -n %s describe pod %s", connectivity.Namespace, one.To)
	}
	return fmt.Sprintf("twillctl trace %s/%s %s %s", connectivity.Namespace, one.From, one.Target(), c.options.Flags)
}

// Close deletes the namespace and waits until it is gone, unless it is to be kept.
func (c *Cluster) Close(ctx context.Context) error {
	for _, a := range c.agents {
		_ = a.Close() // it has said all that is wanted of it
	}
	return c.space.Close(ctx, c.options.Keep)
}
