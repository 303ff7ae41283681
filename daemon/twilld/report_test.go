//go:build linux

package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/twill-cni/twill/store"
)

// What Kubernetes is told by a node that is tainted, one that lacks its subnets, and one that is cleaned up.
func TestKubernetesIsTold(t *testing.T) {
	c := newKubeCluster(t, dualNetwork)
	a, b := c.addNode(), c.addNode()
	c.kube.addNode(a, "10.5.1.0/24", "fd00:5:0:1::/64")
	c.kube.addNode(b)
	for _, n := range []*testNode{a, b} {
		_, err := c.kube.Kubectl(t.Context(), "taint", "node", n.name, "twill-cni.github.io/agent-not-ready=:NoSchedule")
		must(t, err)
	}
	must(t, c.kube.Apply(t.Context(), `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: taints}, rules: [{apiGroups: [""], resources: [nodes], verbs: [patch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: taints}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: taints},
  subjects: [{kind: ServiceAccount, name: twill, namespace: kube-system}]}`)) // removeTaint: true of the chart
	describe := func(n *testNode) string {
		out, err := c.kube.Kubectl(t.Context(), "describe", "node", n.name)
		must(t, err)
		return out
	}
	says := func(n *testNode, want string) {
		t.Helper()
		c.eventually(n.name+" says "+want, func() string {
			if text := describe(n); !strings.Contains(text, want) {
				return text
			}
			return ""
		})
	}
	b.start()
	a.start()
	says(a, "TwillIsUp")
	says(a, "Taints:             <none>")
	says(b, store.ReasonPodCIDRMissing)
	if text := describe(b); strings.Contains(text, "TwillIsUp") || !strings.Contains(text, "agent-not-ready") {
		t.Errorf("pods may come to a node without subnets:\n%s", text)
	}
	c.kube.addNode(b, "10.5.2.0/24", "fd00:5:0:2::/64")
	says(b, "TwillIsUp")
	says(b, "NetworkReady")

	must(t, a.signal(syscall.SIGTERM))
	a.cleanup()
	says(a, "TwillIsRemoved")
}
