package api

import (
	"context"
	"net/http"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/redact"
	"github.com/twill-cni/twill/kernel/view"
)

// Dump is what a daemon can tell of itself to those who look for a fault. No secret is in it. Of what is nil nothing is answered.
type Dump struct {
	Settings []config.Setting
	Log      func() string          // the last lines
	Metrics  func() (string, error) // as Prometheus reads them
	Files    func() []redact.File   // that the daemon writes or reads on its host
	Kernel   func(context.Context) *view.View
}

func (a About) handleDump(mux *http.ServeMux) {
	d := a.Dump
	if d == nil {
		return
	}
	handle := func(path string, ask func(context.Context) (any, error)) {
		mux.HandleFunc("GET /dump/"+path, func(w http.ResponseWriter, r *http.Request) {
			value, err := ask(r.Context())
			Answer(w, value, err)
		})
	}
	handle("settings", func(context.Context) (any, error) { return d.Settings, nil })
	handle("log", func(context.Context) (any, error) { return d.Log(), nil })
	handle("metrics", func(context.Context) (any, error) { return d.Metrics() })
	handle("files", func(context.Context) (any, error) { return d.Files(), nil })
	handle("kernel", func(ctx context.Context) (any, error) { return d.Kernel(ctx), nil })
}

// Settings returns the daemon's effective configuration, without secrets.
func (c *Client) Settings(ctx context.Context) ([]config.Setting, error) {
	return get[[]config.Setting](ctx, c, "/dump/settings", nil)
}

// Log returns the last lines of the daemon's log.
func (c *Client) Log(ctx context.Context) (string, error) {
	return get[string](ctx, c, "/dump/log", nil)
}

// Metrics returns the daemon's figures in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	return get[string](ctx, c, "/dump/metrics", nil)
}

// Files returns the files that the daemon writes or reads on its host, without secrets.
func (c *Client) Files(ctx context.Context) ([]redact.File, error) {
	return get[[]redact.File](ctx, c, "/dump/files", nil)
}

// Kernel returns how the kernel of the daemon's node is.
func (c *Client) Kernel(ctx context.Context) (*view.View, error) {
	return get[*view.View](ctx, c, "/dump/kernel", nil)
}
