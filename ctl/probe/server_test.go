package probe

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

const enough = 10 * time.Second

// Who tells servers apart, and unlike Ask takes nobody for no answer.
func TestWho(t *testing.T) {
	ns := inside(t)
	at := netip.MustParseAddrPort("127.0.0.1:9")
	s, err := Serve(t.Context(), ns, "pod-a", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if _, err := Serve(t.Context(), ns, "pod-b", at); err == nil || !strings.Contains(err.Error(), "serve at 127.0.0.1:9") {
		t.Errorf("a port that is taken: %v", err)
	}
	tests := []struct {
		name     string
		protocol store.Protocol
		to       string
		patience time.Duration
		who      string
		want     Answer
	}{
		{"TCP", store.TCP, "127.0.0.1:9", enough, "pod-a", Answer{Reached, "pod-a answered"}},
		{"UDP", store.UDP, "127.0.0.1:9", enough, "pod-a", Answer{Reached, "pod-a answered"}},
		{"nobody, TCP", store.TCP, "127.0.0.1:10", enough, "", Answer{Failed, "nobody listens there, and said so"}},
		{"nobody, UDP", store.UDP, "127.0.0.1:10", enough, "", Answer{Failed, "nobody listens there, and said so"}},
		{"mute", store.UDP, "127.0.0.1:8", 30 * time.Millisecond, "", Answer{Silent, "no answer within 30ms"}},
		{"a server that waits", store.TCP, "127.0.0.1:7", 30 * time.Millisecond, "", Answer{Silent, "no answer within 30ms"}},
		{"SCTP", store.SCTP, "127.0.0.1:9", enough, "", Answer{Failed, "SCTP cannot be asked for a name: TCP and UDP can"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			who, a := Who(t.Context(), ns, tt.protocol, netip.MustParseAddrPort(tt.to), tt.patience)
			if who != tt.who || a != tt.want {
				t.Errorf("%q, %+v", who, a)
			}
		})
	}
}

// Who is interrupted does not wait for an answer.
func TestInterrupted(t *testing.T) {
	ns := inside(t)
	for _, q := range []struct {
		protocol store.Protocol
		to       string
	}{{store.TCP, "127.0.0.1:7"}, {store.UDP, "127.0.0.1:8"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, a := Who(ctx, ns, q.protocol, netip.MustParseAddrPort(q.to), time.Hour); a.Outcome == Reached || time.Since(began) > time.Minute {
			t.Errorf("%s: %+v after %v", q.protocol, a, time.Since(began))
		}
	}
}

func listen(t *testing.T, at Place) (conn net.PacketConn) {
	t.Helper()
	err := at.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// A name server is asked for one family, and for nothing but the name.
func TestResolve(t *testing.T) {
	ns := inside(t)
	conn := listen(t, ns)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		resp := new(dns.Msg).SetReply(req)
		text := map[uint16]string{dns.TypeA: "web.test. 1 IN A 192.0.2.7", dns.TypeAAAA: "web.test. 1 IN AAAA 2001:db8::7"}[req.Question[0].Qtype]
		if rr, err := dns.NewRR(text); err == nil && req.Question[0].Name == "web.test." {
			resp.Answer = []dns.RR{rr}
		} else {
			resp.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(resp) // who asked may be gone
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = conn.Close() // which is how the server ends
		<-done
	})
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	for v6, want := range map[bool]string{false: "192.0.2.7", true: "2001:db8::7"} {
		got, a := Resolve(t.Context(), ns, at, "web.test", v6, enough)
		if len(got) != 1 || got[0].String() != want || a.Outcome != Reached {
			t.Errorf("IPv6 %t: %v, %+v", v6, got, a)
		}
	}
	if got, a := Resolve(t.Context(), ns, at, "none.test.", false, enough); got != nil || a.Outcome != Failed {
		t.Errorf("%v, %+v", got, a)
	}
	if got, a := Resolve(t.Context(), ns, netip.MustParseAddrPort("127.0.0.1:8"), "web.test", false, 50*time.Millisecond); got != nil || a.Outcome != Silent {
		t.Errorf("%v, %+v", got, a)
	}
}
