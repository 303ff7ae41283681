package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
	"github.com/twill-cni/twill/test/kubetest"
)

// implementation is who serves Services.
type implementation string

const (
	twill     implementation = "twilld"
	kubeProxy implementation = "kube-proxy"
)

// rig is a cluster of two nodes with a real API server, and machines around it.
type rig struct {
	*kubetest.Cluster
	kind     implementation
	lab      *lab.Lab
	machines map[string]*machine
}

// machine is a network namespace from which a probe can be sent.
type machine struct {
	name  string
	ns    netns.Namespace
	addrs map[bool]netip.Addr // by: is IPv6
	queue chan func()
	node  *lab.Node // nil: it is none

	asked, waited atomic.Int64 // questions, and those whose answer took nearly a second: the first packet was lost
}

// The nodes, their pods, and the machines outside of the cluster, each of which sends everything through one of the nodes.
var (
	nodeNames = []string{"node1", "node2"}
	podNames  = map[string][]string{"node1": {"a", "b"}, "node2": {"c", "d"}}
	outside   = map[string]string{"out1": "node1", "out2": "node2"}
)

// nodePorts selects the addresses of node2 at which node ports answer: its second one, too. On node1 it is the default: the primary address of each family.
const nodePorts = `nodePortAddresses: [primary, 172.30.77.0/24]`

// patience is for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

// newRig makes a rig, which ends with the test.
func newRig(t *testing.T, kind implementation) *rig {
	t.Helper()
	l := harness.NewLab(t, lab.Options{Name: harness.Unique(runName), BinDir: binDir, Family: lab.DualStack})
	must(t, l.Up(t.Context()))
	gateway, _ := l.UnderlayGateway()
	r := &rig{kind: kind, lab: l, machines: map[string]*machine{}}
	r.Cluster = kubetest.Start(t, kubetest.Options{Namespace: l.Underlay().Path(), Addr: gateway})
	for _, name := range nodeNames {
		r.addNode(t, name)
	}
	for _, n := range l.Nodes() {
		must(t, n.Ready(t.Context()))
		for _, name := range podNames[n.Name] {
			p, err := n.AddPod(t.Context(), lab.PodOptions{Name: name})
			must(t, err)
			r.addMachine(t, name, p.Netns(), p.Addrs())
		}
		if kind == kubeProxy {
			kubetest.StartKubeProxy(t, r.Cluster, kubetest.ProxyOptions{Node: n.Name, Namespace: n.Netns().Path(), Config: r.proxyConfig(n.Name)})
		}
		// A zone that kube-proxy 1.37 finds when it starts may be lost on it: its informer of nodes can tell it before anybody listens
		// (NewNodeTopologyConfig and RegisterEventHandler in pkg/proxy/config). It notices a zone that is new.
		must(t, r.AddNode(t.Context(), kubetest.Node{Name: n.Name, Addrs: n.Addrs(),
			Labels: map[string]string{"topology.kubernetes.io/zone": "zone-" + n.Name, "kubernetes.io/hostname": n.Name}}))
	}
	number := 0
	for name, by := range outside {
		number++
		r.addOutside(t, name, by, number)
	}
	r.makeWorld(t)
	return r
}

// addNode makes a node, its daemon and its Node object. The node has a second address, which is not primary.
func (r *rig) addNode(t *testing.T, name string) {
	t.Helper()
	args := []string{"--proxy=off"}
	if r.kind == twill {
		args = []string{"--proxy=nftables", "--kubeconfig=" + r.Admin()}
		if config := r.proxyConfig(name); config != "" {
			file := filepath.Join(t.TempDir(), "proxy.yaml")
			text := "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n" + config
			must(t, os.WriteFile(file, []byte(text), 0o600))
			args = append(args, "--proxy-config="+file)
		}
	}
	n, err := r.lab.AddNode(t.Context(), lab.NodeOptions{Name: name, Args: args})
	must(t, err)
	must(t, r.AddNode(t.Context(), kubetest.Node{Name: name, Addrs: n.Addrs(), Labels: map[string]string{"kubernetes.io/hostname": name}}))
	r.addMachine(t, name, n.Netns(), n.Addrs()).node = n
	// ICMP messages that refuse a packet are limited, to a thousand a second of all and one a second to each machine, after the first six.
	sh(t, n.Netns(), "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000 net.ipv6.icmp.ratelimit=0")
	second := n.Addrs()[0].As4()
	second[2] = 77
	sh(t, n.Netns(), fmt.Sprintf("ip addr add %v/16 dev eth0 noprefixroute", netip.AddrFrom4(second)))
}

// proxyConfig returns what is not the default in the proxy's configuration of a node.
func (r *rig) proxyConfig(node string) string {
	config := ""
	if r.kind == kubeProxy {
		config = "clusterCIDR: 10.244.0.0/16,fd00:244::/48\nnftables: {minSyncPeriod: 10ms}\n"
	}
	if node == "node2" {
		config += nodePorts
	}
	return config
}

// addMachine lists a namespace as a machine, and has threads in it that work off its queue.
func (r *rig) addMachine(t *testing.T, name string, ns netns.Namespace, addrs []netip.Addr) *machine {
	t.Helper()
	m := &machine{name: name, ns: ns, addrs: map[bool]netip.Addr{}, queue: make(chan func())}
	for _, a := range addrs {
		m.addrs[a.Is6()] = a
	}
	r.machines[name] = m
	const threads = 8 // each waits most of the time, for packets that do not come
	for range threads {
		go m.work()
	}
	t.Cleanup(func() { close(m.queue) })
	return m
}

// work does what comes through the queue, in the namespace. Its thread ends with it.
func (m *machine) work() {
	_ = m.ns.Do(func() error {
		for f := range m.queue {
			f()
		}
		return nil
	})
}

// addOutside makes a machine on the underlay that sends everything to a node.
func (r *rig) addOutside(t *testing.T, name, by string, number int) {
	t.Helper()
	ns, err := netns.Create(r.lab.Name() + "-" + name)
	must(t, err)
	t.Cleanup(func() { must(t, ns.Remove()) })
	v4, v6 := netip.AddrFrom4([4]byte{172, 30, 200, byte(number)}), netip.MustParseAddr(fmt.Sprintf("fd00:30::c8:%d", number))
	router := r.machines[by]
	// A node that sends a packet back where it came from tells its sender of the shorter way, which would lead past the node.
	sh(t, router.ns, "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0")
	sh(t, r.lab.Underlay(), fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s; ip link set %s master br0 up", name, ns.Name(), name))
	sh(t, ns, strings.NewReplacer("V4", v4.String(), "V6", v6.String(), "BY4", router.addrs[false].String(), "BY6", router.addrs[true].String()).Replace(
		`sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.eth0.accept_redirects=0 net.ipv6.conf.eth0.accept_redirects=0
		ip link set lo up; ip link set eth0 up; ip addr add V4/16 dev eth0; ip addr add V6/64 dev eth0 nodad
		ip route add default via BY4; ip route add default via BY6`))
	// What the world answers comes back by the node, too.
	sh(t, r.lab.Underlay(), fmt.Sprintf("ip route add %v via %v; ip route add %v via %v", v4, router.addrs[false], v6, router.addrs[true]))
	r.addMachine(t, name, ns, []netip.Addr{v4, v6})
}
