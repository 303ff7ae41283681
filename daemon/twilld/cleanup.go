//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/twill-cni/twill/daemon/config"
)

// cleanup removes what Twill made on this host and says what that was. It goes on past failures and returns them all.
func cleanup(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) error {
	host, err := newHost(cfg, log)
	if err != nil {
		return err
	}
	k, err := openKernels(log)
	if err != nil {
		return err
	}
	var errs []error
	removed, err := host.Remove() // first: the runtime must not attach pods to what is being removed
	errs = append(errs, err)
	for _, name := range removed {
		fmt.Fprintln(out, "removed file", name)
	}
	if err := k.links.Cleanup(ctx); err != nil {
		errs = append(errs, fmt.Errorf("remove links and routes: %w", err))
	}
	if err := k.tables.DeleteTables(ctx); err != nil {
		errs = append(errs, fmt.Errorf("remove nftables: %w", err))
	}
	return errors.Join(append(errs, k.close())...)
}
