//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/twill-cni/twill/daemon/config"
)

// install puts the plugins where the container runtime looks for them, as an init container does before the daemon starts. It needs neither
// kernel nor datastore. A plugin that runs at that moment goes on as it is; one that is up to date already is left alone.
func install(cfg *config.Config, out io.Writer) error {
	host, err := newHost(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := host.CheckPlugins(); err != nil {
		return usageError{err}
	}
	written, err := host.Install()
	for _, file := range written {
		if _, err := fmt.Fprintln(out, "installed", file); err != nil {
			return err
		}
	}
	if err == nil && len(written) == 0 {
		_, err = fmt.Fprintln(out, "the plugins in", cfg.CNIBinDir, "are up to date")
	}
	return err
}
