package e2e

import (
	stdcmp "cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/matrix"
	"github.com/twill-cni/twill/ctl/ping"
)

// flanneld says how a node runs the real flanneld where it would run twilld: a script that passes twilld's arguments over. Everything of
// the lab that is about the daemon's process (start, kill, log) works with it.
func flanneld(t *testing.T, l *lab.Lab) lab.NodeOptions {
	t.Helper()
	script := filepath.Join(t.TempDir(), "flanneld")
	// The subnet file is where the lab tells twilld to have it, so that a node can change over from one to the other.
	text := fmt.Sprintf(`#!/bin/sh
for arg; do case $arg in --subnet-file=*) file=$arg;; esac; done
exec %s/flannel -etcd-endpoints=%s -etcd-prefix=%s -iface=eth0 -ip-masq "$file"
`, peersDir, strings.Join(l.Etcd().Endpoints(), ","), lab.EtcdPrefix)
	must(t, os.WriteFile(script, []byte(text), 0o755))
	return lab.NodeOptions{Program: script}
}

// waitFlanneld waits until the flanneld that was started last runs its backend. from is how long the node's log was before it started.
func waitFlanneld(t *testing.T, n *lab.Node, from int) {
	t.Helper()
	within(t, enough, func() error {
		log, err := n.DaemonLog()
		if err != nil {
			return err
		}
		if !n.DaemonRunning() {
			t.Fatalf("flanneld on %s has ended:\n%s", n.Name, log)
		}
		if !strings.Contains(log[from:], "Running backend") {
			return fmt.Errorf("flanneld on %s does not run its backend:\n%s", n.Name, log[from:])
		}
		return nil
	})
}

// addFlannelNode adds a node that runs flanneld.
func addFlannelNode(t *testing.T, l *lab.Lab) *lab.Node {
	t.Helper()
	n, err := l.AddNode(t.Context(), flanneld(t, l))
	must(t, err)
	waitFlanneld(t, n, 0)
	return n
}

// subnetEnv reads the node's subnet file.
func subnetEnv(t *testing.T, n *lab.Node) map[string]string {
	t.Helper()
	text, err := os.ReadFile(n.SubnetFile())
	must(t, err)
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			t.Fatalf("%s: %q is no KEY=value", n.SubnetFile(), line)
		}
		env[key] = value
	}
	return env
}

// addFlannelPod attaches a pod with the reference plugins bridge and host-local, configured as flannel's own plugin does from subnet.env.
func addFlannelPod(t *testing.T, n *lab.Node) *lab.Pod {
	t.Helper()
	env := subnetEnv(t, n)
	var mtu int
	_, err := fmt.Sscan(env["FLANNEL_MTU"], &mtu)
	must(t, err)
	var ranges []any
	for _, key := range []string{"FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"} {
		if env[key] == "" {
			continue
		}
		subnet, err := netip.ParsePrefix(env[key])
		must(t, err)
		ranges = append(ranges, []any{map[string]any{"subnet": subnet.Masked().String()}})
	}
	conflist, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "cbr0",
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": "cni0", "mtu": mtu, "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
			"ipam": map[string]any{"type": "host-local", "dataDir": n.HostLocalDir(),
				"ranges": ranges},
		}},
	})
	must(t, err)
	p, err := n.AddPod(t.Context(), lab.PodOptions{ConfList: conflist, BinDirs: []string{peersDir}})
	must(t, err)
	return p
}

// everybodyReaches returns an error while somebody does not reach somebody. It is for clusters with flanneld in them, which says that it
// is ready before it knows its peers; Twill alone is held to wantMatrix.
func everybodyReaches(t *testing.T, l *lab.Lab) func() error {
	return func() error {
		report, err := matrix.Run(t.Context(), l, ping.Options{Count: 1, Timeout: time.Second})
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range report.Probes {
			if !p.OK() {
				errs = append(errs, fmt.Errorf("%s: %s does not reach %s at %v: %s", p.Kind, p.From, p.To, p.Address, p.Error))
			}
		}
		if report.Total == 0 {
			errs = append(errs, errors.New("the lab has no pods to ask"))
		}
		return errors.Join(errs...)
	}
}

// complaint is a line of klog at level error or fatal.
var complaint = regexp.MustCompile(`(?m)^[EF]\d{4} .*$`)

// wantContent checks that flanneld had nothing to complain of.
func wantContent(t *testing.T, n *lab.Node) {
	t.Helper()
	log, err := n.DaemonLog()
	must(t, err)
	for _, line := range complaint.FindAllString(log, -1) {
		t.Errorf("flanneld on %s: %s", n.Name, line)
	}
}

