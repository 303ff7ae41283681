package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/balance"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/manifest"
)

// usual is how the demo tries a Service.
var usual = balance.Options{Connections: 60, Timeout: 20 * time.Second}

func newLabBalance(to streams) *cobra.Command {
	options := lab.Options{}
	tries := usual
	output := ""
	cmd := &cobra.Command{
		Use:   "balance",
		Short: "show how a Service spreads connections over pods",
		Long: `balance makes the Service default/web over the cluster's pods, starts a server in each
of them, connects to the Service from a pod of each node, from each node, and from
outside to each node's node port, and shows who answered. It exits with 1 when a pod
does not answer somebody.`,
		Example: `  twillctl lab balance
  twillctl lab balance --connections 1000
  twillctl get services --lab demo`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			return runBalance(cmd.Context(), l, tries, func(r *balance.Report) error {
				return printAs(to.out, output, r, func() error { return r.Write(to.out) })
			})
		},
	}
	addName(cmd, &options)
	addFormat(cmd, &output)
	cmd.Flags().IntVar(&tries.Connections, "connections", usual.Connections, "connections of each client")
	cmd.Flags().DurationVar(&tries.Timeout, "wait", usual.Timeout, "how long to wait until every pod answers every client")
	return cmd
}

// showBalance is the demo's Service.
func showBalance(ctx context.Context, l *lab.Lab, to streams) error {
	fmt.Fprintln(to.out)
	return runBalance(ctx, l, usual, func(r *balance.Report) error { return r.Write(to.out) })
}

func runBalance(ctx context.Context, l *lab.Lab, options balance.Options, show func(*balance.Report) error) error {
	s, err := openLab(l)
	if err != nil {
		return err
	}
	apply := func(ctx context.Context, d manifest.Document) (*corev1.Service, error) {
		_, svc, err := s.Apply(ctx, d)
		return svc, err
	}
	report, err := balance.Run(ctx, l, apply, options)
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := show(report); err != nil {
		return err
	}
	if !report.OK() {
		return errFailed
	}
	return nil
}

// openLab opens the etcd of a lab.
func openLab(l *lab.Lab) (*etcd.Store, error) {
	f := datastoreFlags{}
	f.useLab(l)
	return f.connect()
}
