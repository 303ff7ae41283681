package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/ctl/lab"
)

const dnsManifest = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIPs: [%q], clusterIP: %q, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {selector: {app: web}, clusterIP: None, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {type: ExternalName, externalName: www.example.com}
`

// TestDNS resolves names of all kinds from pods of two nodes, with what the CNI's result told each pod: Services that the operator's tool applied, pods
// that come and go, and a name outside of the cluster by way of an upstream.
func TestDNS(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 2, Proxy: "nftables", DaemonArgs: []string{"--dns=on", "--dns-upstream=127.0.0.53:5353"}})
	nodes := l.Nodes()
	var pods []*lab.Pod
	for i, n := range nodes {
		serveUpstream(t, n)
		p, err := n.AddPod(t.Context(), lab.PodOptions{Namespace: fmt.Sprintf("space%d", i+1)})
		must(t, err)
		pods = append(pods, p)
	}
	file := filepath.Join(t.TempDir(), "dns.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, dnsManifest, "10.96.0.77", "10.96.0.77"), 0o600))
	twillctl(t, "apply", "-f", file, "--lab", l.Name()).wantOK(t)
	backend, err := nodes[0].AddPod(t.Context(), lab.PodOptions{Labels: map[string]string{"app": "web"}})
	must(t, err)
	at := addr(t, backend, false)
	dashed := strings.ReplaceAll(at.String(), ".", "-")
	reverse, err := dns.ReverseAddr(at.String())
	must(t, err)
	for i, p := range pods {
		told := p.Result().DNS
		if want := []string{fmt.Sprintf("space%d.svc.cluster.local", i+1), "svc.cluster.local", "cluster.local"}; !slices.Equal(told.Search, want) || len(told.Nameservers) != 1 {
			t.Errorf("%s was told %+v, want the search list %v", p.Name, told, want)
		}
		for _, test := range []struct{ name, qtype, want string }{
			{"all.default.svc.cluster.local.", "A", at.String()},
			{"web.default.svc.cluster.local.", "A", "10.96.0.77"},
			{"_http._tcp.web.default.svc.cluster.local.", "SRV", "0 100 80 web.default.svc.cluster.local."},
			{"_http._tcp.all.default.svc.cluster.local.", "SRV", "0 100 8080 " + dashed + ".all.default.svc.cluster.local."},
			{dashed + ".default.pod.cluster.local.", "A", at.String()},
			{reverse, "PTR", dashed + ".all.default.svc.cluster.local."},
			{"77.0.96.10.in-addr.arpa.", "PTR", "web.default.svc.cluster.local."},
			{"www.example.com.", "A", "192.0.2.80"},
			{"out.default.svc.cluster.local.", "A", "www.example.com. 192.0.2.80"},
			{"no.default.svc.cluster.local.", "A", "NXDOMAIN"},
		} {
			within(t, enough, func() error { return wantName(t.Context(), p, test.name, test.qtype, test.want) })
		}
	}
	took := time.Now()
	must(t, backend.Delete(t.Context()))
	for _, p := range pods {
		within(t, time.Second, func() error { return wantName(t.Context(), p, "all.default.svc.cluster.local.", "A", "NXDOMAIN") })
	}
	t.Logf("a pod that was deleted had no name any more %v after the DEL began", time.Since(took))
}

// serveUpstream answers on a node's loopback address for all names, with one address.
func serveUpstream(t *testing.T, n *lab.Node) {
	t.Helper()
	var conn net.PacketConn
	must(t, n.Netns().Do(func() (err error) {
		conn, err = net.ListenPacket("udp", "127.0.0.53:5353")
		return err
	}))
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		resp := new(dns.Msg).SetReply(req)
		if rr, err := dns.NewRR(req.Question[0].Name + " 60 IN A 192.0.2.80"); err == nil {
			resp.Answer = []dns.RR{rr}
		}
		_ = w.WriteMsg(resp) // who asked may be gone
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = conn.Close() // which is how the server ends
		<-done
	})
}

// wantName asks the name server that the pod was told of, from inside the pod, by UDP and by TCP.
func wantName(ctx context.Context, p *lab.Pod, name, qtype, want string) error {
	told := p.Result().DNS.Nameservers
	if len(told) == 0 {
		return errors.New("the pod was told of no name server")
	}
	server, err := netip.ParseAddr(told[0])
	if err != nil {
		return err
	}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := p.Netns().Dial(ctx, network, netip.AddrPortFrom(server, 53).String())
		if err != nil {
			return err
		}
		client := &dns.Client{Net: network, Timeout: 2 * time.Second}
		resp, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]), &dns.Conn{Conn: conn})
		if err := errors.Join(err, conn.Close()); err != nil {
			return fmt.Errorf("%s %s by %s: %w", name, qtype, network, err)
		}
		var have []string
		for _, rr := range resp.Answer {
			have = append(have, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if resp.Rcode != dns.RcodeSuccess {
			have = append(have, dns.RcodeToString[resp.Rcode])
		}
		if text := strings.Join(have, " "); text != want {
			return fmt.Errorf("%s %s by %s: have %q, want %q", name, qtype, network, text, want)
		}
	}
	return nil
}
