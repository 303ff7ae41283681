package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/test/kubetest"
)

// flannelRules is what flannel's own manifest (Documentation/kube-flannel.yml of v0.26.7) allows it.
const flannelRules = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{kind: ServiceAccount, name: flannel, namespace: kube-flannel}]
`

// kubeLab is a lab whose nodes, with twilld or with flanneld, know each other by a real Kubernetes API.
type kubeLab struct {
	*lab.Lab
	cluster          *kubetest.Cluster
	twilld, flanneld lab.NodeOptions // how a node is started with the one and with the other
	netConf          string          // file
}

// newKubeLab makes a cluster without nodes. Both daemons are known to the API server by what their manifests allow them.
func newKubeLab(t *testing.T, family lab.Family) *kubeLab {
	t.Helper()
	l := newLab(t, lab.Options{Family: family})
	must(t, l.Up(t.Context()))
	gateway, _ := l.UnderlayGateway()
	k := &kubeLab{Lab: l, cluster: kubetest.Start(t, kubetest.Options{Namespace: l.Underlay().Path(), Addr: gateway})}
	k.netConf = filepath.Join(t.TempDir(), "net-conf.json")
	must(t, os.WriteFile(k.netConf, networkConfig(family), 0o644))
	must(t, k.cluster.Apply(t.Context(), flannelRules))
	deployed, err := os.ReadFile("../../deploy/twill.yaml")
	must(t, err)
	for doc := range strings.SplitSeq(string(deployed), "\n---\n") {
		if strings.Contains(doc, "kind: ClusterRole") {
			must(t, k.cluster.Apply(t.Context(), doc))
		}
	}
	k.twilld = lab.NodeOptions{Args: []string{"--datastore=kube", "--net-conf=" + k.netConf, "--kubeconfig=" + k.account(t, "kube-system", "twill")}}
	script := filepath.Join(t.TempDir(), "flanneld")
	// The lab tells twilld the node's name and where the subnet file is to be, so that a node can change over from one to the other.
	must(t, os.WriteFile(script, fmt.Appendf(nil, `#!/bin/sh
