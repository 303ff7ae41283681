//go:build linux

package page

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/gauge"
	"github.com/twill-cni/twill/daemon/trace"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/store"
)

// protocols are those that a way can be asked for.
var protocols = map[string]store.Protocol{"TCP": store.TCP, "UDP": store.UDP, "SCTP": store.SCTP}

// traced is a way, and what was measured between the nodes at its ends.
type traced struct {
	trace.Result
	Measured *gauge.Peer `json:"measured,omitempty"`
	Note     string      `json:"note,omitempty"` // what this node cannot say
}

// trace judges the way from a pod of this node. The other node's kernel is not looked at, unless it is this one: its daemon answers root there alone.
func (d *desk) trace(ctx context.Context, form url.Values) (*traced, error) {
	pod, err := netip.ParseAddr(form.Get("pod"))
	if err != nil {
		return nil, errors.New("from: want the address of a pod of this node")
	}
	other, err := netip.ParseAddr(form.Get("other"))
	if err != nil {
		return nil, errors.New("to: want an address; search finds those of pods and Services")
	}
	protocol, ok := protocols[form.Get("protocol")]
	if !ok {
		return nil, errors.New("protocol: want TCP, UDP or SCTP")
	}
	port, err := strconv.ParseUint(form.Get("port"), 10, 16)
	if err != nil {
		return nil, errors.New("port: want a number from 0 to 65535")
	}
	pod, other = pod.Unmap(), other.Unmap()
	if pod.Is4() != other.Is4() {
		return nil, fmt.Errorf("from %s to %s: want addresses of one family", pod, other)
	}
	if name := d.serviceAt(ctx, other); name != "" {
		return nil, fmt.Errorf("%s is the Service %s: choose one of its endpoints, which search shows", other, name)
	}
	c, err := d.look(ctx, pod, other)
	if err != nil {
		return nil, err
	}
	c.To.Port = uint16(port)
	d.policies(ctx, c, policy.Flow{Src: pod, Dst: other, Protocol: protocol, Port: uint16(port)})
	out := &traced{}
	if c.Target == nil {
		d.beyond(c, out)
	}
	out.Result = trace.Judge(*c)
	return out, nil
}

// beyond says what is known of an end that is not on this node.
func (d *desk) beyond(c *trace.Case, out *traced) {
	out.Measured = d.peerOf(c.To.Address)
	if out.Measured == nil && c.To.Pod == "" {
		return // it is outside of the cluster
	}
	if c.To.Node == "" {
		c.To.Node = cmp.Or(out.Measured.Node, out.Measured.Underlay.String())
	}
	c.To.Pod = cmp.Or(c.To.Pod, "a pod")
	c.Unlooked = "not looked at from " + d.Node
	out.Note = fmt.Sprintf("This is what %s holds. What %s holds, its own daemon says: look at its page, or run twillctl trace, which asks both.", d.Node, c.To.Node)
}

// look reads this node's kernel for both ends, as far as they are its own.
func (d *desk) look(ctx context.Context, pod, other netip.Addr) (*trace.Case, error) {
	c := &trace.Case{From: trace.End{Node: d.Node, Address: pod}, To: trace.End{Address: other}}
	var err error
	if c.Source, err = api.LookFrom(ctx, d.RunDir, pod, other); err != nil {
		return nil, err
	}
	ends, err := d.pods(ctx, pod.String())
	if err != nil {
		return nil, err
	}
	others, err := d.pods(ctx, other.String())
	if err != nil {
		return nil, err
	}
	for _, p := range append(ends, others...) {
		if slices.Contains(p.Addrs, pod.String()) {
			c.From.Pod = p.Name
		}
		if slices.Contains(p.Addrs, other.String()) {
			c.To.Pod, c.To.Node = p.Name, p.Node
			if p.Local {
				if c.Target, err = api.LookFrom(ctx, d.RunDir, other, pod); err != nil {
					return nil, err
				}
			}
		}
	}
	return c, nil
}

// policies asks what policies say at this node's ends.
func (d *desk) policies(ctx context.Context, c *trace.Case, flow policy.Flow) {
	p := d.About.Policies()
	if p == nil {
		return
	}
	verdict, err := p.Verdict(ctx, flow)
	if err != nil {
		c.Egress = &trace.Hop{Node: d.Node, What: trace.Policy, State: trace.NotLooked, Holds: err.Error()}
		return
	}
	hop := func(direction, kernel string, said api.FlowDecision) *trace.Hop {
		return trace.PolicyHop(d.Node, trace.Verdict{Direction: direction, Kernel: kernel, Allowed: said.Allowed, Pod: said.Pod, Reason: said.Reason})
	}
	c.Egress = hop("egress", verdict.Kernel.EgressAnswer, verdict.Policies.Egress)
	if c.Target != nil {
		c.Ingress = hop("ingress", verdict.Kernel.IngressAnswer, verdict.Policies.Ingress)
	}
}

// peerOf returns what was measured of the node that has the address in its pod subnet.
func (d *desk) peerOf(a netip.Addr) *gauge.Peer {
	for _, p := range d.Peers() {
		if p.Subnet.Contains(a) {
			return &p
		}
	}
	return nil
}

// serviceAt returns the name of a Service that has the address.
func (d *desk) serviceAt(ctx context.Context, a netip.Addr) string {
	services, err := d.listServices(ctx)
	if err != nil {
		return "" // the way is shown all the same
	}
	for _, s := range services {
		if slices.ContainsFunc(s.Addrs, func(text string) bool {
			at, err := netip.ParseAddrPort(text)
			return err == nil && at.Addr() == a
		}) {
			return s.Name
		}
	}
	return ""
}
