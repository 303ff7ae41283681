//go:build linux

package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestClusterNames(t *testing.T) {
	s, _ := newServer(t)
	start(t, s, ip("127.0.53.1"), ip("::1"))
	for _, at := range []string{"127.0.53.1", "::1"} {
		for _, network := range []string{"udp", "tcp"} {
			resp := exchange(t, network, ip(at), query("wEb.default.SVC.cluster.local.", dns.TypeA))
			have := fmt.Sprintln(dns.RcodeToString[resp.Rcode], resp.Authoritative, resp.RecursionAvailable, resp.Answer, resp.Question[0].Name)
			if diff := cmp.Diff("NOERROR true true [wEb.default.SVC.cluster.local.\t5\tIN\tA\t10.96.0.7] wEb.default.SVC.cluster.local.\n", have); diff != "" {
				t.Errorf("%s %s: %s", at, network, diff)
			}
			if resp := exchange(t, network, ip(at), query("no.default.svc.cluster.local.", dns.TypeA)); resp.Rcode != dns.RcodeNameError || len(resp.Ns) != 1 {
				t.Errorf("%s %s: %s", at, network, resp)
			}
		}
	}
}

// An answer that is too large comes without any of its set of records, and is whole by TCP.
func TestTruncation(t *testing.T) {
	s, _ := newServer(t)
	at := ip("127.0.53.1")
	start(t, s, at)
	for _, size := range []uint16{0, 100, 512, 1232, 4096, 65535} {
		req := query("many.default.svc.cluster.local.", dns.TypeA)
		if size != 0 {
			req.SetEdns0(size, false)
		}
		resp := exchange(t, "udp", at, req)
		if !resp.Truncated || len(resp.Answer) != 0 || (resp.IsEdns0() != nil) != (size != 0) {
			t.Errorf("size %d: %s", size, resp)
		}
		if resp := exchange(t, "tcp", at, req); resp.Truncated || len(resp.Answer) != 200 {
			t.Errorf("by TCP: TC %v, %d records", resp.Truncated, len(resp.Answer))
		}
	}
}

func TestFit(t *testing.T) {
	for size := 512; size < 6000; size += 97 {
		s, _ := newServer(t)
		resp, _ := s.respond(t.Context(), query("many.default.svc.cluster.local.", dns.TypeA))
		cname := records(t, 0, "a.example. 5 IN CNAME many.default.svc.cluster.local.", "").Answer
		resp.Answer = append(cname, resp.Answer...)
		fit(resp, size)
		packed, err := resp.Pack()
		if err != nil || len(packed) > size || resp.Truncated == (len(resp.Answer) == 201) || len(resp.Answer) != 1 && len(resp.Answer) != 201 {
			t.Errorf("size %d: %d bytes, TC %v, %d records, %v", size, len(packed), resp.Truncated, len(resp.Answer), err)
		}
	}
}

func TestForwarding(t *testing.T) {
	up := startUpstream(t, ip("127.0.53.2"), func(q dns.Question, tcp bool) *dns.Msg {
		soa := "example.com. 60 IN SOA ns. host. 1 2 3 4 30"
		switch strings.ToLower(q.Name) {
		case "www.example.com.":
			return records(t, 0, "www.example.com. 40 IN A 192.0.2.80", "")
		case "none.example.com.":
			return records(t, dns.RcodeNameError, "", soa)
		case "empty.example.com.":
			return records(t, 0, "", soa)
		case "nosoa.example.com.":
			return records(t, dns.RcodeNameError, "", "")
		case "long.example.com.":
			if !tcp {
				return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}
			}
			return records(t, 0, "long.example.com. 40 IN TXT whole", "")
		}
		return records(t, dns.RcodeServerFailure, "", "")
	})
	s, now := newServer(t, ip("127.0.53.2"))
	step := func(name string, qtype uint16, asked int, want string) {
		t.Helper()
		before := up.count()
		resp, _ := s.respond(t.Context(), query(name, qtype))
		var ttl []uint32
		for _, rr := range append(resp.Answer, resp.Ns...) {
			ttl = append(ttl, rr.Header().Ttl)
			if rr.Header().Name != name && strings.EqualFold(rr.Header().Name, name) {
				t.Errorf("%s: the answer is of %s", name, rr.Header().Name)
			}
		}
		if have := fmt.Sprint(dns.RcodeToString[resp.Rcode], " ", len(resp.Answer), " ", ttl); have != want || up.count()-before != asked {
			t.Errorf("%s: have %s, asked %d times, want %s, %d", name, have, up.count()-before, want, asked)
		}
	}
	step("www.example.com.", dns.TypeA, 1, "NOERROR 1 [40]")
	now.forward(39 * time.Second)
	step("WWW.example.com.", dns.TypeA, 0, "NOERROR 1 [1]")
	now.forward(time.Second)
	step("WWW.example.com.", dns.TypeA, 1, "NOERROR 1 [40]")
	step("none.example.com.", dns.TypeA, 1, "NXDOMAIN 0 [60]")
	step("none.example.com.", dns.TypeA, 0, "NXDOMAIN 0 [60]")
	step("none.example.com.", dns.TypeAAAA, 1, "NXDOMAIN 0 [60]")
	step("empty.example.com.", dns.TypeA, 1, "NOERROR 0 [60]")
	now.forward(29 * time.Second)
	step("empty.example.com.", dns.TypeA, 0, "NOERROR 0 [31]")
	now.forward(time.Second)
	step("empty.example.com.", dns.TypeA, 1, "NOERROR 0 [60]")
	step("nosoa.example.com.", dns.TypeA, 1, "NXDOMAIN 0 []")
	step("nosoa.example.com.", dns.TypeA, 1, "NXDOMAIN 0 []")
	step("long.example.com.", dns.TypeTXT, 2, "NOERROR 1 [40]")
	step("fails.example.com.", dns.TypeA, rounds, "SERVFAIL 0 []")
	step("fails.example.com.", dns.TypeA, 0, "SERVFAIL 0 []")
	now.forward(time.Second)
	step("fails.example.com.", dns.TypeA, rounds, "SERVFAIL 0 []")

	step("ext.default.svc.cluster.local.", dns.TypeA, 0, "NOERROR 2 [5 9]")
	step("ext.default.svc.cluster.local.", dns.TypeCNAME, 0, "NOERROR 1 [5]")
	step("inner.default.svc.cluster.local.", dns.TypeAAAA, 0, "NOERROR 2 [5 5]")
	step("loop.default.svc.cluster.local.", dns.TypeA, 0, "SERVFAIL 9 [5 5 5 5 5 5 5 5 5]")
	step("no.default.svc.cluster.local.", dns.TypeA, 0, "NXDOMAIN 0 [5]")
}

