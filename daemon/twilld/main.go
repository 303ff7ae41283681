//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/lastlog"
)

// version is set by the linker.
var version = "dev"

// gcPercent trades a little processor time for memory: with 20,000 peers most of the heap lives for as long as the peers
// do, and the default of 100 would let as much garbage gather before each collection. GOGC in the environment overrules it.
const gcPercent = 50

// usageError is a configuration that cannot work.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "twilld:", err)
		if usage := (usageError{}); errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	inputs, err := config.FromProcess(args)
	if err != nil {
		return err
	}
	cfg, err := config.Load(inputs)
	switch {
	case errors.Is(err, config.ErrHelp):
		_, err := fmt.Fprint(out, config.Usage())
		return err
	case err != nil:
		return usageError{err}
	case cfg.Version:
		_, err := fmt.Fprintf(out, "twilld %s %s\n", version, runtime.Version())
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if cfg.Install {
		return install(cfg, out)
	}
	last := lastlog.New(logKept)
	log := newLogger(cfg, io.MultiWriter(os.Stderr, last))
	if cfg.Cleanup {
		return cleanup(ctx, cfg, log, out)
	}
	return serve(ctx, cfg, log, last)
}

func newLogger(cfg *config.Config, to io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, opts))
	}
	return slog.New(slog.NewTextHandler(to, opts))
}
