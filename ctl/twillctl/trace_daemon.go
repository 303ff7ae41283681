package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/twill-cni/twill/daemon/trace"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// ways returns where packets to the target go: to a pod or an address as it is, to a Service by way of an endpoint.
func (t *tracer) ways(ctx context.Context, source tracedPod, to traceTarget) ([]way, error) {
	var ways []way
	for _, p := range t.podsCalled(to.host) {
		ways = append(ways, way{address: p.where.Address, port: to.port})
	}
	if ways != nil {
		return ways, nil
	}
	address, err := netip.ParseAddr(to.host)
	if err == nil {
		address = address.Unmap()
	}
	ctx, cancel := context.WithTimeout(ctx, patienceWith(source.node))
	defer cancel()
	name := store.ObjectName{}
	if err != nil {
		if name, err = podArg(to.host); err != nil {
			return nil, fmt.Errorf("target %q: want a pod or a Service as [NAMESPACE/]NAME, or an address", to.host)
		}
	}
	report, failed := source.node.client.Services(ctx, name)
	if failed == nil && name == (store.ObjectName{}) {
		if name = serviceAt(report, address, to); name != (store.ObjectName{}) {
			report, failed = source.node.client.Services(ctx, name)
		}
	}
	if failed != nil && !address.IsValid() {
		return nil, fmt.Errorf("%s is no pod of a node that is looked at, and as a Service: %w", to.host, failed)
	}
	if name == (store.ObjectName{}) {
		w := way{address: address, port: to.port}
		if failed != nil {
			w.service = &trace.Hop{Node: source.node.String(), What: trace.Service, State: trace.NotLooked, Holds: failed.Error()}
		}
		return []way{w}, nil
	}
	for _, s := range report.Services {
		for _, f := range s.Frontends {
			if f.Port == to.port && f.Protocol == to.protocol.String() && (f.Address == address || !address.IsValid() && f.Kind == "ClusterIP") {
				ways = append(ways, t.byService(source, name, f))
			}
		}
	}
	if ways == nil {
		return nil, fmt.Errorf("the Service %s has no port %d of %s; `twillctl service %s` shows those that it has", name, to.port, to.protocol, name)
	}
	return ways, nil
}

// serviceAt returns the name of the Service that has the address and port.
func serviceAt(all dnat.Report, address netip.Addr, to traceTarget) store.ObjectName {
	for _, s := range all.Services {
		for _, f := range s.Frontends {
			if f.Address == address && f.Port == to.port && f.Protocol == to.protocol.String() {
				return store.ObjectName{Namespace: s.Namespace, Name: s.Name}
			}
		}
	}
	return store.ObjectName{}
}

// byService follows a frontend to one of the endpoints that the kernel leads to.
func (t *tracer) byService(source tracedPod, name store.ObjectName, f dnat.FrontendState) way {
	slots := f.Slots
	if len(f.InsideSlots) > 0 {
		slots = f.InsideSlots
	}
	var endpoints []netip.AddrPort
	for _, s := range slots {
		if s.Endpoint.IsValid() && !slices.Contains(endpoints, s.Endpoint) {
			endpoints = append(endpoints, s.Endpoint)
		}
	}
	asked := netip.AddrPortFrom(f.Address, f.Port)
	w := way{address: f.Address, port: f.Port, asked: asked, name: fmt.Sprintf("Service %s (%s)", name, asked)}
	hop := &trace.Hop{Node: source.node.String(), What: trace.Service, State: trace.OK}
	w.service = hop
	chosen := t.chosen
	if !chosen.IsValid() && len(endpoints) > 0 {
		chosen = endpoints[0]
	}
	switch {
	case f.Plan == "":
		hop.State, hop.Holds, hop.Reason = trace.Failed, "nothing of "+asked.String(), "the kernel does not know the Service's address and port"
		hop.Mend = "look at the node's twilld (twillctl status): its proxy did not write it"
	case len(endpoints) == 0:
		hop.State, hop.Holds, hop.Reason = trace.Failed, "no endpoint", fmt.Sprintf("Service %s has no endpoint that is ready", name)
		hop.Mend = "look at the pods that its selector means: are there some, are they ready (kubectl get endpointslices), and does its targetPort name one of their ports"
	case !slices.Contains(endpoints, chosen):
		hop.State, hop.Holds, hop.Reason = trace.Failed, fmt.Sprintf("%d endpoints", len(endpoints)), fmt.Sprintf("%s is none of them", chosen)
		hop.Mend = "name one of: " + strings.Join(endpointTexts(endpoints), ", ")
	default:
		hop.Holds = fmt.Sprintf("%s: %d endpoints, followed to %s", dash(f.Plan), len(endpoints), chosen)
		w.address, w.port = chosen.Addr(), chosen.Port()
	}
	w.dead = hop.State == trace.Failed
	return w
}

func endpointTexts(all []netip.AddrPort) (out []string) {
	for _, e := range all {
		out = append(out, e.String())
	}
	return out
}

// policies asks what policies say at both ends; target is nil when the other end is no pod that can be looked at.
func (t *tracer) policies(ctx context.Context, c *trace.Case, source tracedPod, target *tracedPod) {
	flow := policy.Flow{Src: source.where.Address, Dst: c.To.Address, Protocol: t.protocol, Port: c.To.Port}
	var asking sync.WaitGroup
	asking.Go(func() { c.Egress = policyHop(ctx, source.node, flow, "egress") })
	if target != nil {
		asking.Go(func() { c.Ingress = policyHop(ctx, target.node, flow, "ingress") })
	}
	asking.Wait()
}

// policyHop asks the twilld of an end's node. It is nil where policies are not enforced.
func policyHop(ctx context.Context, at viewpoint, flow policy.Flow, direction string) *trace.Hop {
	ctx, cancel := context.WithTimeout(ctx, patienceWith(at))
	defer cancel()
	verdict, err := at.client.Verdict(ctx, flow)
	switch {
	case err != nil && strings.Contains(err.Error(), "policies are not enforced"):
		return nil
	case err != nil:
		return &trace.Hop{Node: at.String(), What: trace.Policy, State: trace.NotLooked, Holds: shortly(err)}
	}
	kernel, decision := verdict.Kernel.EgressAnswer, verdict.Policies.Egress
	if direction == "ingress" {
		kernel, decision = verdict.Kernel.IngressAnswer, verdict.Policies.Ingress
	}
	return trace.PolicyHop(at.String(), trace.Verdict{Direction: direction, Kernel: kernel, Allowed: decision.Allowed, Pod: decision.Pod, Reason: decision.Reason})
}

// shortly is what a table has room for of an error.
func shortly(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "twilld does not answer"
	}
	return err.Error()
}
