package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/bgp/gobgp"
	"github.com/twill-cni/twill/ctl/lab/router"
	"github.com/twill-cni/twill/kernel/linux"
)

// newLabRouter is the lab's top-of-rack router: the lab starts it as a process of the underlay's namespace.
func newLabRouter(to streams) *cobra.Command {
	file, readyFD := "", 0
	cmd := &cobra.Command{
		Use:    "router",
		Short:  "run the lab's top-of-rack router in the foreground",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("--config: %w", err)
			}
			var config router.Config
			if err := json.Unmarshal(text, &config); err != nil {
				return fmt.Errorf("--config: read %s: %w", file, err)
			}
			return serveRouter(cmd.Context(), config, to.err, readyFile(readyFD))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file that says what the router is, as JSON")
	addReadyFD(cmd, &readyFD)
	return cmd
}

func serveRouter(ctx context.Context, config router.Config, to io.Writer, ready func()) error {
	log := slog.New(slog.NewTextHandler(to, nil))
	handle, err := linux.Open(log)
	if err != nil {
		return err
	}
	defer handle.Close()
	monitor, err := handle.NewMonitor(nil)
	if err != nil {
		return err
	}
	return router.Serve(ctx, config, router.Parts{Speaker: gobgp.New(log), Kernel: handle, Monitor: monitor, Log: log}, ready)
}
