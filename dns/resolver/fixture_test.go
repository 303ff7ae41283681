//go:build linux

package resolver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/dns/zone"
	"github.com/twill-cni/twill/store"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

// clock is a time that stands still until it is moved.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1000, c.offset.Load()) }
func (c *clock) forward(d time.Duration) { c.offset.Add(int64(d)) }

// newZone returns a zone with a Service, a headless one of 200 endpoints, and ExternalNames.
func newZone(t testing.TB) *zone.Zone {
	t.Helper()
	z, err := zone.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) store.ObjectName { return store.ObjectName{Namespace: "default", Name: name} }
	c := store.ServiceChanges{Reset: true, Services: map[store.ObjectName]*store.Service{}, Slices: map[store.ObjectName]*store.EndpointSlice{}}
	for _, s := range []*store.Service{
		{Name: named("web"), ClusterIPs: []netip.Addr{ip("10.96.0.7"), ip("fd00:96::7")}},
		{Name: named("many")},
		{Name: named("ext"), Type: store.ServiceExternalName, ExternalName: "www.example.com"},
		{Name: named("inner"), Type: store.ServiceExternalName, ExternalName: "web.default.svc.cluster.local"},
		{Name: named("loop"), Type: store.ServiceExternalName, ExternalName: "loop.default.svc.cluster.local"},
	} {
		c.Services[s.Name] = s
	}
	many := &store.EndpointSlice{Name: named("many-1"), Service: "many"}
	for i := range 200 {
		many.Endpoints = append(many.Endpoints, store.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), Ready: true})
	}
	c.Slices[many.Name] = many
	z.Apply(c)
	z.ApplyPods(store.PolicyChanges{Reset: true})
	return z
}

// newServer returns a Server that asks those upstreams.
func newServer(t testing.TB, upstreams ...netip.Addr) (*Server, *clock) {
	t.Helper()
	c := &clock{}
	var at []netip.AddrPort
	for _, u := range upstreams {
		at = append(at, netip.AddrPortFrom(u, 53))
	}
	return New(Options{Zone: newZone(t), Upstreams: at, ResolvConf: "/does/not/exist", Metrics: NewMetrics(prometheus.NewRegistry()),
		Log: slog.New(slog.DiscardHandler), Now: c.now}), c
}

// start runs a Server at addresses until the test's end.
func start(t *testing.T, s *Server, at ...netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s.Move(Place{Addrs: at})
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the server is ready", func() bool { return s.Ready() == nil })
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline.C:
			t.Fatalf("it is not so that %s", what)
		case <-tick.C:
		}
	}
}

// upstream is a server that others ask. Its fields are set through do.
type upstream struct {
	mu     sync.Mutex
	answer func(q dns.Question, tcp bool) *dns.Msg // nil: says nothing
	asked  []string
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	tcp := w.RemoteAddr().Network() == "tcp"
	q := req.Question[0]
	u.mu.Lock()
	u.asked = append(u.asked, fmt.Sprint(w.RemoteAddr().Network(), " ", dns.TypeToString[q.Qtype], " ", q.Name))
	answer := u.answer
	u.mu.Unlock()
	resp := answer(q, tcp)
	if resp == nil {
		return
	}
	if len(resp.Question) == 0 {
		resp.Question = []dns.Question{q}
	}
	resp.Id, resp.Response = req.Id, true
	_ = w.WriteMsg(resp) // whoever asked may be gone
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// startUpstream runs one until the test's end.
func startUpstream(t *testing.T, at netip.Addr, answer func(q dns.Question, tcp bool) *dns.Msg) *upstream {
	t.Helper()
	u := &upstream{answer: answer}
	all, err := listen(t.Context(), []netip.AddrPort{netip.AddrPortFrom(at, 53)}, u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- all.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return u
}

// records returns an answer with those records, and a code.
func records(t testing.TB, rcode int, answer, authority string) *dns.Msg {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}}
	for text, to := range map[string]*[]dns.RR{answer: &m.Answer, authority: &m.Ns} {
		if text == "" {
			continue
		}
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		*to = append(*to, rr)
	}
	return m
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// exchange asks a running Server.
func exchange(t *testing.T, network string, at netip.Addr, req *dns.Msg) *dns.Msg {
	t.Helper()
	client := &dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: dns.MaxMsgSize}
	resp, _, err := client.Exchange(req, netip.AddrPortFrom(at, 53).String())
	if err != nil {
		t.Fatalf("%s %s: %v", network, req.Question[0].Name, err)
	}
	return resp
}
