package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/connectivity/kubeends"
	"github.com/twill-cni/twill/ctl/connectivity/labends"
	"github.com/twill-cni/twill/ctl/kubenodes"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/probe"
)

// exitNotRun is the exit code of "connectivity" when the test could not be run.
const exitNotRun = 2

// connectivityFlags say what is tested, and how.
type connectivityFlags struct {
	from    viewpoints // a lab's, or a Kubernetes cluster's
	run     connectivity.Options
	nodes   []string
	image   string
	keep    bool
	outside []string
	beyond  []netip.AddrPort // what outside says
	output  string
	noTrace bool
}

// ends are the pods of a test, wherever they are.
type ends interface {
	connectivity.Cluster
	Close(ctx context.Context) error
}

func newConnectivity(to streams) *cobra.Command {
	f := &connectivityFlags{}
	cmd := &cobra.Command{
		Use:   "connectivity [test] {--lab NAME | --all-nodes}",
		Short: "test who reaches whom, and who must not: pods, Services, node ports, DNS, nodes, outside, large packets, policies",
		Long: `connectivity makes two pods on each node of a lab or of a Kubernetes cluster, in a
namespace of their own, with servers, Services and policies, asks everything that they can
be asked of, and removes them. It tests, in each family that the pods have:

  pod to pod       every pod asks every other for its name, by TCP and UDP
  large packets    the largest that the pods' MTU lets through, not fragmented
  pod to node      and node to pod (of a cluster: the kubelet's probe of the node's own pods)
  pod to Service   every pod asks each pod's Service; its own, too (hairpin)
  node ports       each node is asked for pods of its own and of others, from a pod of every node,
                   and of a lab from outside
  pod to DNS       the name of a Service
  pod to outside   --outside, or of a lab its underlay
  policies         what policies deny, by peer and by port, on ingress and on egress, and what they
                   allow. What is denied counts only if it was reached before the policy

In a cluster, the pods have no rights and run the daemon's own image. The kubeconfig has to allow to
list nodes, pods and Services, to make and delete the namespace twill-connectivity and what is
in it, and to exec into its pods and those of the daemon. Nodes that are cordoned, not Ready
or without a daemon are left out, and said so.

What the daemons do not have on is not run, and said so. A failed case comes with the command
that explains it; the first few are traced at once. The pods are gone at the end: with --keep they
stay, until the next run, so that those commands find them.

Exit code: 0 all is as it is to be, 1 a case failed, 2 the test could not be run.`,
		Example: `  twillctl connectivity --lab demo
  twillctl connectivity --all-nodes
  twillctl connectivity test --all-nodes --nodes node1,node2 --outside 192.0.2.80:443
  twillctl connectivity --lab demo -o junit > connectivity.xml
  twillctl connectivity --lab demo -o json | jq '.results[] | select(.ok | not)'`,
		ValidArgs: []string{"test"},
		Args: func(cmd *cobra.Command, args []string) error {
			return notRun(cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)(cmd, args))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return f.test(cmd.Context(), to) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return notRun(err) })
	flags := cmd.Flags()
	flags.StringVar(&f.from.lab.Name, "lab", "", "the lab to test")
	flags.StringVar(&f.from.lab.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	completeFlag(cmd, "lab", names(labNames(&f.from.lab.StateDir)))
	flags.StringVar(&f.image, "image", "", "the image of a cluster's pods, with twillctl in it (default the daemon's)")
	f.from.addCluster(cmd, "test the Kubernetes cluster of the kubeconfig")
	flags.StringSliceVar(&f.nodes, "nodes", nil, "test these nodes alone (default all)")
	flags.StringArrayVar(&f.outside, "outside", nil, "`ADDRESS[:PORT]` outside of the cluster, by an echo request or by TCP (repeatable; default for a lab its underlay)")
	flags.BoolVar(&f.keep, "keep", false, "leave the test's pods, Services and policies in place")
	flags.BoolVar(&f.noTrace, "no-trace", false, "do not trace cases that failed")
	flags.DurationVar(&f.run.Patience, "wait", 2*time.Second, "how long to wait for each answer")
	flags.DurationVar(&f.run.Settle, "settle", 10*time.Second, "how long Services and policies may take until they are in force")
	flags.IntVar(&f.run.Together, "together", 16, "questions at one time")
	addFormat(cmd, &f.output, "junit")
	known := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error { return notRun(known(cmd, args)) }
	return cmd
}

// notRun gives an error the exit code of a test that could not be run.
func notRun(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitNotRun, err}
}

// check returns an error that names the first flag that makes no sense.
func (f *connectivityFlags) check() error {
	switch {
	case f.from.lab.Name == "" && !f.from.ofCluster():
		return errors.New("what is to be tested? --all-nodes is the Kubernetes cluster of the kubeconfig, --lab NAME a lab: `twillctl lab status --all` lists them, `twillctl lab up` makes one")
	case f.from.lab.Name != "" && (f.from.ofCluster() || f.from.kube.context != "" || f.image != ""):
		return errors.New("--lab is a lab, and --all-nodes, --kubeconfig, --context and --image are of a Kubernetes cluster: choose one")
	case f.run.Patience <= 0:
		return fmt.Errorf("--wait %v: want a time that passes, such as 2s", f.run.Patience)
	case f.run.Settle < 0:
		return fmt.Errorf("--settle %v: want a time that is not negative", f.run.Settle)
	case f.run.Together < 1:
		return fmt.Errorf("--together %d: want at least one", f.run.Together)
	}
	for _, text := range f.outside {
		to, err := parseOutside(text)
		if err != nil {
			return err
		}
		f.beyond = append(f.beyond, to)
	}
	return nil
}

