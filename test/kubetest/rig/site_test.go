package rig

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// TestSite runs Pods on two machines, with reference plugins for their network.
func TestSite(t *testing.T) {
	begin := time.Now()
	s := kubetest.StartSite(t, kubetest.SiteOptions{})
	t.Logf("kubelets are healthy after %v", time.Since(begin).Round(time.Millisecond))
	connect(t, s)
	t.Logf("the Nodes are Ready after %v", time.Since(begin).Round(time.Millisecond))

	begin = time.Now()
	must(t, s.Cluster.Apply(t.Context(), pod("server", s.Machines[0], "[netexec]")+"---"+pod("client", s.Machines[1], "[pause]")))
	server := running(t, s, "server", "client")[0]
	t.Logf("two Pods run after %v", time.Since(begin).Round(time.Millisecond))

	t.Run("exec, between machines", func(t *testing.T) {
		if len(server) != 2 {
			t.Fatalf("the Pod has the addresses %v", server)
		}
		for _, ip := range server {
			url := "http://" + net.JoinHostPort(ip.String(), "8080") + "/hostname"
			out, err := s.Cluster.Kubectl(t.Context(), "exec", "client", "--", "curl", "-sS", "--max-time", "5", "--retry", "5", "--retry-connrefused", url)
			if err != nil || out != "server" {
				t.Errorf("%v answers %q, %v", ip, out, err)
			}
		}
	})
	t.Run("logs", func(t *testing.T) {
		out, err := s.Cluster.Kubectl(t.Context(), "logs", "server")
		if err != nil || !strings.Contains(out, "Started HTTP server") {
			t.Errorf("got %q, %v", out, err)
		}
	})
}
