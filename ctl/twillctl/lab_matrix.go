package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/matrix"
	"github.com/twill-cni/twill/ctl/ping"
)

// standard is how the demo pings.
var standard = ping.Options{Count: 3, Timeout: time.Second}

func newLabMatrix(to streams) *cobra.Command {
	options := lab.Options{}
	pings := standard
	output := ""
	cmd := &cobra.Command{
		Use:   "matrix",
		Short: "show who reaches whom",
		Long: `matrix sends echo requests from every pod to every other pod, from every node to
every pod, and from every pod to its own node's gateway. It exits with 1 when any of
them gets no reply.`,
		Example: `  twillctl lab matrix
  twillctl lab matrix --count 100 --size 1400
  twillctl lab matrix -o json | jq '.probes[] | select(.error)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			report, err := matrix.Run(cmd.Context(), l, pings)
			if err != nil {
				return err
			}
			return verdict(report, printAs(to.out, output, report, func() error { return report.Write(to.out, isTerminal(to.out)) }))
		},
	}
	addName(cmd, &options)
	addFormat(cmd, &output)
	cmd.Flags().IntVar(&pings.Count, "count", standard.Count, "echo requests on each path")
	cmd.Flags().IntVar(&pings.Size, "size", standard.Size, "bytes of payload in each request")
	cmd.Flags().DurationVar(&pings.Timeout, "wait", standard.Timeout, "how long to wait for each reply")
	return cmd
}

// showMatrix is the demo's table. The error is errFailed when a path does not work.
func showMatrix(ctx context.Context, l *lab.Lab, to streams) error {
	report, err := matrix.Run(ctx, l, standard)
	if err != nil {
		return err
	}
	return verdict(report, report.Write(to.out, isTerminal(to.out)))
}

// verdict makes a path that does not work a failure of the command.
func verdict(report *matrix.Report, err error) error {
	if err == nil && report.Failed > 0 {
		return errFailed
	}
	return err
}

// isTerminal reports whether colours and rewritten lines make sense.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
}
