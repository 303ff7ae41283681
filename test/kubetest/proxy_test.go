package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

// behind returns the manifests of a Service, which has the clusterIPs, with one endpoint.
func behind(v4, v6 string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  clusterIP: 10.96.0.80
  clusterIPs: [10.96.0.80, "fd00:96::80"]
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: ["%s"]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ["%s"]}]
`, v4, v6)
}

var (
	first  = behind("192.0.2.3", "2001:db8::3")
	second = behind("192.0.2.4", "2001:db8::4")
)

var clusterIPs = []string{"10.96.0.80:80", "[fd00:96::80]:80"}

func TestKubeProxyMakesAServiceReachable(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			c, node := proxied(t)
			must(t, c.Apply(t.Context(), first))
			begin := time.Now()
			p := StartKubeProxy(t, c, ProxyOptions{Node: "a", Namespace: node, Mode: mode})
			t.Logf("kube-proxy wrote its rules after %v", time.Since(begin).Round(time.Millisecond))
			for _, ip := range clusterIPs { // at once: it said that it is done
				must(t, reach(t.Context(), node, ip, "first"))
			}
			text, err := p.Metrics(t.Context())
			if err != nil || !strings.Contains(text, "kubeproxy_sync_proxy_rules_duration_seconds") {
				t.Errorf("the metrics are %v:\n%s", err, text)
			}
		})
	}
}

func TestKubeProxyFollowsAndOutlives(t *testing.T) {
	c, node := proxied(t)
	p := StartKubeProxy(t, c, ProxyOptions{Node: "a", Namespace: node, Config: "nftables: {minSyncPeriod: 10ms}"})
	begin := time.Now()
	must(t, c.Apply(t.Context(), first))
	until(t, node, "first", clusterIPs...)
	t.Logf("a new Service is reachable after %v", time.Since(begin).Round(time.Millisecond))

	p.Kill()
	must(t, reach(t.Context(), node, clusterIPs[0], "first")) // its rules stay
	must(t, c.Restart(t.Context()))
	must(t, c.Apply(t.Context(), second))
	must(t, p.Restart(t.Context()))
	until(t, node, "second", clusterIPs...)

	must(t, c.Restart(t.Context())) // kube-proxy connects again
	must(t, c.Apply(t.Context(), first))
	until(t, node, "first", clusterIPs...)
}

func TestKubeProxyFails(t *testing.T) {
	c := Start(t, Options{Addr: netip.MustParseAddr("127.0.0.1")})
	for name, config := range map[string]string{
		"an unknown mode":        "mode: nonsense",
		"no YAML":                "{",
		"a number as an address": "metricsBindAddress: 7",
	} {
		t.Run(name, func(t *testing.T) {
			p, err := c.LaunchKubeProxy(t.Context(), ProxyOptions{Node: "a", Config: config})
			if err == nil {
				p.Kill()
				t.Error("it started")
			}
		})
	}
}

// proxied makes a cluster with a node, whose namespace's file it returns, and two machines that answer on port 8080 with "first" and "second".
func proxied(t *testing.T) (*Cluster, string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatalf("kube-proxy needs nft (test/setup.sh installs it): %v", err)
	}
	network := peertest.NewSegment(t, "192.0.2.1/24", "2001:db8::1/64")
	node := network.Host("192.0.2.2/24", "2001:db8::2/64")
	serve(t, network.Host("192.0.2.3/24", "2001:db8::3/64").Namespace, "first")
	serve(t, network.Host("192.0.2.4/24", "2001:db8::4/64").Namespace, "second")
	// A packet to a ClusterIP needs a route until its address is changed.
	node.Run("ip", "route", "add", "default", "via", "192.0.2.1")
	node.Run("ip", "route", "add", "default", "via", "2001:db8::1")
	c := Start(t, Options{Addr: netip.MustParseAddr("192.0.2.1")})
	must(t, c.AddNode(t.Context(), Node{Name: "a", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")}}))
	return c, node.Namespace
}

// reach connects from a namespace and checks who answers.
func reach(ctx context.Context, namespace, address, want string) error {
	// Shorter than the second after which TCP would try again: a Service may come between.
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	var conn net.Conn
	err := inside(namespace, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err == nil && string(answer) != want {
		err = fmt.Errorf("%s: %q answers, not %q", address, answer, want)
	}
	return err
}

// until waits until all addresses lead to the server of that name.
func until(t *testing.T, namespace, want string, addresses ...string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		err = nil
		for _, address := range addresses {
			err = errors.Join(err, reach(t.Context(), namespace, address, want))
		}
		if err == nil {
			return
		}
	}
	t.Fatal(err)
}
