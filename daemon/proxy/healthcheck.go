package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// checks answers on the health check node ports: a load balancer asks there which nodes have endpoints of a Service with
// externalTrafficPolicy Local. Answers have the form of kube-proxy's (pkg/proxy/healthcheck/service_health.go).
type checks struct {
	log     *slog.Logger
	healthy func() bool // the proxy as a whole
	serving sync.WaitGroup

	mu      sync.Mutex
	wanted  map[store.ObjectName]service.HealthCheck
	servers map[store.ObjectName]*checkServer
	closed  bool
}

// checkServer is one Service's port.
type checkServer struct {
	port      uint16
	server    *http.Server // nil: the port could not be had
	listener  net.Listener
	endpoints int // guarded by checks.mu
	failed    string
}

func newChecks(log *slog.Logger, healthy func() bool) *checks {
	return &checks{log: log, healthy: healthy, wanted: map[store.ObjectName]service.HealthCheck{}, servers: map[store.ObjectName]*checkServer{}}
}

// Change says what is different; nil ends a Service's check. A port that is taken is logged once, and tried again by Run.
func (c *checks) Change(changes map[store.ObjectName]*service.HealthCheck) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, want := range changes {
		if want == nil {
			delete(c.wanted, name)
		} else {
			c.wanted[name] = *want
		}
	}
	// Ports are given up before others take them.
	for name := range changes {
		if s := c.servers[name]; s != nil && c.wanted[name].Port != s.port {
			c.stop(name)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(changes), store.ObjectName.Compare) {
		c.ensure(name)
	}
}

// Run tries again to open the ports that were taken, until ctx ends. Then it ends all checks, and waits for their goroutines.
func (c *checks) Run(ctx context.Context) error {
	tick := time.NewTicker(listenAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			c.close()
			return nil
		case <-tick.C:
			c.retry()
		}
	}
}

func (c *checks) retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.wanted {
		c.ensure(name)
	}
}

func (c *checks) close() {
	c.mu.Lock()
	c.closed = true
	for name := range c.servers {
		c.stop(name)
	}
	c.mu.Unlock()
	c.serving.Wait()
}

func (c *checks) stop(name store.ObjectName) {
	if s := c.servers[name]; s.server != nil {
		// The server closes what it serves, which may not have begun yet. The port has to be free now: another Service may be about to get it.
		_ = s.listener.Close()
		_ = s.server.Close() // its listener is all that it can fail to close, and nobody answers there from now on
	}
	delete(c.servers, name)
}

// ensure makes the Service's port answer what it should.
func (c *checks) ensure(name store.ObjectName) {
	want, ok := c.wanted[name]
	if !ok || c.closed {
		return
	}
	s := c.servers[name]
	if s == nil {
		s = &checkServer{port: want.Port}
		c.servers[name] = s
	}
	s.endpoints = want.LocalEndpoints
	if s.server != nil {
		return
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(want.Port))))
	if err != nil {
		if text := err.Error(); text != s.failed {
			s.failed = text
			c.log.Error("health check node port does not answer: load balancers will take the node for one without endpoints",
				"service", name, "port", want.Port, "err", err)
		}
		return
	}
	s.failed, s.listener = "", listener
	s.server = &http.Server{
		Handler:           c.handler(name),
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	server := s.server
	c.serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			c.log.Error("health check node port ended", "service", name, "port", want.Port, "err", err)
		}
	})
}

func (c *checks) handler(name store.ObjectName) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		s := c.servers[name]
		endpoints := 0
		if s != nil {
			endpoints = s.endpoints
		}
		c.mu.Unlock()
		healthy := c.healthy()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(endpoints))
		if endpoints == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		type serviceName struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		}
		answer, err := json.Marshal(struct {
			Service        serviceName `json:"service"`
			LocalEndpoints int         `json:"localEndpoints"`
			ProxyHealthy   bool        `json:"serviceProxyHealthy"`
		}{serviceName(name), endpoints, healthy})
		if err == nil {
			_, _ = w.Write(answer) // the client may be gone
		}
	}
}
