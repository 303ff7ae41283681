package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

// labFlags are the flags that make a lab what it is.
type labFlags struct {
	lab.Options
	ipv6, dualStack bool
	networks        []string
	backendConfig   string
}

func newLab(to streams) *cobra.Command {
	flags := &labFlags{}
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "a cluster on this machine, in network namespaces",
		Long: `lab makes a cluster on this machine: every node is a network namespace with an
uplink to a common bridge, or to one of several, and runs the real twilld, every pod is a network
namespace that the real CNI plugin attached, and etcd is built in. Nothing in the
machine's own network namespace is touched. It needs root.

Without a sub-command it is the demo: make the cluster, show who reaches whom and how
the nodes are, remove it. It exits with 1 when a pod cannot be reached.`,
		Example: `  twillctl lab                               three nodes, two pods on each
  twillctl lab --nodes 5 --dual-stack        more nodes, IPv4 and IPv6
  twillctl lab --subnets 2                   nodes in two subnets, joined by a router
  twillctl lab --backend bgp --subnets 2 --tor
  twillctl lab --backend vxlan,bgp           one after the other
  twillctl lab --keep                        look around afterwards, then "twillctl lab down"

  twillctl lab up --name a                   make a cluster that stays
  twillctl lab matrix --name a               who reaches whom?
  twillctl lab exec --name a node1-pod1 -- ip route
  twillctl lab down --name a                 remove it`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), flags, to) },
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&flags.KeepOnFailure, "keep", false, "do not remove the cluster at the end, nor when it fails to come up")
	cmd.AddCommand(newLabUp(to), newLabDown(to), newLabExec(), newLabPods(to), newLabAttach(to), newLabDetach(to), newLabMatrix(to), newLabBalance(to), newLabStatus(to), newLabSwitch(to), newLabEtcd(), newLabRouter(to))
	return cmd
}

func (f *labFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	addName(cmd, &f.Options)
	flags.IntVar(&f.Nodes, "nodes", 3, "number of nodes")
	flags.IntVar(&f.PodsPerNode, "pods", 2, "number of pods on each node")
	flags.StringVar(&f.Backend, "backend", lab.VXLAN, "how nodes reach each other's pods: vxlan or bgp; the demo also takes vxlan,bgp")
	addRouting(cmd, &f.Routing)
	flags.IntVar(&f.Subnets, "subnets", 1, "number of subnets that the nodes are dealt out to, joined by a router")
	flags.StringVar(&f.backendConfig, "backend-config", "", `more keys of the stored Backend object, as JSON: '{"VNI":7}'`)
	flags.BoolVar(&f.ipv6, "ipv6", false, "IPv6 in place of IPv4, for nodes and pods")
	flags.BoolVar(&f.dualStack, "dual-stack", false, "IPv4 and IPv6, for nodes and pods")
	flags.StringSliceVar(&f.networks, "network", nil, "the pods' network, one a family (default 10.244.0.0/16, fd00:244::/48)")
	flags.StringVar(&f.Proxy, "proxy", "nftables", "service proxy of the nodes: nftables or off")
	flags.IntVar(&f.MTU, "mtu", 1500, "MTU of the underlay")
	flags.StringVar(&f.BinDir, "bin-dir", "", "where twilld, twill, twill-ipam and twillctl are (default: where this program is)")
	flags.StringArrayVar(&f.DaemonArgs, "twilld-arg", nil, "one more argument for every twilld (repeatable)")
	flags.DurationVar(&f.ReadyTimeout, "timeout", 0, "how long etcd and each daemon may take to be ready (default 30s, more for many nodes)")
	cmd.MarkFlagsMutuallyExclusive("ipv6", "dual-stack")
}

// addRouting adds the flags that only the backend bgp has.
func addRouting(cmd *cobra.Command, r *lab.Routing) {
	flags := cmd.Flags()
	flags.StringVar((*string)(&r.Overlay), "overlay", "", "bgp: which nodes are reached through VXLAN: never, cross-subnet or always\n(default never; cross-subnet where there are several subnets and no --tor)")
	flags.IntVar(&r.Reflectors, "reflectors", 0, "bgp: number of nodes that reflect routes, in place of sessions between all nodes")
	flags.BoolVar(&r.ToR, "tor", false, "bgp: the router between the subnets speaks BGP with every node")
}

// addName adds the flags that say which lab is meant.
func addName(cmd *cobra.Command, options *lab.Options) {
	cmd.Flags().StringVar(&options.Name, "name", "demo", "the lab's name, also the prefix of its namespaces")
	cmd.Flags().StringVar(&options.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	completeFlag(cmd, "name", names(labNames(&options.StateDir)))
}

// options returns what the flags say.
func (f *labFlags) options() (lab.Options, error) {
	o := f.Options
	switch {
	case f.ipv6:
		o.Family = lab.IPv6
	case f.dualStack:
		o.Family = lab.DualStack
	}
	if f.backendConfig != "" {
		o.BackendConfig = json.RawMessage(f.backendConfig)
	}
	for _, text := range f.networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return o, fmt.Errorf("--network: %w", err)
		}
		o.Networks = append(o.Networks, network)
	}
	return o, nil
}

// demo shows each backend that --backend names, one after the other.
func demo(ctx context.Context, flags *labFlags, to streams) error {
	backends := strings.Split(flags.Backend, ",")
	if len(backends) == 1 {
		return demoOne(ctx, flags, to)
	}
	if flags.KeepOnFailure {
		return fmt.Errorf("--keep: only one cluster can stay, and --backend names %d", len(backends))
	}
	var failed []error
	for _, backend := range backends {
		one := *flags
		one.Backend = backend
		if backend != lab.BGP {
			one.Routing = lab.Routing{Backend: backend}
		}
		fmt.Fprintf(to.out, "\nbackend %s\n", backend)
		if err := demoOne(ctx, &one, to); err != nil {
			failed = append(failed, fmt.Errorf("backend %s: %w", backend, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// demoOne brings a lab up, shows who reaches whom, and takes it down whatever happens.
func demoOne(ctx context.Context, flags *labFlags, to streams) error {
	l, err := bringUp(ctx, flags, to)
	if err != nil {
		return err
	}
	err = showMatrix(ctx, l, to)
	if err == nil && flags.Proxy != "off" && len(l.Pods()) > 0 {
		err = showBalance(ctx, l, to)
	}
	if ctx.Err() == nil {
		err = errors.Join(err, showStatus(ctx, l, to))
	}
	if pods := l.Pods(); err == nil && len(pods) > 1 {
		err = showTrace(ctx, l, pods, to)
	}
	if flags.KeepOnFailure {
		fmt.Fprintf(to.err, "the lab stays; remove it with: twillctl lab down --name %s\n", l.Name())
		return err
	}
	began := time.Now()
	down := l.Down(context.WithoutCancel(ctx))
	if down == nil {
		fmt.Fprintf(to.err, "removed lab %s in %s\n", l.Name(), seconds(began))
	}
	return errors.Join(err, down)
}

func seconds(began time.Time) string { return fmt.Sprintf("%.1f s", time.Since(began).Seconds()) }
