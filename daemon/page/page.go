//go:build linux

package page

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/gauge"
)

// Options are what a page tells of.
type Options struct {
	Address string // HOST:PORT
	Node    string
	RunDir  string
	About   api.About
	Peers   func() []gauge.Peer
	Log     *slog.Logger
}

// Server serves the page. Make it with Listen.
type Server struct {
	listener net.Listener
	server   *http.Server
}

// desk answers questions for data.
type desk struct {
	Options

	// Who has the turn of the costly questions looks at these.
	services []found // the last list, sorted
	listed   time.Time
}

// Listen opens the address. Nothing is answered before Run.
func Listen(o Options) (*Server, error) {
	handler, err := handler(o)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for the web page: %w", err)
	}
	if at, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !at.Addr().Unmap().IsLoopback() {
		o.Log.Warn("the web page is open to everybody who reaches this address: it asks for no password", "address", l.Addr())
	} else {
		o.Log.Info("web page", "url", "http://"+l.Addr().String())
	}
	return &Server{listener: netutil.LimitListener(l, maxConnections), server: &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   2 * requestTimeout,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}}, nil
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = s.server.Close() })()
	if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the web page on %s: %w", s.listener.Addr(), err)
	}
	return nil
}

func handler(o Options) (http.Handler, error) {
	d := &desk{Options: o}
	mux := http.NewServeMux()
	if err := handleAssets(mux); err != nil {
		return nil, fmt.Errorf("read the web page's files: %w", err)
	}
	questions := http.StripPrefix("/data", api.Handler(o.RunDir, o.About))
	for _, path := range []string{"/data/status", "/data/trace/pods"} {
		mux.Handle("GET "+path, questions)
	}
	mux.HandleFunc("GET /data/services", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("name") == "" { // all of them are no small question
			http.Error(w, "name: want NAMESPACE/NAME", http.StatusBadRequest)
			return
		}
		questions.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /data/cluster", func(w http.ResponseWriter, r *http.Request) { api.Answer(w, d.cluster(r.Context()), nil) })
	mux.HandleFunc("GET /data/drops", d.drops)
	costly := queue()
	mux.HandleFunc("GET /data/search", costly(func(w http.ResponseWriter, r *http.Request) {
		all, err := d.search(r.Context(), r.URL.Query().Get("q"))
		api.Answer(w, all, err)
	}))
	mux.HandleFunc("GET /data/trace", costly(func(w http.ResponseWriter, r *http.Request) {
		result, err := d.trace(r.Context(), r.URL.Query())
		api.Answer(w, result, err)
	}))
	return guard(mux), nil
}

// cluster is what the graph shows.
type cluster struct {
	Time      time.Time          `json:"time"`
	Node      string             `json:"node"`
	Backend   string             `json:"backend"`
	Ready     bool               `json:"ready"`
	Addresses []netip.Addr       `json:"addresses"` // the node's own in its pod subnets
	Peers     []gauge.Peer       `json:"peers"`
	Sessions  []bgp.SessionState `json:"sessions,omitempty"` // absent: no BGP
}

func (d *desk) cluster(ctx context.Context) cluster {
	status := d.About.Status(ctx)
	c := cluster{Time: time.Now(), Node: d.Node, Backend: status.Backend, Ready: len(status.NotReady) == 0, Addresses: []netip.Addr{}, Peers: d.Peers()}
	for _, s := range status.Subnets {
		c.Addresses = append(c.Addresses, s.Addr().Next())
	}
	if b := d.About.BGP(); b != nil {
		c.Sessions = b.Sessions()
	}
	return c
}

// maxDrops is how many of the last drops are shown.
const maxDrops = 200

// drops answers with the last drops, the newest first, that came after the time in the form.
func (d *desk) drops(w http.ResponseWriter, r *http.Request) {
	p := d.About.Policies()
	if p == nil {
		http.Error(w, "policies are not enforced on this node (--policy=off)", http.StatusNotFound)
		return
	}
	var after time.Time
	if v := r.URL.Query().Get("after"); v != "" {
		var err error
		if after, err = time.Parse(time.RFC3339Nano, v); err != nil {
			http.Error(w, "after: want a time such as 2006-01-02T15:04:05.999Z", http.StatusBadRequest)
			return
		}
	}
	all, out := p.Drops(), []api.Drop{}
	for i := len(all) - 1; i >= 0 && len(out) < maxDrops && all[i].Time.After(after); i-- {
		out = append(out, all[i])
	}
	api.Answer(w, out, nil)
}