// An upstream that says nothing, fails, or answers something else is passed over, and not asked first again.
func TestFailover(t *testing.T) {
	good := func(q dns.Question, _ bool) *dns.Msg { return records(t, 0, q.Name+" 40 IN A 192.0.2.80", "") }
	bad := map[string]func(dns.Question, bool) *dns.Msg{
		"silent":  func(dns.Question, bool) *dns.Msg { return nil },
		"failing": func(dns.Question, bool) *dns.Msg { return records(t, dns.RcodeServerFailure, "", "") },
		"refuses": func(dns.Question, bool) *dns.Msg { return records(t, dns.RcodeRefused, "", "") },
		"another": func(q dns.Question, _ bool) *dns.Msg {
			m := records(t, 0, "evil. 40 IN A 192.0.2.66", "")
			m.Question = []dns.Question{{Name: "evil.", Qtype: q.Qtype, Qclass: q.Qclass}}
			return m
		},
	}
	for name, answer := range bad {
		t.Run(name, func(t *testing.T) {
			first := startUpstream(t, ip("127.0.53.2"), answer)
			startUpstream(t, ip("127.0.53.3"), good)
			s, _ := newServer(t, ip("127.0.53.2"), ip("127.0.53.3"))
			for i := range 3 {
				resp, _ := s.respond(t.Context(), query(fmt.Sprintf("w%d.example.com.", i), dns.TypeA))
				if len(resp.Answer) != 1 || resp.Answer[0].(*dns.A).A.String() != "192.0.2.80" {
					t.Errorf("have %s", resp)
				}
			}
			if n := first.count(); n != 1 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// Many who ask for one name at once are one question.
func TestFlightsAreShared(t *testing.T) {
	release := make(chan struct{})
	up := startUpstream(t, ip("127.0.53.2"), func(q dns.Question, _ bool) *dns.Msg {
		<-release
		return records(t, 0, q.Name+" 40 IN A 192.0.2.80", "")
	})
	s, _ := newServer(t, ip("127.0.53.2"))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if resp, _ := s.respond(t.Context(), query("www.example.com.", dns.TypeA)); len(resp.Answer) != 1 {
				t.Errorf("have %s", resp)
			}
		})
	}
	eventually(t, "the upstream is asked", func() bool { return up.count() > 0 })
	close(release)
	wg.Wait()
	if n := up.count(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// fakeWriter is a client at any address.
type fakeWriter struct {
	dns.ResponseWriter
	from net.Addr
	have *dns.Msg
}

func (w *fakeWriter) RemoteAddr() net.Addr      { return w.from }
func (w *fakeWriter) WriteMsg(m *dns.Msg) error { w.have = m; return nil }

func TestClients(t *testing.T) {
	s, _ := newServer(t)
	s.Move(Place{Addrs: []netip.Addr{ip("10.244.1.1")}, Clients: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("192.0.2.1/32")}})
	for from, want := range map[string]int{"10.244.1.1": 0, "10.244.9.9": 0, "192.0.2.1": 0, "127.0.0.1": 0, "::ffff:10.244.1.5": 0,
		"192.0.2.2": dns.RcodeRefused, "2001:db8::1": dns.RcodeRefused, "fe80::1%eth0": dns.RcodeRefused} {
		w := &fakeWriter{from: net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip(from), 4711))}
		s.answer(t.Context(), w, query("web.default.svc.cluster.local.", dns.TypeA))
		if w.have.Rcode != want || (len(w.have.Answer) == 1) != (want == 0) {
			t.Errorf("%s: %s", from, w.have)
		}
	}
}

