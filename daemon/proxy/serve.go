package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/twill-cni/twill/daemon/syncloop"
)

// listenAgain is the time between attempts to listen at an address that is taken.
const listenAgain = 5 * time.Second

// endpoint is an address at which the proxy answers over HTTP.
type endpoint struct {
	address string
	handler http.Handler
	// retry: an address that is taken is tried again instead of being an error, which is how kube-proxy does it: the old proxy may still be
	// there when the new one starts.
	retry bool
	log   *slog.Logger
}

// Run answers until ctx ends.
func (e endpoint) Run(ctx context.Context) error {
	listener, err := e.listen(ctx)
	if ctx.Err() != nil {
		if listener != nil {
			_ = listener.Close() // nobody was told of it
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen for the service proxy's health and metrics: %w", err)
	}
	server := &http.Server{Handler: e.handler, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the service proxy's health and metrics on %s: %w", e.address, err)
	}
	return nil
}

func (e endpoint) listen(ctx context.Context) (net.Listener, error) {
	told := ""
	for {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", e.address)
		if err == nil || !e.retry {
			return listener, err
		}
		if text := err.Error(); text != told {
			told = text
			e.log.Warn("address of the service proxy cannot be had: trying until it can", "address", e.address, "err", err)
		}
		if !syncloop.Sleep(ctx, listenAgain) {
			return nil, ctx.Err()
		}
	}
}
