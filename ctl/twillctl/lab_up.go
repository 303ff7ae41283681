package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

func newLabUp(to streams) *cobra.Command {
	flags := &labFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "make a cluster that stays until \"lab down\"",
		Long: `up makes a cluster and leaves it running. When it fails, or is interrupted, it
removes everything that it made.`,
		Example: `  twillctl lab up
  twillctl lab up --name big --nodes 50 --pods 0 --network 10.0.0.0/8
  twillctl lab up --name six --ipv6 --backend-config '{"VNI":7}'
  twillctl lab up --name racks --nodes 4 --subnets 2 --backend bgp --tor
  nsenter --net=/run/netns/demo-node1 bash`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.Contains(flags.Backend, ",") {
				return fmt.Errorf("backend %q: a cluster has one", flags.Backend)
			}
			l, err := bringUp(cmd.Context(), flags, to)
			if err != nil || len(l.Pods()) == 0 {
				return err
			}
			return printPods(to.out, l)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&flags.KeepOnFailure, "keep", false, "when it fails, leave what it made, to be looked at")
	return cmd
}

func bringUp(ctx context.Context, flags *labFlags, to streams) (*lab.Lab, error) {
	options, err := flags.options()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	progress := newProgress(to.err, began)
	options.Progress = progress.show
	l, err := lab.New(options)
	if err != nil {
		return nil, err
	}
	err = l.Up(ctx)
	progress.finish()
	if err != nil {
		return nil, err
	}
	nodes := fmt.Sprintf("%d nodes", len(l.Nodes()))
	if subnets := len(l.Subnets()); subnets > 1 {
		nodes += fmt.Sprintf(" in %d subnets", subnets)
	}
	fmt.Fprintf(to.err, "lab %s is up: %s, %d pods, backend %s, in %s\n", l.Name(), nodes, len(l.Pods()), l.Routing(), seconds(began))
	return l, nil
}