// The server is never its own upstream.
func TestNoLoop(t *testing.T) {
	s, _ := newServer(t, ip("127.0.53.1"))
	start(t, s, ip("127.0.53.1"))
	if resp := exchange(t, "udp", ip("127.0.53.1"), query("www.example.com.", dns.TypeA)); resp.Rcode != dns.RcodeServerFailure {
		t.Errorf("have %s", resp)
	}
}

func TestUnanswerable(t *testing.T) {
	s, _ := newServer(t)
	tests := map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"transfer":     {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"class":        {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"two":          {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"opcode":       {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"version":      {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"any":          {func(m *dns.Msg) { m.Question[0] = dns.Question{Name: "example.com.", Qtype: dns.TypeANY, Qclass: 1} }, dns.RcodeNotImplemented},
		"no recursion": {func(m *dns.Msg) { m.Question[0].Name, m.RecursionDesired = "example.com.", false }, dns.RcodeRefused},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := query("web.default.svc.cluster.local.", dns.TypeA)
			test.change(req)
			resp, _ := s.respond(t.Context(), req)
			if resp.Rcode != test.want || len(resp.Answer) > 0 {
				t.Errorf("have %s", resp)
			}
			if _, err := resp.Pack(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The server goes where it is sent, also where there is no such address yet, and waits for a port that somebody else has.
func TestMove(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.53.5:53")
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newServer(t)
	if s.Ready() == nil {
		t.Error("it is ready before it is anywhere")
	}
	start(t, s, ip("127.0.53.1"))
	s.Move(Place{Addrs: []netip.Addr{ip("127.0.53.5"), ip("198.51.100.1"), ip("2001:db8::1")}})
	eventually(t, "the server is not ready", func() bool { return s.Ready() != nil })
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is ready", func() bool { return s.Ready() == nil })
	if resp := exchange(t, "udp", ip("127.0.53.5"), query("web.default.svc.cluster.local.", dns.TypeA)); len(resp.Answer) != 1 {
		t.Errorf("have %s", resp)
	}
}

func TestFollowResolvConf(t *testing.T) {
	startUpstream(t, ip("127.0.53.3"), func(q dns.Question, _ bool) *dns.Msg { return records(t, 0, q.Name+" 40 IN A 192.0.2.80", "") })
	s, now := newServer(t)
	s.options.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	start(t, s, ip("127.0.53.1"))
	if resp := exchange(t, "udp", ip("127.0.53.1"), query("www.example.com.", dns.TypeA)); resp.Rcode != dns.RcodeServerFailure {
		t.Errorf("have %s", resp)
	}
	if err := os.WriteFile(s.options.ResolvConf, []byte("# upstream\nnameserver nonsense\nnameserver 127.0.53.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the upstream is known", func() bool { return len(*s.upstreams.list.Load()) == 1 })
	now.forward(failureTTL)
	if resp := exchange(t, "udp", ip("127.0.53.1"), query("www.example.com.", dns.TypeA)); len(resp.Answer) != 1 {
		t.Errorf("have %s", resp)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(3)
	at := time.Unix(1000, 0)
	put := func(name string) {
		m := records(t, 0, name+" 40 IN A 192.0.2.80", "")
		m.Question = []dns.Question{{Name: name, Qtype: dns.TypeA}}
		c.put(lookup{name: name, qtype: dns.TypeA}, m, at)
	}
	for _, name := range []string{"a.", "b.", "c."} {
		put(name)
	}
	c.get(lookup{name: "a.", qtype: dns.TypeA}, at)
	put("d.")
	have := ""
	for _, name := range []string{"a.", "b.", "c.", "d."} {
		if _, ok := c.get(lookup{name: name, qtype: dns.TypeA}, at); ok {
			have += name
		}
	}
	if have != "a.c.d." || c.len() != 3 {
		t.Errorf("have %s, %d entries", have, c.len())
	}
}

// Whatever packet comes, the answer can be sent, fits, and is one to that packet.
func FuzzRespond(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local.", "many.default.svc.cluster.local.", "www.example.com.", "7.0.96.10.in-addr.arpa."} {
		req := query(name, dns.TypeA)
		plain, _ := req.Pack()
		f.Add(plain)
		req.SetEdns0(4096, true)
		extended, _ := req.Pack()
		f.Add(extended)
	}
	s, _ := newServer(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		req := new(dns.Msg)
		if req.Unpack(data) != nil || len(req.Question) == 0 { // as the library's server has it
			return
		}
		w := &fakeWriter{from: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}}
		s.answer(t.Context(), w, req)
		packed, err := w.have.Pack()
		if err != nil || w.have.Id != req.Id || !w.have.Response {
			t.Errorf("%s: %v", w.have, err)
		}
		if len(packed) > udpSize && len(req.Question) == 1 {
			t.Errorf("%d bytes", len(packed))
		}
	})
}
