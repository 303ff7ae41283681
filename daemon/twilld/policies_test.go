//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/record"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

const webPolicy = `{"metadata":{"name":"web","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"web"}},` +
	`"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"client"}}}],"ports":[{"protocol":"TCP","port":80}]}]}}`

// Policies are enforced by a daemon that has NET_ADMIN and no more; it says what becomes of a connection; a restart writes nothing; and nothing is left
// once they are switched off, or after a clean-up.
func TestPolicies(t *testing.T) {
	c := newCluster(t, dualNetwork)
	c.put("registry/networkpolicies/shop/web", webPolicy)
	n := c.addNode()
	n.contain(forVXLAN)
	n.start("--policy=on")
	n.eventuallyReady()
	if conf := n.read("net.d/10-twill.conflist"); !strings.Contains(conf, `"logGroup": 84`) {
		t.Errorf("the plugin does not hear of policies: %s", conf)
	}
	pod := n.recordsWeb()
	client := api.NewClient(n.file("run"))
	c.eventually("the pod's policy is in force", func() string {
		pods, err := client.PolicyPods(context.Background())
		if err != nil || len(pods) != 1 || !pods[0].Enforced || !cmp.Equal(pods[0].Ingress, []string{"shop/web"}) {
			return fmt.Sprintf("%+v, %v", pods, err)
		}
		return ""
	})
	verdict, err := client.Verdict(context.Background(), policy.Flow{Src: netip.MustParseAddr("10.99.0.1"), Dst: pod, Protocol: store.TCP, Port: 80})
	if err != nil || verdict.Allowed || verdict.Ingress.Answer != "refused" || !strings.HasPrefix(verdict.Kernel.Ingress, "ingress-") || !strings.Contains(verdict.Ingress.Reason, "shop/web") {
		t.Errorf("%+v, %v", verdict, err)
	}
	if differences, err := client.PolicyDifferences(context.Background()); err != nil || len(differences) > 0 {
		t.Errorf("%v, %v", differences, err)
	}
	noRefusal(t, n.log.String())
	before := n.nft("-s list table inet " + gate.TableName)

	must(t, n.signal(syscall.SIGTERM))
	n.start("--policy=on")
	n.eventuallyReady()
	if diff := cmp.Diff(before, n.nft("-s list table inet "+gate.TableName)); diff != "" || strings.Contains(n.log.String(), "table="+gate.TableName) {
		t.Errorf("a restart changes the table: %s", diff)
	}
	must(t, n.signal(syscall.SIGTERM))
	n.start()
	n.eventuallyReady()
	c.eventually("the table is gone", func() string {
		if tables := n.nft("list tables"); strings.Contains(tables, gate.TableName) {
			return tables
		}
		return ""
	})
	n.nft("add table inet " + gate.TableName) // somebody's daemon or plugin that ended late
	c.eventually("a table that comes later is gone, too", func() string {
		if tables := n.nft("list tables"); strings.Contains(tables, gate.TableName) {
			return tables
		}
		return ""
	})
	if conf := n.read("net.d/10-twill.conflist"); strings.Contains(conf, "logGroup") {
		t.Errorf("the plugin still waits for policies: %s", conf)
	}
	must(t, n.signal(syscall.SIGTERM))
	n.start("--policy=on")
	n.eventuallyReady()
	must(t, n.signal(syscall.SIGTERM))
	if out := n.cleanup(); !strings.Contains(out, "removed table "+gate.TableName) {
		t.Errorf("the table is not cleaned up: %s", out)
	}
	if left, _ := filepath.Glob(n.file("run/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// recordsWeb makes the record of a pod shop/web of this node, and returns the pod's address.
func (n *testNode) recordsWeb() netip.Addr {
	n.c.t.Helper()
	addr := netip.MustParseAddr(n.gateways()[0])
	for range 7 {
		addr = addr.Next()
	}
	entry, err := record.Open(n.file("run"), "twill").Begin(attach.Record{Network: "twill", ContainerID: "web", IfName: "eth0", Netns: fmt.Sprintf("/proc/%d/ns/net", os.Getpid()),
		Pod: "shop/web", Labels: map[string]string{"app": "web"}, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}})
	must(n.c.t, err)
	must(n.c.t, entry.Commit())
	entry.Close()
	return addr
}

// enforces has a connection cut and another one refused, of which the daemon hears; asks the daemon as the plugin does; and removes the table, which comes
// back.
func (n *testNode) enforces(client *testNode) {
	c := n.c
	c.t.Helper()
	pod := n.recordsWeb()
	send := func(port uint16) {
		conn, err := client.dial(context.Background(), "udp4", netip.AddrPortFrom(pod, port).String())
		must(c.t, err)
		_, _ = conn.Write([]byte("is it open?")) // nobody may be there
		_ = conn.Close()
	}
	mark := func() (marks []uint32) {
		n.do(func() error {
			return conntrack.Each(context.Background(), conntrack.Flows{Protocol: syscall.IPPROTO_UDP}, func() { marks = nil }, func(f conntrack.Flow) {
				if f.Dst == netip.AddrPortFrom(pod, 80) {
					marks = append(marks, f.Mark)
				}
			})
		})
		return marks
	}
	c.eventually("the pod is open", func() string {
		send(80)
		if marks := mark(); len(marks) == 0 || marks[0] != 0 {
			return fmt.Sprint(marks)
		}
		return ""
	})
	c.put("registry/networkpolicies/shop/web", webPolicy)
	c.eventually("the connection is cut", func() string {
		if marks := mark(); len(marks) == 0 || slices.Contains(marks, 0) {
			return fmt.Sprint(marks)
		}
		return ""
	})
	c.eventually("a packet is refused, and told", func() string {
		if send(81); !strings.Contains(n.log.String(), `"packet refused by policy" direction=ingress pod=shop/web`) {
			return n.log.String()
		}
		return ""
	})
	question := gate.Ask(gate.SocketPath(n.file("run")), gate.Request{ContainerID: "web", IfName: "eth0"})
	if !question.Ready(context.Background()) {
		c.t.Error("the plugin has no answer")
	}
	question.Close()
	n.nft("delete table inet " + gate.TableName)
	c.eventually("the table is back", func() string {
		if sets := n.nft("list sets inet") + n.nft("list maps inet"); !strings.Contains(sets, "shop/web") {
			return sets
		}
		return ""
	})
	must(c.t, record.Open(n.file("run"), "twill").Remove(kernel.PodOwner{ContainerID: "web", IfName: "eth0"}))
}

// Without br_netfilter, packets between pods of the node would not meet policies: the node says so, and no pod is attached, until it is loaded.
func TestPoliciesNeedBridgeNetfilter(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	n := c.addNode()
	dir := n.file("sys/net")
	must(t, os.MkdirAll(dir, 0o755))
	for _, part := range []string{"ipv4", "ipv6", "core", "netfilter"} {
		must(t, os.Symlink("/proc/sys/net/"+part, filepath.Join(dir, part)))
	}
	n.start("--policy=on", "--sysctl-dir="+n.file("sys"))
	n.eventuallyAmiss("modprobe br_netfilter", "keep pods of one node apart")
	if _, err := os.Stat(n.file("net.d/10-twill.conflist")); err == nil {
		t.Error("pods can be attached all the same")
	}
	must(t, os.Symlink("/proc/sys/net/bridge", filepath.Join(dir, "bridge")))
	n.eventuallyReady()
	if _, err := os.Stat(n.file("net.d/10-twill.conflist")); err != nil {
		t.Error(err)
	}
}

// Policies of the Kubernetes API, by the rights and with the variable that deploy/ gives: one that nobody understands does not keep the node from being ready, and is
// told by an Event of the node and a figure until it is mended.
func TestPolicyNotUnderstood(t *testing.T) {
	c := newKubeCluster(t, vxlanNetwork)
	text, err := os.ReadFile("../../deploy/kustomize/components/policy/patches.yaml")
	must(t, err)
	role, _, _ := strings.Cut(string(text), "\n---\n")
	must(t, c.kube.Apply(t.Context(), role))
	must(t, c.kube.Apply(t.Context(), `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: clusternetworkpolicies.policy.networking.k8s.io,
  annotations: {api-approved.kubernetes.io: unapproved}},
  spec: {group: policy.networking.k8s.io, scope: Cluster, names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies},
    versions: [{name: v1alpha2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`))
	_, err = c.kube.Kubectl(t.Context(), "wait", "--for=condition=Established", "crd/clusternetworkpolicies.policy.networking.k8s.io")
	must(t, err)
	policy := func(tier string) {
		must(t, c.kube.Apply(t.Context(), `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: later}, spec: {tier: `+tier+`, priority: 1, subject: {namespaces: {}},
  ingress: [{action: Accept, from: [{namespaces: {}}]}]}}`))
	}
	policy("Later")
	n := c.addNode()
	c.kube.addNode(n, "10.5.1.0/24")
	t.Setenv("TWILLD_POLICY", "on")
	n.start()
	n.eventuallyReady()
	figure := func(want string) {
		t.Helper()
		c.eventually("the figure", func() string {
			if _, body := n.get("/metrics"); !strings.Contains(body, "\ntwill_policy_flawed_objects "+want+"\n") {
				return body
			}
			return ""
		})
	}
	says := func(parts ...string) {
		t.Helper()
		must(t, c.kube.Await(t.Context(), "the node's Events", func(ctx context.Context) error {
			out, err := c.kube.Kubectl(ctx, "describe", "node", n.name)
			for _, part := range parts {
				if err == nil && !strings.Contains(out, part) {
					err = fmt.Errorf("no %q in\n%s", part, out)
				}
			}
			return err
		}))
	}
	figure("1")
	says(store.ReasonPolicyFlawed, "clusternetworkpolicies/later: it has no effect", "neither Admin nor Baseline")
	policy("Admin")
	figure("0")
	says("NetworkReady")
	if code, body := n.get("/readyz"); code != http.StatusOK {
		t.Error(body)
	}
	if log := n.log.String(); strings.Count(log, "object=clusternetworkpolicies/later err=") != 1 || !strings.Contains(log, `msg="policy is understood, or gone"`) {
		t.Error(log)
	}
}
