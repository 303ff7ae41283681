package health

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/store/storetest"
)

// freeAddress returns an address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve starts a server that answers for a node which was not started, and ends it with the test.
func serve(t *testing.T, a Addresses, m *Metrics) {
	t.Helper()
	status := node.New(node.Options{Store: storetest.NewStore("")}).Status()
	s, err := Listen(a, status, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Start(t, s.Run)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestProbes(t *testing.T) {
	a := freeAddress(t)
	serve(t, Addresses{Health: a, Metrics: a}, NewMetrics("v1", "vxlan"))
	tests := []struct {
		path string
		code int
		body string
	}{
		{"/healthz", http.StatusOK, "ok\n"},
		{"/readyz", http.StatusServiceUnavailable, "starting\n"},
		{"/metrics", http.StatusOK, "twill_ready 0\n"},
		{"/other", http.StatusNotFound, ""},
	}
	for _, tt := range tests {
		if code, body := get(t, "http://"+a+tt.path); code != tt.code || !strings.Contains(body, tt.body) {
			t.Errorf("%s: %d %q, want %d %q", tt.path, code, body, tt.code, tt.body)
		}
	}
}

func TestAddressesApart(t *testing.T) {
	health, metrics := freeAddress(t), freeAddress(t)
	serve(t, Addresses{Health: health, Metrics: metrics}, NewMetrics("v1", "vxlan"))
	for url, want := range map[string]int{
		health + "/healthz": 200, health + "/metrics": 404, metrics + "/metrics": 200, metrics + "/readyz": 404,
	} {
		if code, _ := get(t, "http://"+url); code != want {
			t.Errorf("%s: %d, want %d", url, code, want)
		}
	}
}

func TestNoAddresses(t *testing.T) { serve(t, Addresses{}, NewMetrics("v1", "vxlan")) }

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	status := node.New(node.Options{Store: storetest.NewStore("")}).Status()
	a := Addresses{Health: freeAddress(t), Metrics: l.Addr().String()}
	if _, err := Listen(a, status, NewMetrics("v1", "vxlan"), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), a.Metrics) {
		t.Errorf("error %v, want one that names %s", err, a.Metrics)
	}
}

func TestMetrics(t *testing.T) {
	a := freeAddress(t)
	m := NewMetrics("v1", "vxlan")
	serve(t, Addresses{Metrics: a}, m)
	var r node.Report
	r.Duration, r.Peers, r.Rejected = 30*time.Millisecond, 12, 3
	r.Result.Kinds[kernel.KindRoute] = reconcile.Counts{Desired: 12, Programmed: 11, Changes: 4}
	m.Synced(r)
	r.Err = errors.New("no buffer space")
	m.Synced(r)
	_, body := get(t, "http://"+a+"/metrics")
	for _, want := range []string{
		`twill_desired_entries{kind="route"} 12`, `twill_programmed_entries{kind="route"} 11`, `twill_kernel_changes_total{kind="route"} 8`,
		`twill_desired_entries{kind="fdb"} 0`, "twill_sync_errors_total 1", "twill_sync_duration_seconds_count 2", "twill_peers 12",
		"twill_rejected_peers 3", "twill_sync_age_seconds -1", `backend="vxlan"`, `version="v1"`, "process_resident_memory_bytes",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMetrics("v1", "vxlan")
	m.follow(node.New(node.Options{Store: storetest.NewStore("")}).Status())
	m.Synced(node.Report{})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "twill_") && !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/operations.md does not mention %s", name)
		}
	}
}