// Two nodes with flanneld and two with twilld under one prefix are one cluster, whichever options it has. IPv6 alone is not among them:
// flanneld finds its own lease in etcd by the IPv4 address alone, so without one all its nodes take the same lease.
func TestFlannelBeside(t *testing.T) {
	tests := []struct {
		name    string
		family  lab.Family
		backend string
		device  string // by which Twill sends to flannel
	}{
		{name: "IPv4", family: lab.IPv4, device: "flannel.1"},
		{name: "dual stack", family: lab.DualStack, device: "flannel.1"},
		{name: "VNI and port", family: lab.DualStack, backend: `{"VNI":77,"Port":4789}`, device: "flannel.77"},
		{name: "DirectRouting", family: lab.DualStack, backend: `{"DirectRouting":true}`, device: "eth0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1, Family: test.family, BackendConfig: json.RawMessage(stdcmp.Or(test.backend, "{}"))})
			twills := l.Nodes()
			var flannels []*lab.Node
			for range 2 {
				n := addFlannelNode(t, l)
				addFlannelPod(t, n)
				flannels = append(flannels, n)
			}
			within(t, enough, everybodyReaches(t, l))
			wantMatrix(t, l)
			for _, n := range flannels {
				wantContent(t, n)
			}
			checkPath(t, twills[0], addr(t, flannels[0].Pods()[0], test.family == lab.IPv6), test.device)
		})
	}
}

// checkPath checks by which device a node sends to a pod, and how that device was made.
func checkPath(t *testing.T, n *lab.Node, to netip.Addr, device string) {
	t.Helper()
	route := sh(t, n.Netns(), "ip route get "+to.String())
	if !strings.Contains(route, " dev "+device+" ") {
		t.Errorf("%s sends to %v by %q, want %s", n.Name, to, route, device)
	}
	if device == "flannel.77" {
		if link := sh(t, n.Netns(), "ip -d link show "+device); !strings.Contains(link, "vxlan id 77 ") || !strings.Contains(link, "dstport 4789 ") {
			t.Errorf("%s: %s", n.Name, link)
		}
	}
}

// ifindex returns the number that the kernel gave the link when it was made.
func ifindex(t *testing.T, n *lab.Node, link string) string {
	t.Helper()
	index, _, _ := strings.Cut(sh(t, n.Netns(), "ip -o link show "+link), ":")
	return index
}