for arg; do case $arg in --subnet-file=*) file=$arg;; --node-name=*) export NODE_NAME=${arg#*=};; esac; done
exec %s/flannel --kube-subnet-mgr --kubeconfig-file=%s --net-config-path=%s --iface=eth0 --ip-masq "$file"
`, peersDir, k.account(t, "kube-flannel", "flannel"), k.netConf), 0o755))
	k.flanneld = lab.NodeOptions{Program: script}
	return k
}

// account returns the kubeconfig file of a service account.
func (k *kubeLab) account(t *testing.T, namespace, name string) string {
	t.Helper()
	file, err := k.cluster.Kubeconfig("system:serviceaccount:"+namespace+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
	must(t, err)
	return file
}

// addNode makes a Node with subnets, and the node itself.
func (k *kubeLab) addNode(t *testing.T, options lab.NodeOptions) *lab.Node {
	t.Helper()
	number := len(k.Nodes()) + 1
	node := kubetest.Node{Name: fmt.Sprintf("node%d", number)}
	if k.Family().V4() {
		node.PodCIDRs = append(node.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", number)))
	}
	if k.Family().V6() {
		node.PodCIDRs = append(node.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", number)))
	}
	must(t, k.cluster.AddNode(t.Context(), node))
	// kubelet's: flanneld does not survive a Node without any annotation.
	_, err := k.cluster.Kubectl(t.Context(), "annotate", "node", node.Name, "volumes.kubernetes.io/controller-managed-attach-detach=true")
	must(t, err)
	options.Name = node.Name
	n, err := k.AddNode(t.Context(), options)
	must(t, err)
	if options.Program != "" {
		waitFlanneld(t, n, 0)
	} else {
		must(t, n.Ready(t.Context()))
	}
	return n
}

// move ends a node's daemon and starts another one in its place.
func (k *kubeLab) move(t *testing.T, n *lab.Node, to lab.NodeOptions) {
	t.Helper()
	log, err := n.DaemonLog()
	must(t, err)
	must(t, n.StopDaemon(t.Context()))
	must(t, n.SetDaemon(to))
	must(t, n.StartDaemon())
	if to.Program != "" {
		waitFlanneld(t, n, len(log))
	} else {
		must(t, n.Ready(t.Context()))
	}
}

// said returns flannel's annotations of all Nodes, which are what the nodes tell each other.
func (k *kubeLab) said(t *testing.T) map[string]map[string]string {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
		}
	}
	must(t, k.cluster.Get(t.Context(), "/api/v1/nodes", &list))
	all := map[string]map[string]string{}
	for _, n := range list.Items {
		all[n.Metadata.Name] = map[string]string{}
		for key, value := range n.Metadata.Annotations {
			var data any // keys of an object are in any order
			if json.Unmarshal([]byte(value), &data) == nil {
				text, err := json.Marshal(data)
				must(t, err)
				value = string(text)
			}
			if value != "null" { // flannel's word for none
				all[n.Metadata.Name][key] = value
			}
		}
	}
	return all
}

// Nodes with flanneld --kube-subnet-mgr and nodes with twilld --datastore=kube are one cluster.
func TestFlannelBesideInKubernetes(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			k := newKubeLab(t, family)
			var flannels []*lab.Node
			for range 2 {
				n := k.addNode(t, k.twilld)
				_, err := n.AddPod(t.Context(), lab.PodOptions{})
				must(t, err)
				n = k.addNode(t, k.flanneld)
				addFlannelPod(t, n)
				flannels = append(flannels, n)
			}
			within(t, enough, everybodyReaches(t, k.Lab))
			for _, n := range flannels {
				wantContent(t, n)
			}
		})
	}
}

// A cluster of flannel nodes moves to Twill node by node, in place, and back again. All pods talk to all others meanwhile: no packet is lost,
// pods and subnets and devices stay, and so does what the nodes say of themselves, so that no other node has to change anything.
func TestFlannelClusterMovesInKubernetes(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			k := newKubeLab(t, family)
			var pods []*lab.Pod
			for range 3 {
				pods = append(pods, addFlannelPod(t, k.addNode(t, k.flanneld)))
			}
			within(t, enough, everybodyReaches(t, k.Lab))
			links := []string{"flannel.1", "cni0"}
			if family.V6() {
				links = append(links, "flannel-v6.1")
			}
			env, index := map[string]map[string]string{}, map[string]string{}
			for _, n := range k.Nodes() {
				env[n.Name] = subnetEnv(t, n)
				for _, link := range links {
					index[n.Name+link] = ifindex(t, n, link)
				}
			}
			said := k.said(t)
			var streams []*load
			for _, from := range pods {
				for _, to := range pods {
					for _, a := range to.Addrs() {
						if from != to {
							streams = append(streams, startLoad(t, from, a, 10*time.Millisecond))
						}
					}
				}
			}
			same := func(n *lab.Node) {
				t.Helper()
				wantSameSubnets(t, env[n.Name], n)
				for _, link := range links {
					if now := ifindex(t, n, link); now != index[n.Name+link] {
						t.Errorf("%s of %s was made again: it was number %s, it is number %s", link, n.Name, index[n.Name+link], now)
					}
				}
				if diff := cmp.Diff(said, k.said(t)); diff != "" {
					t.Errorf("%s says something else (-before +after):\n%s", n.Name, diff)
				}
			}
			for _, n := range k.Nodes() {
				k.move(t, n, k.twilld)
				same(n)
				fresh, err := n.AddPod(t.Context(), lab.PodOptions{})
				must(t, err)
				for _, a := range fresh.Addrs() {
					if slices.Contains(n.Pods()[0].Addrs(), a) {
						t.Errorf("the new pod of %s got %v, which a pod of flannel's time has", n.Name, a)
					}
				}
				holds(t, 300*time.Millisecond, everybodyReaches(t, k.Lab))
			}
			wantMatrix(t, k.Lab)
			// Back again. host-local does not know of the pods that Twill's plugin attached, so they have to go before: as a drain does it.
			for _, n := range k.Nodes() {
				must(t, n.Pods()[1].Delete(t.Context()))
				k.move(t, n, k.flanneld)
				same(n)
				addFlannelPod(t, n)
				within(t, enough, everybodyReaches(t, k.Lab))
			}
			for _, s := range streams {
				s.endWhole(t)
			}
		})
	}
}
