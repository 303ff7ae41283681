package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/daemon/api"
)

// newRelay is what twillctl runs in the pods of a cluster's daemons, see package kubenodes.
func newRelay() *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:    "relay",
		Short:  "connect standard input and output to the socket of this node's twilld",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := api.Dial(cmd.Context(), runDir)
			if err != nil {
				return fmt.Errorf("twilld does not answer on this node: %w", err)
			}
			defer conn.Close() // what it had to say was said
			go func() {
				_, _ = io.Copy(conn, os.Stdin) // at its end, or an error, the daemon may still be answering
			}()
			_, err = io.Copy(os.Stdout, conn)
			return err
		},
	}
	cmd.Flags().StringVar(&runDir, "run-dir", "/run/twill", "the daemon's --run-dir")
	return cmd
}
