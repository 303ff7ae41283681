package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// hostTraces are what Twill could leave on a host. Forwarding stays on, as others may need it by then: so the host goes on to listen to what
// concerns IPv6 routers.
var hostTraces = map[string]string{
	"links":      "ip -o link show | cut -d' ' -f2- | sed 's/@if[0-9]*//; s/state.*//'",
	"addresses":  "ip -o addr show | sed 's/^[0-9]*: //; s/ *valid_lft.*//'",
	"routes":     "{ " + podTraces["routes"] + "; } | grep -v '^anycast '",
	"rules":      "ip -4 rule; ip -6 rule",
	"neighbours": podTraces["neighbours"],
	"fdb":        podTraces["fdb"] + " | grep -v '^33:33:'",
	"qdiscs":     podTraces["qdiscs"],
	"nftables":   "nft --stateless list ruleset",
	"namespaces": podTraces["namespaces"],
	"files":      "find /etc/cni /opt/cni /run/twill /run/flannel /var/lib/cni /var/lib/twill /etc/twill -type f -o -type s 2>/dev/null; :",
}

const taint = "twill-cni.github.io/agent-not-ready"

// TestChart installs the chart on nodes that join with a taint, and uninstalls it again: the hosts are as they were found.
func TestChart(t *testing.T) {
	for _, backend := range []string{"vxlan", "bgp"} {
		t.Run(backend, func(t *testing.T) { testChart(t, backend) })
	}
}

func testChart(t *testing.T, backend string) {
	r := bare(t, backend, kubetest.SiteOptions{Kubelet: impatient + "\nregisterWithTaints: [{key: " + taint + ", effect: NoSchedule}]"})
	before := r.tracesOf(t, hostTraces)
	const chart = "deploy/chart/twill"
	begin := time.Now()
	r.helm(t, append([]string{"install", "twill", repository(chart), "-n", namespace}, r.values("removeTaint=true")...)...)
	r.serving(t)
	t.Logf("rolled out after %v", since(begin))
	t.Run("taint", func(t *testing.T) {
		for _, m := range r.Machines {
			r.within(t, enough, func(ctx context.Context) error {
				n, err := r.node(ctx, m)
				if err == nil && strings.Contains(fmt.Sprint(n.Spec.Taints), taint) {
					err = fmt.Errorf("%s has the taints %v", m.Name(), n.Spec.Taints)
				}
				return err
			})
		}
		t.Logf("the taints are gone after %v", since(begin))
		r.run(t, server("scheduled", nil))
	})
	t.Run("condition", func(t *testing.T) { testCondition(t, r) })
	r.stand(t)
	must(t, r.reachable(t.Context()))
	p := server("port", r.Machines[0])
	container(p)["ports"] = []fields{{"containerPort": 8080, "hostPort": 8085}}
	r.run(t, p)
	r.serve(t, service("serving", "server", fields{"type": "NodePort"}))

	r.kubectl(t, "delete", "pods", "--all")
	r.helm(t, append([]string{"upgrade", "twill", repository(chart), "-n", namespace}, r.values("cleanup.enabled=true")...)...)
	begin = time.Now()
	r.rolledOut(t, "twill-cleanup")
	t.Logf("cleaned up after %v", since(begin))
	for _, m := range r.Machines {
		r.within(t, enough, func(ctx context.Context) error { return r.network(ctx, m, "True", "TwillIsRemoved") })
	}
	r.helm(t, "uninstall", "twill", "-n", namespace)
	r.restored(t, before, hostTraces)
	r.within(t, enough, func(ctx context.Context) error {
		out, err := r.Cluster.Kubectl(ctx, "get", "all,configmaps,clusterroles,clusterrolebindings,serviceaccounts", "-A", "-l", "app.kubernetes.io/name=twill", "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("left in the cluster: %s", out)
		}
		return err
	})
}