// parseOutside reads ADDRESS or ADDRESS:PORT; without a port it is 0.
func parseOutside(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	to, err := netip.ParseAddrPort(text)
	if err != nil || to.Port() == 0 || to.Addr().Zone() != "" {
		return to, fmt.Errorf("--outside %q: want ADDRESS or ADDRESS:PORT, such as 192.0.2.80, 192.0.2.80:443 or [2001:db8::80]:443", text)
	}
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), nil
}

// test runs the test and prints the report. Whatever happens, what the test made is removed.
func (f *connectivityFlags) test(ctx context.Context, to streams) (err error) {
	if err := f.check(); err != nil {
		return notRun(err)
	}
	progress := newProgress(to.err, time.Now())
	f.run.Progress = progress.bar
	cluster, topology, done, err := f.open(ctx)
	if err != nil {
		return notRun(err)
	}
	defer func() { err = errors.Join(err, notRun(done())) }()
	report, err := connectivity.Run(ctx, cluster, topology, f.run)
	progress.finish()
	if err = errors.Join(err, cluster.Close(context.WithoutCancel(ctx))); err != nil {
		return notRun(err)
	}
	if err := f.print(report, to); err != nil {
		return notRun(err)
	}
	if f.keep {
		fmt.Fprintf(to.err, "the test's pods, Services and policies stay in namespace %s until the next run without --keep\n", connectivity.Namespace)
	}
	if !report.OK() {
		return errFailed
	}
	return nil
}

// open makes the pods. The caller closes them, and then calls done.
func (f *connectivityFlags) open(ctx context.Context) (pods ends, t *connectivity.Topology, done func() error, err error) {
	if f.from.ofCluster() {
		pods, t, err = f.openCluster(ctx)
		return pods, t, func() error { return nil }, err
	}
	l, err := lab.Open(f.from.lab)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := openLab(l)
	if err != nil {
		return nil, nil, nil, err
	}
	f.explain(func() (*tracer, []viewpoint, error) {
		return &tracer{patience: time.Second, nodes: namespacesOf(l)}, viewsOf(l), nil
	})
	pods, t, err = labends.Open(ctx, l, s, labends.Options{Nodes: f.nodes, Outside: f.beyond, Keep: f.keep})
	if err != nil {
		return nil, nil, nil, errors.Join(err, s.Close())
	}
	return pods, t, s.Close, nil
}

// openCluster makes the pods in a Kubernetes cluster.
func (f *connectivityFlags) openCluster(ctx context.Context) (ends, *connectivity.Topology, error) {
	kube, err := kubenodes.Open(f.from.kube.file, f.from.kube.context)
	if err != nil {
		return nil, nil, err
	}
	f.explain(func() (*tracer, []viewpoint, error) {
		views, err := f.from.openCluster(ctx)
		return &tracer{noProbe: true, patience: time.Second}, views, err
	})
	options := kubeends.Options{Nodes: f.nodes, Outside: f.beyond, Image: f.image, Keep: f.keep, Owner: person(), Flags: f.from.clusterFlags()}
	pods, t, err := kubeends.Open(ctx, kube, options)
	if err != nil {
		return nil, nil, err
	}
	return pods, t, nil
}

// person is who runs the test, for somebody who finds it under way.
func person() string {
	name, host := "somebody", "somewhere"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// explain has failures traced, unless that is not wanted.
func (f *connectivityFlags) explain(with func() (*tracer, []viewpoint, error)) {
	if f.noTrace {
		return
	}
	f.run.Explain = func(ctx context.Context, c connectivity.Case) string {
		t, views, err := with()
		if err != nil {
			return "" // the command that looks into it says why
		}
		return traced(ctx, t, views, c)
	}
}

func (f *connectivityFlags) print(report *connectivity.Report, to streams) error {
	return printAs(to.out, f.output, report, func() error {
		if f.output == "junit" {
			return report.WriteJUnit(to.out)
		}
		return report.Write(to.out, isTerminal(to.out))
	})
}

// traced traces the way of a case that failed, and returns the hop that is broken with its mend; empty when the trace finds nothing, or cannot be made.
func traced(ctx context.Context, t *tracer, views []viewpoint, c connectivity.Case) string {
	if c.Expect != probe.Reached || c.Kind == connectivity.NodeToPod {
		return ""
	}
	results, err := t.run(ctx, views, connectivity.Namespace+"/"+c.From, c.Target())
	if err != nil {
		return ""
	}
	for _, r := range results {
		if h := r.Failure; h != nil {
			return fmt.Sprintf("%s, %s: %s; mend: %s", h.Node, h.What, h.Reason, h.Mend)
		}
	}
	return ""
}
