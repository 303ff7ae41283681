package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

	mu      sync.Mutex
	wanted  map[store.ObjectName]service.HealthCheck
	servers map[store.ObjectName]*checkServer
}

// checkServer is one Service's port.
type checkServer struct {
	port      uint16
	server    *http.Server
	endpoints int // guarded by checks.mu
	failed    string
}

func newChecks(log *slog.Logger, healthy func() bool) *checks {
	return &checks{log: log, healthy: healthy, wanted: map[store.ObjectName]service.HealthCheck{}, servers: map[store.ObjectName]*checkServer{}}
}

// Change says what is different; nil ends a Service's check. A port that is taken is logged once, and tried again by Retry.
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

// Retry opens the ports that could not be opened before.
func (c *checks) Retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.wanted {
		c.ensure(name)
	}
}

// Close ends all checks.
func (c *checks) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.servers {
		c.stop(name)
	}
}

func (c *checks) stop(name store.ObjectName) {
	if s := c.servers[name].server; s != nil {
		_ = s.Close() // its listener is all that it can fail to close, and nobody answers there from now on
	}
	delete(c.servers, name)
}

// ensure makes the Service's port answer what it should.
func (c *checks) ensure(name store.ObjectName) {
	want, ok := c.wanted[name]
	if !ok {
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
	s.failed = ""
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
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("health check node port ended", "service", name, "port", want.Port, "err", err)
		}
	}()
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

// serveHTTP answers on address until ctx ends. With retry, an address that is taken is tried again instead of being an error, which is how
// kube-proxy does it: the old proxy may still be there when the new one starts.
func serveHTTP(ctx context.Context, address string, handler http.Handler, retry bool, log *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	for err != nil && retry {
		log.Warn("address of the service proxy is taken: trying again", "address", address, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
		listener, err = net.Listen("tcp", address)
	}
	if err != nil {
		return fmt.Errorf("listen for the service proxy's health and metrics: %w", err)
	}
	server := &http.Server{Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the service proxy's health and metrics on %s: %w", address, err)
	}
	return nil
}

const listenAgain = 5 * time.Second
