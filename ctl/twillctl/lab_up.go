package main

import (
	"context"
	"fmt"
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
  nsenter --net=/run/netns/demo-node1 bash`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	fmt.Fprintf(to.err, "lab %s is up: %d nodes, %d pods, in %s\n", l.Name(), len(l.Nodes()), len(l.Pods()), seconds(began))
	return l, nil
}
