package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/connectivity/labends"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/probe"
)

// exitNotRun is the exit code of "connectivity" when the test could not be run.
const exitNotRun = 2

// connectivityFlags say what is tested, and how.
type connectivityFlags struct {
	lab     lab.Options
	run     connectivity.Options
	ends    labends.Options
	outside []string
	output  string
	noTrace bool
}

func newConnectivity(to streams) *cobra.Command {
	f := &connectivityFlags{}
	cmd := &cobra.Command{
		Use:   "connectivity [test] --lab NAME",
		Short: "test who reaches whom, and who must not: pods, Services, DNS, nodes, outside, large packets, policies",
		Long: `connectivity makes two pods on each node of a lab, in a namespace of their own, with
servers, Services and policies, asks everything that they can be asked of, and removes
them. It tests, in each family that the pods have:

  pod to pod       every pod asks every other for its name, by TCP and UDP
  large packets    the largest that the pods' MTU lets through, not fragmented
  pod to node      and node to pod
  pod to Service   every pod asks each pod's Service; its own, too (hairpin)
  pod to DNS       the name of a Service
  pod to outside   --outside, or the lab's underlay
  policies         what a policy denies, by peer and by port, and what it allows. What
                   is denied counts only if it was reached before the policy

What the daemons do not have on is not run, and said so. A failed case comes with the command
that explains it; the first few are traced at once. The pods are gone at the end: with --keep they
stay, until the next run, so that those commands find them.

Exit code: 0 all is as it is to be, 1 a case failed, 2 the test could not be run.`,
		Example: `  twillctl connectivity --lab demo
  twillctl connectivity test --lab demo --nodes node1,node2 --outside 192.0.2.80:443
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
	flags.StringVar(&f.lab.Name, "lab", "", "the lab to test")
	flags.StringVar(&f.lab.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	flags.StringSliceVar(&f.ends.Nodes, "nodes", nil, "test these nodes alone (default all)")
	flags.StringArrayVar(&f.outside, "outside", nil, "`ADDRESS[:PORT]` outside of the cluster, by an echo request or by TCP (repeatable; default the lab's underlay)")
	flags.BoolVar(&f.ends.Keep, "keep", false, "leave the test's pods, Services and policies in place")
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
	case f.lab.Name == "":
		return errors.New("--lab: which lab is to be tested? `twillctl lab status --all` lists them, `twillctl lab up` makes one")
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
		f.ends.Outside = append(f.ends.Outside, to)
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
	l, err := lab.Open(f.lab)
	if err != nil {
		return notRun(err)
	}
	s, err := openLab(l)
	if err != nil {
		return notRun(err)
	}
	defer func() { err = errors.Join(err, notRun(s.Close())) }()
	if !f.noTrace {
		f.run.Explain = func(ctx context.Context, c connectivity.Case) string { return traced(ctx, l, c) }
	}
	progress := newProgress(to.err, time.Now())
	f.run.Progress = progress.bar
	cluster, topology, err := labends.Open(ctx, l, s, f.ends)
	if err != nil {
		return notRun(err)
	}
	report, err := connectivity.Run(ctx, cluster, topology, f.run)
	progress.finish()
	if err = errors.Join(err, cluster.Close(context.WithoutCancel(ctx))); err != nil {
		return notRun(err)
	}
	if err := f.print(report, to); err != nil {
		return notRun(err)
	}
	if f.ends.Keep {
		fmt.Fprintf(to.err, "the test's pods, Services and policies stay in namespace %s until the next run without --keep\n", connectivity.Namespace)
	}
	if !report.OK() {
		return errFailed
	}
	return nil
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
func traced(ctx context.Context, l *lab.Lab, c connectivity.Case) string {
	if c.Expect != probe.Reached || c.Kind == connectivity.NodeToPod {
		return ""
	}
	t := tracer{patience: time.Second, nodes: namespacesOf(l)}
	results, err := t.run(ctx, viewsOf(l), connectivity.Namespace+"/"+c.From, c.Target())
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
