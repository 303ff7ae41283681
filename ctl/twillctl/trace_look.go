package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/trace"
	"github.com/twill-cni/twill/kernel/path"
	"github.com/twill-cni/twill/store"
)

const (
	// daemonPatience is how long a daemon that is asked about Services or policies may take: one that hangs is not to hold up the rest.
	daemonPatience = 300 * time.Millisecond
	// farPatience is the same for one on another machine.
	farPatience = 5 * time.Second
	// confirm is how long the probe waits where the kernel has shown already that no answer can come.
	confirm = 300 * time.Millisecond
)

// patienceWith is how long a node's daemon may take.
func patienceWith(v viewpoint) time.Duration {
	if v.runDir == "" {
		return farPatience
	}
	return daemonPatience
}

// tracer follows packets.
type tracer struct {
	noProbe  bool
	patience time.Duration
	endpoint string
	protocol store.Protocol
	chosen   netip.AddrPort

	views []viewpoint
	nodes map[string]string // names of the network namespaces of a lab's nodes
	pods  []tracedPod
}

// tracedPod is a pod of a node that can be looked at, with one of its addresses.
type tracedPod struct {
	where path.Pod
	node  viewpoint
	netns string // of the node; empty: this machine's own
}

// way is where a packet goes after the service proxy had its say.
type way struct {
	address netip.Addr // of the family that is asked for
	port    uint16
	service *trace.Hop // what the proxy leads to
	name    string     // of the Service
	asked   netip.AddrPort
	dead    bool // the proxy leads nowhere
}

// survey finds the pods of all nodes. Those of a node that does not answer are not known; it is an error when none does.
func (t *tracer) survey(ctx context.Context, views []viewpoint) error {
	t.views = views
	found := make([][]path.Pod, len(views))
	errs := make([]error, len(views))
	var asking sync.WaitGroup
	for i, v := range views {
		asking.Go(func() {
			if v.runDir != "" {
				found[i], errs[i] = api.PathPods(v.runDir)
			} else {
				found[i], errs[i] = v.client.TracePods(ctx)
			}
		})
	}
	asking.Wait()
	for i, v := range views {
		for _, p := range found[i] {
			t.pods = append(t.pods, tracedPod{node: v, netns: t.nodes[v.node], where: p})
		}
	}
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// podsCalled returns a pod with that name or address, once for each of its addresses.
func (t *tracer) podsCalled(text string) (found []tracedPod) {
	name := text
	if !strings.Contains(text, "/") {
		name = "default/" + text
	}
	address, err := netip.ParseAddr(text)
	for _, p := range t.pods {
		if err == nil && p.where.Address == address.Unmap() || err != nil && p.where.Name == name {
			found = append(found, p)
		}
	}
	return found
}

func (t *tracer) podAt(a netip.Addr) *tracedPod {
	for i := range t.pods {
		if t.pods[i].where.Address == a {
			return &t.pods[i]
		}
	}
	return nil
}

// follow looks at one way, probes it, and looks again: what the probe makes the kernel look for, and not find, is seen then.
func (t *tracer) follow(ctx context.Context, source tracedPod, w way) (trace.Result, error) {
	c := trace.Case{From: trace.End{Pod: source.where.Name, Node: source.node.String(), Address: source.where.Address}, Service: w.service, ServiceName: w.name}
	var target *tracedPod
	if !w.dead {
		c.To = trace.End{Address: w.address, Port: w.port}
		target = t.podAt(w.address)
	}
	if target != nil {
		c.To.Pod, c.To.Node = target.where.Name, target.node.String()
	}
	if !w.dead {
		t.policies(ctx, &c, source, target)
	}
	see := func() (err error) {
		if c.Source, err = look(ctx, source, w.address); err != nil || target == nil {
			return err
		}
		c.Target, err = look(ctx, *target, source.where.Address)
		return err
	}
	if err := see(); err != nil {
		return trace.Result{}, err
	}
	patience := t.patience
	if trace.Judge(c).Failure != nil {
		patience = min(patience, confirm)
	}
	t.probe(ctx, &c, source, w, patience)
	if err := see(); err != nil {
		return trace.Result{}, err
	}
	return trace.Judge(c), nil
}

// look reads the kernel of a pod's node; of another machine, its twilld does.
func look(ctx context.Context, p tracedPod, other netip.Addr) (view *path.View, err error) {
	read := func() error {
		view, err = path.Look(ctx, path.Query{Pod: p.where, Other: other})
		return err
	}
	switch {
	case p.node.runDir == "":
		view, err = p.node.client.Trace(ctx, p.where.Address, other)
	case p.netns != "":
		err = netns.Named(p.netns).Do(read)
	default:
		err = read()
	}
	if err != nil {
		return nil, fmt.Errorf("look at the kernel of %s: %w", p.node, err)
	}
	return view, nil
}

// probe asks, and writes into the case what came of it.
func (t *tracer) probe(ctx context.Context, c *trace.Case, source tracedPod, w way, patience time.Duration) {
	dir, name := filepath.Split(source.where.Netns)
	switch {
	case source.node.runDir == "":
		c.Probe.Detail = source.where.Name + " is on another machine: run twillctl there for a probe"
		return
	case t.noProbe:
		c.Probe.Detail = "--no-probe"
		return
	case filepath.Clean(dir) != netns.Dir && filepath.Clean(dir) != "/var/run/netns":
		c.Probe.Detail = fmt.Sprintf("the network namespace %s is not in %s", source.where.Netns, netns.Dir)
		return
	case t.protocol == store.SCTP:
		c.Probe.Detail = "SCTP cannot be asked"
		return
	}
	to := netip.AddrPortFrom(w.address, w.port)
	if w.asked.IsValid() {
		to = w.asked
	}
	answer := probe.Ask(ctx, netns.Named(name), t.protocol, to, patience)
	c.Probe = trace.Outcome{Asked: true, Answered: answer.Outcome == probe.Reached, Detail: answer.Detail}
	switch {
	case answer.Outcome == probe.Silent && t.protocol == store.UDP:
		c.Probe = trace.Outcome{Detail: "a server of UDP may have nothing to say: " + answer.Detail}
	case c.Probe.Answered && c.Target != nil:
		c.Large = t.large(ctx, source, w.address, patience)
	}
}

// large asks with a packet as long as the pod may send them.
func (t *tracer) large(ctx context.Context, source tracedPod, to netip.Addr, patience time.Duration) trace.Outcome {
	ns := netns.Named(filepath.Base(source.where.Netns))
	mtu := 0
	err := ns.Do(func() error {
		link, err := net.InterfaceByName(source.where.IfName)
		if err == nil {
			mtu = link.MTU
		}
		return err
	})
	if err != nil {
		return trace.Outcome{}
	}
	protocol := probe.ICMP
	if to.Is6() {
		protocol = probe.ICMPv6
	}
	if probe.Ask(ctx, ns, protocol, netip.AddrPortFrom(to, 0), patience/4).Outcome != probe.Reached {
		return trace.Outcome{} // policies, or the pod, have it that way
	}
	answer := probe.AskLarge(ctx, ns, to, mtu, patience/2)
	return trace.Outcome{Asked: true, Answered: answer.Outcome == probe.Reached, Detail: fmt.Sprintf("%d bytes: %s", mtu, answer.Detail), Size: mtu}
}
