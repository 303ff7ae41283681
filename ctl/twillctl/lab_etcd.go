package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab/etcd"
)

// newLabEtcd is the lab's own etcd: the lab starts it as a process of the underlay's namespace.
func newLabEtcd() *cobra.Command {
	config := etcd.Config{}
	listen, readyFD := "", 0
	cmd := &cobra.Command{
		Use:    "etcd",
		Short:  "run the lab's etcd in the foreground",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if config.Listen, err = netip.ParseAddrPort(listen); err != nil {
				return fmt.Errorf("--listen: %w", err)
			}
			return etcd.Serve(cmd.Context(), config, readyFile(readyFD))
		},
	}
	cmd.Flags().StringVar(&config.DataDir, "data-dir", "", "directory of the data")
	cmd.Flags().StringVar(&listen, "listen", "", "address and port for clients")
	cmd.Flags().StringVar(&config.LogFile, "log-file", "", "file of the log")
	addReadyFD(cmd, &readyFD)
	return cmd
}

// addReadyFD adds the flag by which the lab learns that a service of its own is ready.
func addReadyFD(cmd *cobra.Command, fd *int) {
	cmd.Flags().IntVar(fd, "ready-fd", 1, "file descriptor that gets a line and is closed when it is ready")
}

// readyFile returns what to call when the service is ready.
func readyFile(fd int) func() {
	ready := os.NewFile(uintptr(fd), "ready")
	return func() {
		_, _ = ready.WriteString("\n") // nobody waits any more: serve all the same
		_ = ready.Close()
	}
}
