package kubeends

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
)

const (
	askedAtOnce = 64               // daemons
	mostStatus  = 15 * time.Second // for a daemon's answer
	mostLookup  = 5 * time.Second  // for a name server's
	namesPort   = 53
)

// parts asks the daemons what is on. A part that is off on one of the nodes, or of which nothing is known there, is not run: the test would fail.
func (c *Cluster) parts(ctx context.Context, t *connectivity.Topology) {
	statuses, errs := make([]api.NodeStatus, len(c.nodes)), make([]error, len(c.nodes))
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	for i, n := range c.nodes {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, mostStatus)
			defer cancel()
			client := api.NewClientBy("node "+n.Name, func(ctx context.Context) (net.Conn, error) { return c.kube.Dial(ctx, n.daemon) })
			statuses[i], errs[i] = client.Status(ctx)
			return nil
		})
	}
	_ = g.Wait() // of functions that return nil
	var noProxy, noPolicy []string
	for i, n := range c.nodes {
		if errs[i] != nil {
			why := fmt.Sprintf("nobody knows whether it is on: %v", errs[i])
			t.Parts[connectivity.PartServices], t.Parts[connectivity.PartPolicies] = why, why
			return
		}
		if statuses[i].Services == nil {
			noProxy = append(noProxy, n.Name)
		}
		if statuses[i].Policies == nil {
			noPolicy = append(noPolicy, n.Name)
		}
	}
	t.LeaveOut(connectivity.PartServices, "--proxy=off", noProxy)
	t.LeaveOut(connectivity.PartPolicies, "--policy=off", noPolicy)
}

// services makes the pods' Services.
func (c *Cluster) services(ctx context.Context, t *connectivity.Topology) error {
	documents, err := connectivity.Services(t.Pods)
	if err != nil {
		return err
	}
	g, making := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for i, d := range documents {
		g.Go(func() error {
			svc, err := c.space.CreateService(making, d.Service)
			if err != nil {
				return err
			}
			return t.Pods[i].Serve(svc)
		})
	}
	return g.Wait()
}

// names fills in the Services' names. Pods that were told of no name server of the cluster, or of one that is not there, are not asked for any.
func (c *Cluster) names(ctx context.Context, t *connectivity.Topology) error {
	judged := map[netip.Addr]bool{}
	for i := range t.Pods {
		p := &t.Pods[i]
		search := c.agents[p.Name].Hello.Search
		if len(p.NameServers) == 0 || len(search) == 0 || !strings.HasPrefix(search[0], connectivity.Namespace+".svc.") {
			t.Parts[connectivity.PartDNS] = "pods on " + p.Node + " are told of no name server of the cluster"
			return nil
		}
		p.ServiceName = p.Name + "." + search[0]
		for _, server := range p.NameServers {
			if judged[server] {
				continue
			}
			judged[server] = true
			there, err := c.isThere(ctx, p, server, strings.TrimPrefix(search[0], connectivity.Namespace+"."))
			if err != nil {
				return err
			}
			if !there {
				t.Parts[connectivity.PartDNS] = fmt.Sprintf("no Service has the address %s, the name server that pods are told of, and nobody answers there", server)
				return nil
			}
		}
	}
	return nil
}

// isThere reports whether a name server is a Service, or answers: DNS that is broken is to fail, and not to be left out.
func (c *Cluster) isThere(ctx context.Context, p *connectivity.Pod, server netip.Addr, domain string) (bool, error) {
	has, err := c.kube.HasServiceAt(ctx, server)
	if has || err != nil {
		return has, err
	}
	q := connectivity.Question{Protocol: store.UDP, To: netip.AddrPortFrom(server, namesPort), Lookup: "kubernetes.default." + domain, V6: slices.ContainsFunc(p.Service, netip.Addr.Is6) && !slices.ContainsFunc(p.Service, netip.Addr.Is4)}
	answer, err := c.agents[p.Name].Ask(ctx, q, mostLookup)
	return answer.Outcome != probe.Silent, err
}
