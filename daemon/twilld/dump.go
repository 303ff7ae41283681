//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/redact"
	"github.com/twill-cni/twill/kernel/view"
)

// logKept is how many bytes of the log are kept for those who ask.
const logKept = 128 << 10

func (a *agent) dump() *api.Dump {
	return &api.Dump{
		Settings: a.cfg.Settings,
		Log:      func() string { return redact.Lines(a.last.Last()) },
		Metrics:  a.figures,
		Files:    func() []redact.File { return hostFiles(a.cfg) },
		Kernel: func(ctx context.Context) *view.View {
			runtime.LockOSThread() // the sysctls are those of the thread's namespace
			defer runtime.UnlockOSThread()
			return view.Look(ctx)
		},
	}
}

// figures are what /metrics says.
func (a *agent) figures() (string, error) {
	var to recorded
	request, err := http.NewRequest(http.MethodGet, "/metrics", nil)
	if err != nil {
		return "", err
	}
	promhttp.HandlerFor(a.metrics.Registry(), promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(&to, request)
	if to.status > http.StatusOK {
		return "", fmt.Errorf("gather metrics: %s", to.String())
	}
	return to.String(), nil
}

// recorded is a ResponseWriter that keeps what is written.
type recorded struct {
	bytes.Buffer
	header http.Header
	status int
}

func (p *recorded) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}

func (p *recorded) WriteHeader(status int) { p.status = status }

// hostFiles are what container runtimes read, and the daemon's own configuration files.
func hostFiles(cfg *config.Config) []redact.File {
	all := append(redact.ReadConfigurations(cfg.CNIConfDir), redact.ReadSubnetFile(cfg.SubnetFile))
	documents := []string{cfg.BGPConfig, cfg.ProxyConfig}
	if cfg.Datastore == "kube" {
		documents = append(documents, cfg.NetConf)
	}
	for _, path := range documents {
		if path != "" {
			all = append(all, redact.ReadDocument(path))
		}
	}
	return all
}
