package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/ipam"
	"github.com/twill-cni/twill/ctl/status"
	"github.com/twill-cni/twill/daemon/api"
)

func newIPAM(to streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ipam",
		Short: "who has which pod address, and what is wrong with that",
		Long: `ipam asks the twilld of this node, or those of all nodes of a cluster or a lab, about
the addresses of pods. It needs root, since the daemon's socket is root's; with
--all-nodes, a kubeconfig that may list and exec into the daemon's pods instead.`,
		Example: `  twillctl ipam show --all-nodes
  twillctl ipam check --fix`,
	}
	cmd.AddCommand(newIPAMShow(to), newIPAMCheck(to))
	return cmd
}

func newIPAMShow(to streams) *cobra.Command {
	var from viewpoints
	var output string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "list ranges and who has their addresses",
		Example: `  twillctl ipam show
  twillctl ipam show -o json | jq '.[].leases[] | select(.netnsGone)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			reports, err := askAddresses(cmd.Context(), views)
			return errors.Join(printAs(to.out, output, reports, func() error { return printAddresses(to.out, reports) }), err)
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output)
	return cmd
}

func newIPAMCheck(to streams) *cobra.Command {
	var from viewpoints
	var output string
	var fix bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "find addresses that are leaked, held twice, or in no range",
		Long: `check finds addresses whose pod is gone, that two pods have, of which there is no lease,
and that are in none of their node's ranges; each with what to do about it.

twilld releases what dead pods hold by itself. --fix has it look for them now, and waits
until they are released.

The exit code is 1 when something is broken, and when --fix did not help.`,
		Example: `  twillctl ipam check
  twillctl ipam check --all-nodes --fix`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			reports, err := askAddresses(cmd.Context(), views)
			if err == nil && fix {
				reports, err = releaseDead(cmd.Context(), views, reports, to.err)
			}
			findings := ipam.Check(reports)
			shown := printAs(to.out, output, findings, func() error { return printFindings(to.out, findings) })
			if broken(findings) || fix && slices.ContainsFunc(reports, leaks) {
				err = errors.Join(err, errFailed)
			}
			return errors.Join(shown, err)
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output)
	cmd.Flags().BoolVar(&fix, "fix", false, "have the daemons release what dead pods hold, and wait for it")
	return cmd
}

// askAddresses asks all nodes. The answers of those that answered are there in any case.
func askAddresses(ctx context.Context, views []viewpoint) ([]api.AddressReport, error) {
	answers, errs := askAll(ctx, views, func(ctx context.Context, v viewpoint) (api.AddressReport, error) { return v.client.Addresses(ctx) })
	reports := []api.AddressReport{}
	for i, r := range answers {
		if errs[i] == nil {
			reports = append(reports, r)
		} else {
			errs[i] = fmt.Errorf("%s: %w", views[i], errs[i])
		}
	}
	return reports, errors.Join(errs...)
}

func leaks(r api.AddressReport) bool { return slices.ContainsFunc(r.Leases, ipam.Leaked) }

// releaseDead has the daemons look for dead pods, and waits until there are none, for a little longer than they wait themselves. It returns what they say then.
func releaseDead(ctx context.Context, views []viewpoint, reports []api.AddressReport, progress io.Writer) ([]api.AddressReport, error) {
	delay := 0.0
	for _, r := range reports {
		if leaks(r) {
			delay = max(delay, r.ReleaseDelay)
		}
	}
	if !slices.ContainsFunc(reports, leaks) {
		return reports, nil
	}
	fmt.Fprintf(progress, "dead pods are released when they are still dead in %.0f s\n", delay)
	for end := time.Now().Add(time.Duration(delay*float64(time.Second)) + patience); ; {
		for _, v := range views {
			if err := v.client.ReleaseDead(ctx); err != nil {
				return reports, fmt.Errorf("%s: %w", v, err)
			}
		}
		select {
		case <-ctx.Done():
			return reports, ctx.Err()
		case <-time.After(time.Second):
		}
		now, err := askAddresses(ctx, views)
		if err != nil || !slices.ContainsFunc(now, leaks) || time.Now().After(end) {
			return now, err
		}
	}
}

func printAddresses(w io.Writer, reports []api.AddressReport) error {
	return printTable(w, func(row func(cells ...any)) {
		row("NODE", "RANGE", "ADDRESS", "POD", "CONTAINER", "AGE", "STATE")
		for _, n := range reports {
			for _, r := range n.Ranges {
				row(n.Node, r.Range, fmt.Sprintf("%d of %d taken", r.Used, r.Size), "", "", "", "")
			}
			for _, l := range slices.Concat(n.Leases, n.Unleased) {
				row(n.Node, "", addressList(l.Addresses), dash(l.Pod), l.Container[:min(12, len(l.Container))]+" "+l.Interface, age(l.Created, time.Now()), addressState(l))
			}
		}
	})
}

func addressList(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

func addressState(l api.AddressLease) string {
	switch {
	case l.NetnsGone:
		return "DEAD"
	case !l.Attached:
		return "not attached"
	case l.Outside:
		return "OUTSIDE"
	case l.Created.IsZero():
		return "NO LEASE"
	}
	return "attached"
}

func broken(findings []status.Finding) bool {
	return slices.ContainsFunc(findings, func(f status.Finding) bool { return f.Severity == status.Broken })
}
