package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/node"
)

// Server answers on up to two addresses. Make it with Listen.
type Server struct {
	servers   []*http.Server
	listeners []net.Listener
}

// Addresses are where to answer; an empty one is left out, and both may be the same.
type Addresses struct{ Health, Metrics string }

// Listen opens the addresses, so that one which is taken is found out at the start. Nothing is answered before Run. It must be
// called once for m. Ready is the node that is ready itself and of which all of also are.
func Listen(a Addresses, status *node.Status, m *Metrics, log *slog.Logger, also ...func() error) (*Server, error) {
	m.follow(status)
	muxes := map[string]*http.ServeMux{}
	mux := func(address string) *http.ServeMux {
		if muxes[address] == nil {
			muxes[address] = http.NewServeMux()
		}
		return muxes[address]
	}
	if a.Health != "" {
		mux(a.Health).Handle("GET /healthz", probe(func() error { return status.Live(time.Now()) }))
		mux(a.Health).Handle("GET /readyz", probe(func() error {
			errs := []error{status.Ready()}
			for _, ready := range also {
				errs = append(errs, ready())
			}
			return errors.Join(errs...)
		}))
	}
	if a.Metrics != "" {
		mux(a.Metrics).Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	}
	s := &Server{}
	for address, handler := range muxes {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for probes and metrics: %w", err), s.close())
		}
		s.listeners = append(s.listeners, l)
		s.servers = append(s.servers, &http.Server{
			Handler:        handler,
			ReadTimeout:    5 * time.Second,
			WriteTimeout:   30 * time.Second,
			IdleTimeout:    2 * time.Minute,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		})
	}
	return s, nil
}

func (s *Server) close() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, server := range s.servers {
		g.Go(func() error {
			if err := server.Serve(s.listeners[i]); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve probes and metrics on %s: %w", s.listeners[i].Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return server.Close()
		})
	}
	return g.Wait()
}

// probe answers 200 and ok, or 503 and what is amiss, a line each.
func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err) // the client may be gone
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}
