//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// kubernetes is a real API server on the underlay, which knows the daemon by what deploy/twill.yaml allows it.
type kubernetes struct {
	*kubetest.Cluster
	t          testing.TB
	kubeconfig string
	netConf    string // file
}

// apiAddress is that of the API server.
const apiAddress = "192.0.2.254"

func newKubeCluster(t testing.TB, network string) *cluster {
	t.Helper()
	c := newUnderlay(t)
	c.net.ip("link set lo up")
	c.net.ip("addr add " + apiAddress + "/24 dev underlay")
	k := &kubernetes{t: t, netConf: filepath.Join(c.dir, "net-conf.json")}
	k.Cluster = kubetest.Start(t, kubetest.Options{
		Namespace: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.net.handle),
		Addr:      netip.MustParseAddr(apiAddress),
	})
	must(t, os.WriteFile(k.netConf, []byte(network), 0o644))
	k.allow()
	var err error
	k.kubeconfig, err = k.Kubeconfig("system:serviceaccount:kube-system:twill", "system:serviceaccounts", "system:serviceaccounts:kube-system")
	must(t, err)
	c.kube = k
	return c
}

// allow applies the rules of deploy/twill.yaml.
func (k *kubernetes) allow() {
	k.t.Helper()
	text, err := os.ReadFile("../../deploy/twill.yaml")
	must(k.t, err)
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		if strings.Contains(doc, "kind: ClusterRole") {
			must(k.t, k.Apply(k.t.Context(), doc))
		}
	}
}

func (k *kubernetes) flags() []string {
	return []string{"--datastore=kube", "--kubeconfig=" + k.kubeconfig, "--net-conf=" + k.netConf}
}

func (k *kubernetes) addNode(n *testNode, cidrs ...string) {
	k.t.Helper()
	node := kubetest.Node{Name: n.name, Addrs: []netip.Addr{netip.MustParseAddr(n.addr)}}
	for _, text := range cidrs {
		node.PodCIDRs = append(node.PodCIDRs, netip.MustParsePrefix(text))
	}
	must(k.t, k.AddNode(k.t.Context(), node))
}

// node returns a Node's annotations.
func (k *kubernetes) annotations(name string) map[string]string {
	k.t.Helper()
	out, err := k.Kubectl(k.t.Context(), "get", "node", name, "-o", "json")
	must(k.t, err)
	var node struct {
		Metadata struct{ Annotations map[string]string }
	}
	must(k.t, json.Unmarshal([]byte(out), &node))
	return node.Metadata.Annotations
}

// Two nodes that know each other from the Kubernetes API alone: they serve, an API server that is away for a while changes nothing, and a
// clean up takes back what a node has published.
func TestKubernetes(t *testing.T) {
	c := newKubeCluster(t, dualNetwork)
	a, b := c.addNode(), c.addNode()
	c.kube.addNode(a, "10.5.1.0/24", "fd00:5:0:1::/64")
	a.start()
	a.eventuallyReady()
	b.start()
	c.kube.addNode(b) // its subnets come later
	c.eventually("b says what it lacks", func() string {
		if _, body := b.get("/readyz"); !strings.Contains(body, "spec.podCIDRs has no IPv4 subnet") {
			return body
		}
		return ""
	})
	c.kube.addNode(b, "10.5.2.0/24", "fd00:5:0:2::/64")
	b.eventuallyReady()
	c.eventuallyReach(a, b)
	if have := c.kube.annotations(a.name); have["flannel.alpha.coreos.com/public-ip"] != a.addr || have["flannel.alpha.coreos.com/kube-subnet-manager"] != "true" ||
		!strings.Contains(have["flannel.alpha.coreos.com/backend-data"], "VtepMAC") {
		t.Errorf("a has published %v", have)
	}

	routes := a.ip("route") + a.ip("-6 route show proto 84") + a.fdb()
	c.kube.Kill()
	c.eventually("a knows that the API server is away", func() string {
		if code, body := a.get("/readyz"); code == 200 {
			return body
		}
		return ""
	})
	must(t, b.signal(syscall.SIGTERM))
	b.start() // it cannot know its subnets, and touches nothing
	if now := a.ip("route") + a.ip("-6 route show proto 84") + a.fdb(); now != routes {
		t.Errorf("an outage changed\n%s\nto\n%s", routes, now)
	}
	c.eventuallyReach(a, b)
	must(t, c.kube.Restart(t.Context()))
	a.eventuallyReady()
	b.eventuallyReady()
	if now := a.ip("route") + a.ip("-6 route show proto 84") + a.fdb(); now != routes {
		t.Errorf("the end of an outage changed\n%s\nto\n%s", routes, now)
	}

	must(t, b.signal(syscall.SIGTERM))
	if out := b.cleanup(); !strings.Contains(out, "removed lease 10.5.2.0/24 and fd00:5:0:2::/64") {
		t.Errorf("the clean up removed\n%s", out)
	}
	if have := c.kube.annotations(b.name); len(have) != 0 {
		t.Errorf("b has left %v", have)
	}
	_, err := c.kube.Kubectl(t.Context(), "delete", "node", b.name)
	must(t, err)
	c.eventually("a forgets b", func() string {
		if routes := a.ip("route show proto 84"); strings.Contains(routes, "10.5.2.0") {
			return routes
		}
		return ""
	})
}
