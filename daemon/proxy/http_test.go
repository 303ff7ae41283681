package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// answer asks a handler, and returns the code and the body with all times that are now replaced.
func answer(t *testing.T, h http.Handler, path string, now time.Time) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Error("nosniff is not set")
	}
	text, _ := now.MarshalText()
	return w.Code, strings.ReplaceAll(w.Body.String(), string(text), "NOW")
}

func TestHealth(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	healthy := `"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}`
	late := `"healthy":false,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":false}}}`
	for name, tt := range map[string]struct {
		happens     func(h *health)
		healthz     int
		healthzBody string
		livez       int
		livezBody   string
		after       time.Duration
	}{
		"starting": {func(*health) {}, 200, `{"lastUpdated":"NOW","currentTime":"NOW","nodeEligible":true,"healthy":true}`,
			200, `{"lastUpdated":"NOW","currentTime":"NOW","healthy":true}`, time.Hour},
		"waiting for the source": {func(h *health) { h.Queue() }, 200, `{"lastUpdated":"NOW","currentTime":"NOW","nodeEligible":true,"healthy":true}`,
			200, `{"lastUpdated":"NOW","currentTime":"NOW","healthy":true}`, time.Hour},
		"refused from the start": {func(h *health) { h.Queue(); h.Synced(start, errors.New("broken")) }, 503,
			`{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"NOW","nodeEligible":true,"healthy":false}`,
			503, `{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"NOW","healthy":false}`, time.Hour},
		"synced": {func(h *health) { h.Queue(); h.Synced(start, nil) }, 200, `{"lastUpdated":"NOW","currentTime":"NOW","nodeEligible":true,` + healthy,
			200, `{"lastUpdated":"NOW","currentTime":"NOW",` + healthy, time.Hour},
		"a change waits": {func(h *health) { h.Synced(start, nil); h.Queue() }, 200, `{"lastUpdated":"NOW","currentTime":"NOW","nodeEligible":true,` + healthy,
			200, `{"lastUpdated":"NOW","currentTime":"NOW",` + healthy, time.Minute - 1},
		"a change waits too long": {func(h *health) { h.Synced(start, nil); h.Queue() }, 503,
			`{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"NOW","nodeEligible":true,` + late,
			503, `{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"NOW",` + late, time.Minute},
		"the node goes": {func(h *health) { h.Synced(start, nil); h.setEligible(false) }, 503,
			`{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"NOW","nodeEligible":false,` + healthy,
			200, `{"lastUpdated":"NOW","currentTime":"NOW",` + healthy, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			now := start
			h := newHealth(time.Minute, func() time.Time { return now })
			tt.happens(h)
			now = start.Add(tt.after)
			for _, ask := range []struct {
				handler http.HandlerFunc
				path    string
				code    int
				body    string
			}{{h.healthz, "/healthz", tt.healthz, tt.healthzBody}, {h.livez, "/livez", tt.livez, tt.livezBody}} {
				code, body := answer(t, ask.handler, ask.path, now)
				if code != ask.code {
					t.Errorf("%s: code %d, want %d", ask.path, code, ask.code)
				}
				if diff := cmp.Diff(ask.body, body); diff != "" {
					t.Errorf("%s: %s", ask.path, diff)
				}
			}
		})
	}
}

// A change that comes while a sync runs is not in the kernel when that ends.
func TestHealthOfAChangeDuringASync(t *testing.T) {
	now := time.Now()
	h := newHealth(time.Minute, func() time.Time { return now })
	began := now
	now = now.Add(time.Second)
	h.Queue()
	h.Synced(began, nil)
	now = now.Add(time.Hour)
	if h.Healthy() {
		t.Error("the change is forgotten")
	}
}

func TestNodeThatGoes(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin()
	no, yes := false, true
	for _, eligible := range []*bool{&no, nil, &yes} {
		c := changes()
		c.NodeEligible = eligible
		r.source.Tell(r.t, c)
		code, _ := answer(t, r.proxy.healthHandler(), "/healthz", time.Time{})
		want := 503
		if eligible == &yes {
			want = 200
		}
		if code != want {
			t.Errorf("code %d, want %d", code, want)
		}
		if code, _ := answer(t, r.proxy.healthHandler(), "/livez", time.Time{}); code != 200 {
			t.Errorf("livez: code %d", code)
		}
	}
	if n := r.figure("kubeproxy_proxy_healthz_total"); n != 3 {
		t.Errorf("%v answers are counted", n)
	}
}

