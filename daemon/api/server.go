package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// socketName is that of the socket in the run directory.
const socketName = "twilld.sock"

// SocketPath returns the path of the socket of the daemon with this run directory.
func SocketPath(runDir string) string { return filepath.Join(runDir, socketName) }

// BGP is what is asked about routing; *bgp.Backend is the real one.
type BGP interface {
	Routes() []bgp.LearnedRoute
	Sessions() []bgp.SessionState
	LeftOut() []bgp.LeftOut
	Paths(ctx context.Context, query bgp.PathQuery, visit func(bgp.Path)) error
}

// Services is what is asked about the service proxy; *proxy.Inspector is the real one.
type Services interface {
	// Report tells of one Service, or of all when name is the zero value.
	Report(ctx context.Context, name store.ObjectName) (*dnat.Report, error)
}

// About returns what to answer of, or nil as long as there is nothing.
type About struct {
	BGP      func() BGP
	Services func() Services
	Policies func() Policies
	Status   func(context.Context) NodeStatus

	Addresses Addresses
	Nodes     Nodes // nil: nothing is answered of them
	Dump      *Dump // the same
}

// Server answers. Make it with Listen.
type Server struct {
	path     string
	listener net.Listener
	server   *http.Server
}

// Listen opens the socket of the run directory, in the place of one that an earlier daemon left; the caller makes sure that no other daemon
// runs. Nothing is answered before Run.
func Listen(runDir string, about About, log *slog.Logger) (*Server, error) {
	path := SocketPath(runDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier daemon: %w", err)
	}
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen for twillctl on %s: %w", path, err)
	}
	return &Server{path: path, listener: l, server: &http.Server{
		Handler:        Handler(runDir, about),
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// Handler answers all questions. It asks for no proof of who asks.
func Handler(runDir string, about About) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /bgp/sessions", about.bgp(func(_ context.Context, b BGP, _ url.Values) (any, error) { return b.Sessions(), nil }))
	mux.Handle("GET /bgp/left-out", about.bgp(func(_ context.Context, b BGP, _ url.Values) (any, error) { return b.LeftOut(), nil }))
	mux.Handle("GET /bgp/routes", about.bgp(func(_ context.Context, b BGP, _ url.Values) (any, error) { return b.Routes(), nil }))
	mux.Handle("GET /bgp/paths", about.bgp(paths))
	mux.Handle("GET /services", about.services(func(ctx context.Context, s Services, form url.Values) (any, error) { return reportOf(ctx, s, form) }))
	mux.Handle("GET /services/differences", about.services(differences))
	about.handlePolicies(mux)
	about.handleStatus(mux)
	handleTrace(mux, runDir)
	about.handleAddresses(mux)
	about.handleNodes(mux)
	about.handleDump(mux)
	return mux
}

// listen opens a socket for root alone.
func listen(path string) (l *net.UnixListener, err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short(dir), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // Run does, by the socket's own name
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// short is a name of the socket in dir. A socket's name has room for 107 bytes (unix(7)), a run directory's may be longer.
func short(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName) }

// Run answers until ctx ends. It removes the socket.
func (s *Server) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.server.Close() })()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer twillctl on %s: %w", s.path, err)
	}
	if err := os.Remove(s.path); err != nil {
		return fmt.Errorf("remove the socket: %w", err)
	}
	return nil
}

// Close releases a Server that was not run.
func (s *Server) Close() error { return s.listener.Close() }

func (a About) bgp(ask func(context.Context, BGP, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b := a.BGP()
		if b == nil {
			http.Error(w, "this node's backend is not bgp, or twilld is starting", http.StatusNotFound)
			return
		}
		value, err := ask(r.Context(), b, r.URL.Query())
		Answer(w, value, err)
	}
}

func (a About) services(ask func(context.Context, Services, url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := a.Services()
		if s == nil {
			http.Error(w, "the service proxy of this node is off: start twilld with --proxy=nftables", http.StatusNotFound)
			return
		}
		value, err := ask(r.Context(), s, r.URL.Query())
		Answer(w, value, err)
	}
}

// Answer writes a value as JSON, or why there is none.
func Answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}

// reportOf asks for the Service that the form names, or for all.
func reportOf(ctx context.Context, s Services, form url.Values) (*dnat.Report, error) {
	var name store.ObjectName
	if v := form.Get("name"); v != "" {
		var ok bool
		if name.Namespace, name.Name, ok = strings.Cut(v, "/"); !ok || name.Namespace == "" || name.Name == "" {
			return nil, fmt.Errorf("name %q: want NAMESPACE/NAME", v)
		}
	}
	return s.Report(ctx, name)
}

func differences(ctx context.Context, s Services, form url.Values) (any, error) {
	report, err := reportOf(ctx, s, form)
	if err != nil {
		return nil, err
	}
	return report.Differences, nil
}

func paths(ctx context.Context, b BGP, form url.Values) (any, error) {
	query, err := parseQuery(form)
	if err != nil {
		return nil, err
	}
	all := []bgp.Path{}
	err = b.Paths(ctx, query, func(p bgp.Path) { all = append(all, p) })
	return all, err
}

func parseQuery(form url.Values) (q bgp.PathQuery, err error) {
	if v := form.Get("prefix"); v != "" {
		if q.Prefix, err = netip.ParsePrefix(v); err != nil {
			return q, err
		}
	}
	for name, to := range map[string]*netip.Addr{"peer": &q.Peer, "to": &q.To} {
		if v := form.Get(name); v != "" {
			if *to, err = netip.ParseAddr(v); err != nil {
				return q, err
			}
		}
	}
	return q, nil
}

func formOf(q bgp.PathQuery) url.Values {
	form := url.Values{}
	if q.Prefix.IsValid() {
		form.Set("prefix", q.Prefix.String())
	}
	if q.Peer.IsValid() {
		form.Set("peer", q.Peer.String())
	}
	if q.To.IsValid() {
		form.Set("to", q.To.String())
	}
	return form
}