// stranger stores the lease of a node that does not exist, and returns its key.
func stranger(t *testing.T, l *lab.Lab) (key string) {
	t.Helper()
	client, err := l.Etcd().Client()
	must(t, err)
	key = lab.EtcdPrefix + "/subnets/10.244.250.0-24&fd00:244:0:fa::-64"
	value := `{"PublicIP":"172.30.200.9","PublicIPv6":"fd00:30::200:9","BackendType":"vxlan",` +
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:99:04"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:99:06"}}`
	_, err = client.Put(t.Context(), key, value)
	must(t, err)
	return key
}

// knowsStranger lists what the node's kernel holds for the node that does not exist.
func knowsStranger(t *testing.T, n *lab.Node) string {
	t.Helper()
	return sh(t, n.Netns(), `{ ip route; ip -6 route; ip neigh show nud permanent; ip -6 neigh show nud permanent; bridge fdb; } |
		grep -E '10\.244\.250\.0|fd00:244:0:fa:|02:00:00:00:99:0[46]' || true`)
}

// wantSameSubnets checks that the subnet file says what it said. The MTU may differ: in dual stack, flanneld's is too large for what it
// sends over IPv6, and Twill's is not.
func wantSameSubnets(t *testing.T, before map[string]string, n *lab.Node) {
	t.Helper()
	except := cmpopts.IgnoreMapEntries(func(key, _ string) bool { return key == "FLANNEL_MTU" })
	if diff := cmp.Diff(before, subnetEnv(t, n), except); diff != "" {
		t.Errorf("%s has other subnets (-before +after):\n%s", n.Name, diff)
	}
}

// A node changes over from flanneld to twilld and back while everybody talks to everybody: no packet is lost, the VXLAN devices and the
// subnets stay, and Twill removes what flanneld does not know any more.
func TestFlannelNodeMovesInPlace(t *testing.T) {
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1, Family: lab.DualStack})
	moving, staying := addFlannelNode(t, l), addFlannelNode(t, l)
	old := addFlannelPod(t, moving)
	pods := []*lab.Pod{l.Nodes()[0].Pods()[0], addFlannelPod(t, staying), addFlannelPod(t, moving)}
	key := stranger(t, l)
	within(t, enough, everybodyReaches(t, l))
	within(t, enough, func() error {
		if have := knowsStranger(t, moving); strings.Count(have, "\n") < 6 {
			return fmt.Errorf("flanneld knows of the stranger only %q", have)
		}
		return nil
	})
	env, links := subnetEnv(t, moving), []string{ifindex(t, moving, "flannel.1"), ifindex(t, moving, "flannel-v6.1"), ifindex(t, moving, "cni0")}
	streams := crossStreams(t, old, pods)

	must(t, moving.KillDaemon(t.Context()))
	client, err := l.Etcd().Client()
	must(t, err)
	_, err = client.Delete(t.Context(), key) // flanneld will never hear of it
	must(t, err)
	must(t, moving.SetDaemon(lab.NodeOptions{}))
	must(t, moving.StartDaemon())
	must(t, moving.Ready(t.Context()))
	if left := knowsStranger(t, moving); left != "" {
		t.Errorf("ready, and what flanneld left of a node that is gone is still there:\n%s", left)
	}
	same := func(who string) {
		t.Helper()
		wantSameSubnets(t, env, moving)
		for i, link := range []string{"flannel.1", "flannel-v6.1", "cni0"} {
			if now := ifindex(t, moving, link); now != links[i] {
				t.Errorf("%s made %s again: it was number %s, it is number %s", who, link, links[i], now)
			}
		}
	}
	same("twilld")

	// A new pod comes by Twill's plugin to the bridge and the subnet that the old ones are in.
	fresh, err := moving.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	for _, a := range fresh.Addrs() {
		for _, p := range moving.Pods() {
			if p != fresh && slices.Contains(p.Addrs(), a) {
				t.Errorf("the new pod got %v, which %s from flannel's time has", a, p.Name)
			}
		}
	}
	holds(t, time.Second, everybodyReaches(t, l))
	must(t, fresh.Delete(t.Context()))

	log, err := moving.DaemonLog()
	must(t, err)
	must(t, moving.KillDaemon(t.Context()))
	must(t, moving.SetDaemon(flanneld(t, l)))
	must(t, moving.StartDaemon())
	waitFlanneld(t, moving, len(log))
	same("flanneld")
	holds(t, time.Second, everybodyReaches(t, l)) // whatever it does to what it found
	for _, s := range streams {
		s.endWhole(t)
	}
	wantContent(t, moving)
	wantContent(t, staying)
}

// crossStreams starts streams of echo requests between a pod and others, both ways, in both families.
func crossStreams(t *testing.T, one *lab.Pod, others []*lab.Pod) []*load {
	t.Helper()
	var streams []*load
	for _, other := range others {
		for _, v6 := range []bool{false, true} {
			streams = append(streams, startLoad(t, one, addr(t, other, v6), 20*time.Millisecond),
				startLoad(t, other, addr(t, one, v6), 20*time.Millisecond))
		}
	}
	return streams
}

// A lease belongs to a public address: whatever wrote it, and with no file left on the node, the node takes it back.
func TestFlannelLeaseIsTakenOver(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1, Family: lab.DualStack})
	n := addFlannelNode(t, l)
	env := subnetEnv(t, n)
	before := leases(t, l)
	must(t, n.KillDaemon(t.Context()))
	must(t, os.Remove(n.SubnetFile()))
	sh(t, n.Netns(), "ip link del flannel.1; ip link del flannel-v6.1") // a reboot
	must(t, n.SetDaemon(lab.NodeOptions{}))
	for range 2 { // the second time it is Twill's own
		must(t, n.StartDaemon())
		must(t, n.Ready(t.Context()))
		wantSameSubnets(t, env, n)
		if now := leases(t, l); len(now) != len(before) {
			t.Errorf("there were %d leases, there are %d: %v", len(before), len(now), now)
		}
		must(t, n.StopDaemon(t.Context()))
	}
	must(t, n.StartDaemon())
	must(t, n.Ready(t.Context()))
	_, err := n.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	wantMatrix(t, l)
}

// leases returns the values below subnets/ by key, and checks that each has an etcd lease, without which it would stay for ever.
func leases(t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	client, err := l.Etcd().Client()
	must(t, err)
	response, err := client.Get(t.Context(), lab.EtcdPrefix+"/subnets/", clientv3.WithPrefix())
	must(t, err)
	values := map[string]string{}
	for _, kv := range response.Kvs {
		values[string(kv.Key)] = string(kv.Value)
		if kv.Lease == 0 {
			t.Errorf("%s has no etcd lease", kv.Key)
		}
	}
	return values
}