func TestMetricsEndpoint(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	if code, body := answer(t, r.proxy.metricsHandler(), "/proxyMode", time.Time{}); code != 200 || body != "nftables" {
		t.Errorf("proxyMode: %d %q", code, body)
	}
	server := httptest.NewServer(r.proxy.metricsHandler())
	defer server.Close()
	got, err := http.Get(server.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"kubeproxy_sync_proxy_rules_duration_seconds_count 1", "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
		"kubeproxy_sync_partial_proxy_rules_duration_seconds_count 0", "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
		"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds ", "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 0",
		"kubeproxy_sync_proxy_rules_service_changes_pending 0", "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
		"kubeproxy_sync_proxy_rules_service_changes_total 6", "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
		"kubeproxy_conntrack_reconciler_deleted_entries_total", "twill_proxy_services 6", "twill_proxy_drift_total 0",
		"twill_proxy_programming_duration_seconds_count 1",
	} {
		if !strings.Contains(string(text), "\n"+name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ask asks a health check node port: the code, 0 when nobody answers, the body and the header.
func ask(port uint16) (int, string, string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: daemontest.Patience}
	got, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return 0, "", ""
	}
	defer got.Body.Close()
	body, _ := io.ReadAll(got.Body)
	return got.StatusCode, string(body), got.Header.Get("X-Load-Balancing-Endpoint-Weight")
}

func TestHealthCheckNodePorts(t *testing.T) {
	healthy := true
	c := newChecks(discard(), func() bool { return healthy })
	check := func(port uint16, n int) *service.HealthCheck {
		return &service.HealthCheck{Port: port, LocalEndpoints: n}
	}
	expect := func(port uint16, want string) {
		t.Helper()
		code, body, weight := ask(port)
		if have := fmt.Sprintf("%d %s %s", code, weight, body); strings.TrimSpace(have) != want {
			t.Errorf("port %d: have %s, want %s", port, have, want)
		}
	}
	a, b := named("a"), named("b")
	c.Change(map[store.ObjectName]*service.HealthCheck{a: check(32001, 2), b: check(32002, 0)})
	expect(32001, `200 2 {"service":{"namespace":"shop","name":"a"},"localEndpoints":2,"serviceProxyHealthy":true}`)
	expect(32002, `503 0 {"service":{"namespace":"shop","name":"b"},"localEndpoints":0,"serviceProxyHealthy":true}`)
	healthy = false
	expect(32001, `503 2 {"service":{"namespace":"shop","name":"a"},"localEndpoints":2,"serviceProxyHealthy":false}`)
	healthy = true
	for range 50 { // the ports change hands, often enough for a listener that is closed late to be noticed
		c.Change(map[store.ObjectName]*service.HealthCheck{a: check(32002, 1), b: check(32001, 1)})
		c.Change(map[store.ObjectName]*service.HealthCheck{a: check(32001, 1), b: check(32002, 1)})
	}
	expect(32001, `200 1 {"service":{"namespace":"shop","name":"a"},"localEndpoints":1,"serviceProxyHealthy":true}`)
	expect(32002, `200 1 {"service":{"namespace":"shop","name":"b"},"localEndpoints":1,"serviceProxyHealthy":true}`)
	c.Change(map[store.ObjectName]*service.HealthCheck{a: nil})
	expect(32001, "0")
	c.close()
	expect(32002, "0")
	c.Change(map[store.ObjectName]*service.HealthCheck{a: check(32001, 1)})
	expect(32001, "0") // it has ended
}

func TestHealthCheckPortThatIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", ":32003")
	if err != nil {
		t.Fatal(err)
	}
	log := &daemontest.Log{}
	c := newChecks(slog.New(slog.NewTextHandler(log, nil)), func() bool { return true })
	defer c.close()
	c.Change(map[store.ObjectName]*service.HealthCheck{named("a"): {Port: 32003, LocalEndpoints: 1}})
	c.retry()
	if n := log.Count("does not answer"); n != 1 {
		t.Errorf("told %d times", n)
	}
	_ = taken.Close()
	c.retry()
	if code, _, _ := ask(32003); code != 200 {
		t.Errorf("code %d", code)
	}
}

func TestHealthCheckFollowsTheService(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	lb := svc("lb", 7, func(s *store.Service) {
		s.Type, s.ExternalLocal, s.HealthCheckNodePort = store.ServiceLoadBalancer, true, 32004
	})
	r.begin(lb, slice("lb", "10.244.1.5", "10.244.1.6", "10.244.2.5"))
	if code, _, weight := ask(32004); code != 200 || weight != "2" {
		t.Errorf("have %d, weight %s", code, weight)
	}
	r.tell(slice("lb", "10.244.2.5"))
	r.settled()
	if code, _, weight := ask(32004); code != 503 || weight != "0" {
		t.Errorf("have %d, weight %s", code, weight)
	}
	r.stop()
	if code, _, _ := ask(32004); code != 0 {
		t.Error("the port answers after the end")
	}
}

func TestAddressThatIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := endpoint{address: taken.Addr().String(), handler: http.NotFoundHandler(), log: discard()}
	if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("without retry: %v", err)
	}
	e.retry = true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the end while it is taken: %v", err)
	}
	_ = taken.Close()
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- e.Run(ctx) }()
	for {
		if got, err := http.Get("http://" + e.address); err == nil {
			_ = got.Body.Close()
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
