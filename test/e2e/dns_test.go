package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
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
	for _, test := range []struct {
		name    string
		options lab.Options
	}{
		{"vxlan", lab.Options{Family: lab.IPv4}},
		{"bgp, dual stack", lab.Options{Family: lab.DualStack, Routing: lab.Routing{Backend: lab.BGP}, BackendConfig: json.RawMessage(`{}`)}},
		{"vxlan, IPv6", lab.Options{Family: lab.IPv6}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			testDNS(t, test.options)
		})
	}
}

func testDNS(t *testing.T, options lab.Options) {
	options.Nodes, options.Proxy = 2, "nftables"
	options.DaemonArgs = []string{"--dns=on", "--dns-upstream=127.0.0.53:5353", "--policy=on"}
	l := up(t, options)
	nodes := l.Nodes()
	var pods []*lab.Pod
	for i, n := range nodes {
		serveUpstream(t, n)
		p, err := n.AddPod(t.Context(), lab.PodOptions{Namespace: fmt.Sprintf("space%d", i+1)})
		must(t, err)
		pods = append(pods, p)
	}
	clusterIP := "10.96.0.77"
	if !options.Family.V4() {
		clusterIP = "fd00:96::77"
	}
	file := filepath.Join(t.TempDir(), "dns.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, dnsManifest, clusterIP, clusterIP), 0o600))
	twillctl(t, "apply", "-f", file, "--lab", l.Name()).wantOK(t)
	backend, err := nodes[0].AddPod(t.Context(), lab.PodOptions{Labels: map[string]string{"app": "web"}})
	must(t, err)
	questions := []dnsQuestion{
		{"web.default.svc.cluster.local.", qtypeOf(clusterIP), clusterIP},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", "0 100 80 web.default.svc.cluster.local."},
		{reverse(t, clusterIP), "PTR", "web.default.svc.cluster.local."},
		{"www.example.com.", "A", "192.0.2.80"},
		{"out.default.svc.cluster.local.", "A", "www.example.com. 192.0.2.80"},
		{"no.default.svc.cluster.local.", "A", "NXDOMAIN"},
	}
	for _, at := range backend.Addrs() {
		dashed := strings.NewReplacer(".", "-", ":", "-").Replace(at.String())
		questions = append(questions, dnsQuestion{"all.default.svc.cluster.local.", qtypeOf(at.String()), at.String()},
			dnsQuestion{dashed + ".default.pod.cluster.local.", qtypeOf(at.String()), at.String()},
			dnsQuestion{dashed + ".all.default.svc.cluster.local.", qtypeOf(at.String()), at.String()},
			dnsQuestion{reverse(t, at.String()), "PTR", dashed + ".all.default.svc.cluster.local."})
	}
	for i, p := range pods {
		told := p.Result().DNS
		servers := 1
		if options.Family == lab.DualStack {
			servers = 2
		}
		if want := []string{fmt.Sprintf("space%d.svc.cluster.local", i+1), "svc.cluster.local", "cluster.local"}; !slices.Equal(told.Search, want) || len(told.Nameservers) != servers {
			t.Errorf("%s was told %+v, want the search list %v, and %d name servers", p.Name, told, want, servers)
		}
		for _, q := range questions {
			within(t, enough, func() error { return wantName(t.Context(), p, q) })
		}
	}
	// A C library finds the way by itself, with the pod's own /etc/resolv.conf.
	for name, want := range map[string]string{"web.default": clusterIP, "web.default.svc": clusterIP} {
		out := twillctl(t, "lab", "exec", "--name", l.Name(), pods[1].Name, "--", "getent", "ahosts", name)
		out.wantOK(t)
		if !strings.HasPrefix(out.stdout, want+" ") {
			t.Errorf("%s in a pod is %q, want %s", name, out.stdout, want)
		}
	}
	all := dnsQuestion{"all.default.svc.cluster.local.", qtypeOf(backend.Addrs()[0].String()), "NXDOMAIN"}
	took := time.Now()
	must(t, backend.Delete(t.Context()))
	for _, p := range pods {
		within(t, time.Second, func() error { return wantName(t.Context(), p, all) })
	}
	t.Logf("a pod that was deleted had no name any more %v after the DEL began", time.Since(took))
	testIsolatedDNS(t, l, pods)
}

// testIsolatedDNS has policies keep a pod from its name server, which is its node, and let it ask again.
func testIsolatedDNS(t *testing.T, l *lab.Lab, pods []*lab.Pod) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	question := dnsQuestion{"www.example.com.", "A", "192.0.2.80"}
	for _, policy := range []struct {
		egress string
		open   bool
	}{{"[]", false}, {"[{ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}]", true}} {
		must(t, os.WriteFile(file, fmt.Appendf(nil, dnsPolicy, policy.egress), 0o600))
		twillctl(t, "apply", "-f", file, "--lab", l.Name()).wantOK(t)
		within(t, enough, func() error {
			err := wantName(t.Context(), pods[0], question)
			if open := err == nil; open != policy.open {
				return fmt.Errorf("with egress: %s the pod may ask: %t (%w)", policy.egress, open, err)
			}
			return nil
		})
		must(t, wantName(t.Context(), pods[1], question))
	}
}

const dnsPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: names, namespace: space1}
spec: {podSelector: {}, policyTypes: [Egress], egress: %s}
`

// dnsQuestion is a question with its answer.
type dnsQuestion struct{ name, qtype, want string }

// qtypeOf is the type of record that has such an address.
func qtypeOf(addr string) string {
	if strings.Contains(addr, ":") {
		return "AAAA"
	}
	return "A"
}

func reverse(t *testing.T, addr string) string {
	t.Helper()
	name, err := dns.ReverseAddr(addr)
	must(t, err)
	return name
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

// wantName asks each name server that the pod was told of, from inside the pod, by UDP and by TCP.
func wantName(ctx context.Context, p *lab.Pod, q dnsQuestion) error {
	told := p.Result().DNS.Nameservers
	if len(told) == 0 {
		return errors.New("the pod was told of no name server")
	}
	for _, server := range told {
		for _, network := range []string{"udp", "tcp"} {
			text, err := answer(ctx, p, network, net.JoinHostPort(server, "53"), q)
			if err != nil {
				return fmt.Errorf("%s %s by %s at %s: %w", q.name, q.qtype, network, server, err)
			}
			if text != q.want {
				return fmt.Errorf("%s %s by %s at %s: have %q, want %q", q.name, q.qtype, network, server, text, q.want)
			}
		}
	}
	return nil
}

// answer returns the data of the records of an answer, or why there are none.
func answer(ctx context.Context, p *lab.Pod, network, server string, q dnsQuestion) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := p.Netns().Dial(ctx, network, server)
	if err != nil {
		return "", err
	}
	client := &dns.Client{Net: network, Timeout: 2 * time.Second}
	resp, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(q.name, dns.StringToType[q.qtype]), &dns.Conn{Conn: conn})
	if err := errors.Join(err, conn.Close()); err != nil {
		return "", err
	}
	var have []string
	for _, rr := range resp.Answer {
		have = append(have, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if resp.Rcode != dns.RcodeSuccess {
		have = append(have, dns.RcodeToString[resp.Rcode])
	}
	return strings.Join(have, " "), nil
}
