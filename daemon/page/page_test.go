//go:build linux

package page

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/gauge"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// refusing is the part of api.Policies that has drops.
type refusing struct {
	api.Policies
	all []api.Drop
}

func (r refusing) Drops() []api.Drop { return r.all }

func (refusing) Each(_ context.Context, visit func(api.ClusterPod) bool) error {
	visit(api.ClusterPod{Namespace: "shop", Name: "cart", Node: "node2", Addresses: []netip.Addr{netip.MustParseAddr("10.244.2.9")}})
	return nil
}

type serving struct{ asked int }

func (s *serving) Report(_ context.Context, name store.ObjectName) (*dnat.Report, error) {
	s.asked++
	all := []dnat.ServiceState{}
	for _, n := range []string{"web", "db"} {
		all = append(all, dnat.ServiceState{Namespace: "shop", Name: n, Frontends: []dnat.FrontendState{{Address: netip.MustParseAddr("10.96.0.7"), Port: 80}}})
	}
	return &dnat.Report{Services: all}, nil
}

func newHandler(t *testing.T, change func(*Options)) http.Handler {
	t.Helper()
	o := Options{Node: "node1", RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Peers: func() []gauge.Peer { return []gauge.Peer{} },
		About: api.About{
			BGP: func() api.BGP { return nil }, Services: func() api.Services { return nil }, Policies: func() api.Policies { return nil },
			Status: func(context.Context) api.NodeStatus {
				return api.NodeStatus{Node: "node1", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
			},
		}}
	if change != nil {
		change(&o)
	}
	h, err := handler(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "127.0.0.1:10280"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestWhoMayRead(t *testing.T) {
	h := newHandler(t, nil)
	for _, c := range []struct {
		name    string
		headers []string
		want    int
	}{
		{"an address", nil, 200},
		{"IPv6", []string{"Host", "[::1]:10280"}, 200},
		{"localhost", []string{"Host", "localhost:10280"}, 200},
		{"without a port", []string{"Host", "192.0.2.1"}, 200},
		{"another site's name", []string{"Host", "evil.example:10280"}, 421},
		{"a name that begins with an address", []string{"Host", "127.0.0.1.evil.example"}, 421},
		{"no name", []string{"Host", ""}, 421},
		{"the page itself", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{"another site's script", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"a link on another site", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
	} {
		if w := get(h, "/data/status", c.headers...); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, w.Code, c.want)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		r := httptest.NewRequest(method, "/data/status", nil)
		r.Host = "127.0.0.1"
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// What changes something, or is long, is not asked through the page.
func TestWhatIsNotAnswered(t *testing.T) {
	h := newHandler(t, func(o *Options) { o.About.Services = func() api.Services { return &serving{} } })
	for target, want := range map[string]int{
		"/data/addresses/release-dead": 404, "/data/addresses": 404, "/data/bgp/paths": 404, "/data/services": 400, "/assets/": 404, "/page.go": 404, "/data/../status": 307,
		"/data/drops": 404, "/data/trace?pod=x": 400, "/data/trace?pod=10.0.0.1&other=fd00::1&protocol=TCP&port=1": 400, "/data/trace?pod=10.0.0.1&other=10.0.0.2&protocol=IP&port=1": 400,
		"/data/trace?pod=10.0.0.1&other=10.0.0.2&protocol=TCP&port=70000": 400, "/data/trace?pod=10.0.0.1&other=10.96.0.7&protocol=TCP&port=80": 400,
	} {
		if w := get(h, target); w.Code != want {
			t.Errorf("%s: %d %s, want %d", target, w.Code, w.Body, want)
		}
	}
}

func TestAssets(t *testing.T) {
	h := newHandler(t, nil)
	for target, kind := range map[string]string{"/": "text/html", "/page.js": "text/javascript", "/page.css": "text/css", "/icon.svg": "image/svg+xml"} {
		w := get(h, target)
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %s", target, w.Code, w.Header().Get("Content-Type"))
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || w.Header().Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %q", target, csp)
		}
		if again := get(h, target, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", target, again.Code)
		}
	}
	text := get(h, "/").Body.String()
	for _, inline := range []string{"<style", "style=", "onclick", "<script>", "http:", "https:", "//cdn"} {
		if strings.Contains(text, inline) {
			t.Errorf("index.html has %q, which the page's own policy refuses", inline)
		}
	}
	if c := get(h, "/data/status").Header().Get("Cache-Control"); c != "no-store" {
		t.Errorf("data: Cache-Control %q", c)
	}
}

func TestSearch(t *testing.T) {
	s := &serving{}
	h := newHandler(t, func(o *Options) {
		o.About.Services = func() api.Services { return s }
		o.About.Policies = func() api.Policies { return refusing{} }
	})
	for q, want := range map[string]string{"CART": "shop/cart", "web": "shop/web", "10.244.2": "shop/cart", "10.96.0.7": "shop/db,shop/web", "nothing": "", "shop/": "shop/db,shop/web,shop/cart"} {
		var have results
		if err := json.Unmarshal(get(h, "/data/search?q="+q).Body.Bytes(), &have); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range have.Found {
			names = append(names, f.Name)
		}
		if strings.Join(names, ",") != want {
			t.Errorf("%s: have %v, want %s", q, names, want)
		}
	}
	if s.asked != 1 {
		t.Errorf("the kernel was asked for all Services %d times", s.asked)
	}
}

func TestDropsAreBoundedAndNewestFirst(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var all []api.Drop
	for i := range 2 * maxDrops {
		all = append(all, api.Drop{Time: begin.Add(time.Duration(i) * time.Second), Port: uint16(i)})
	}
	h := newHandler(t, func(o *Options) { o.About.Policies = func() api.Policies { return refusing{all: all} } })
	ask := func(query string) (out []api.Drop) {
		w := get(h, "/data/drops"+query)
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
		return out
	}
	if have := ask(""); len(have) != maxDrops || have[0].Port != 2*maxDrops-1 {
		t.Errorf("have %d, the first %+v", len(have), have[0])
	}
	if have := ask("?after=" + all[len(all)-3].Time.Format(time.RFC3339Nano)); len(have) != 2 {
		t.Errorf("have %d of the 2 that are new", len(have))
	}
	if have := ask("?after=" + all[len(all)-1].Time.Format(time.RFC3339Nano)); have == nil || len(have) != 0 {
		t.Errorf("have %v, want an empty list", have)
	}
}

// A slow reader keeps one place, and there are so many.
func TestPlacesForReaders(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, maxRequests)
	h := guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		held <- struct{}{}
		<-hold
	}))
	for range maxRequests {
		go get(h, "/")
	}
	for range maxRequests {
		<-held
	}
	if w := get(h, "/"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d", w.Code)
	}
	close(hold)
}

// endless has a list of pods that takes as long as the request lasts.
type endless struct {
	refusing
	began chan struct{}
}

func (e endless) Each(ctx context.Context, _ func(api.ClusterPod) bool) error {
	e.began <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

// Searches that take long leave the rest of the page its room, and one of them at a time costs the daemon anything.
func TestLongSearchesKeepNothingElse(t *testing.T) {
	policies := endless{began: make(chan struct{}, 4*maxRequests)}
	h := newHandler(t, func(o *Options) { o.About.Policies = func() api.Policies { return policies } })
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan *httptest.ResponseRecorder, 2*maxQueue)
	search := func(ctx context.Context) {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/data/search?q=x", nil)
		r.Host = "127.0.0.1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		answers <- w
	}
	for range 2 * maxQueue {
		go search(ctx)
	}
	<-policies.began
	for range maxQueue { // those that find no room
		if w := <-answers; w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "busy") || w.Header().Get("Retry-After") == "" {
			t.Errorf("no room: %d %s", w.Code, w.Body)
		}
	}
	if len(policies.began) != 0 {
		t.Error("a second search began beside the first")
	}
	if w := get(h, "/data/status"); w.Code != http.StatusOK {
		t.Errorf("the status beside searches: %d %s", w.Code, w.Body)
	}
	cancel()
	for range maxQueue { // those that waited, or had the turn
		<-answers
	}
	for len(policies.began) > 0 {
		<-policies.began
	}
	go search(t.Context())
	<-policies.began // the turn is free again
}
