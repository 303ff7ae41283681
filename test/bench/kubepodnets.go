package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

const (
	cniPrograms  = "/opt/cni/bin"
	cniConfigs   = "/etc/cni/net.d"
	cniTimed     = "/opt/cni/timed" // where the plugins are that are timed
	cniTimes     = "/run/bench-cni-times"
	flannelFile  = "/run/flannel/subnet.env"
	flannelPlace = "/opt/flannel"
)

// nodeNetwork is what gives a machine's Pods a network.
type nodeNetwork struct {
	machine   *kubetest.Machine
	before    func(context.Context) error // what an operator does on a new Node first
	daemonSet string                      // manifest
	after     func(context.Context) error // what else is needed until the Node is Ready
	end       func()                      // ends what before started
	plugins   []string                    // whom the runtime executes, in this order
	state     string                      // more lines of shell that list what is there for Pods
	known     map[string]int              // lines of the machine's state that remember has seen
}

// twillNetwork is what deploy/twill.yaml says, on this machine alone.
func (w *podWorld) twillNetwork(ctx context.Context, m *kubetest.Machine) (nodeNetwork, error) {
	text, err := os.ReadFile("deploy/twill.yaml")
	if err != nil {
		return nodeNetwork{}, err
	}
	const anywhere = "kubernetes.io/os: linux"
	if strings.Count(string(text), anywhere) != 1 {
		return nodeNetwork{}, fmt.Errorf("deploy/twill.yaml does not say once where the DaemonSet goes: %s", anywhere)
	}
	// There is no kube-proxy that would serve the Service "kubernetes".
	manifests := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twill-api-server, namespace: kube-system}\ndata: {address: %q}\n",
		net.JoinHostPort(w.site.Control.Addrs[0].String(), "6443"))
	n := nodeNetwork{machine: m, plugins: []string{"twill"}, end: func() {},
		state: "ls /run/twill/ipam/twill/addresses /run/twill/attachments/twill"}
	for document := range strings.SplitSeq(strings.Replace(string(text), anywhere, "kubernetes.io/hostname: "+m.Name(), 1), "\n---\n") {
		if strings.Contains(document, "\nkind: DaemonSet\n") {
			n.daemonSet = document
		} else {
			manifests += "\n---\n" + document
		}
	}
	n.before = func(ctx context.Context) error { return nil }
	n.after = n.before
	return n, w.site.Cluster.Apply(ctx, manifests)
}

// flannelDaemonSet runs flanneld with the rights and the arguments that Documentation/kube-flannel.yml of flannel gives it. It is not in an
// image but on the machine, which the container looks like.
const flannelDaemonSet = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: flannel, namespace: kube-system, labels: {app: flannel}}
spec:
  selector: {matchLabels: {app: flannel}}
  template:
    metadata: {labels: {app: flannel}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %s}
      hostNetwork: true
      priorityClassName: system-node-critical
      tolerations: [{operator: Exists}]
      containers:
      - name: flanneld
        image: %s
        command: [chroot, /host, /opt/flannel/flannel, --ip-masq, --kube-subnet-mgr, --kubeconfig-file=/opt/flannel/kubeconfig, --net-config-path=/opt/flannel/net-conf.json]
        env: [{name: NODE_NAME, value: %[1]s}, {name: PATH, value: "/usr/sbin:/usr/bin:/sbin:/bin"}]
        securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}
        volumeMounts: [{name: host, mountPath: /host}]
      volumes: [{name: host, hostPath: {path: /}}]
`

// flannelNetwork is flanneld, the reference plugins as flannel's own plugin delegates to them, and kube-proxy.
func (w *podWorld) flannelNetwork(_ context.Context, m *kubetest.Machine) (nodeNetwork, error) {
	account, err := w.site.Cluster.Kubeconfig("flannel", "system:masters")
	if err != nil {
		return nodeNetwork{}, err
	}
	kubeconfig, err := os.ReadFile(account)
	if err != nil {
		return nodeNetwork{}, err
	}
	n := nodeNetwork{machine: m, plugins: []string{"bridge", "portmap"}, state: "ls /var/lib/cni/networks/cbr0",
		daemonSet: fmt.Sprintf(flannelDaemonSet, m.Name(), kubetest.BusyboxImage)}
	var proxy *kubetest.KubeProxy
	n.end = func() {
		if proxy != nil {
			proxy.Kill()
		}
	}
	n.before = func(ctx context.Context) error {
		err := errors.Join(
			m.Install(cniPrograms, w.peer("bridge"), w.peer("host-local"), w.peer("portmap")), m.Install(flannelPlace, w.peer("flannel")),
			m.Write(flannelPlace+"/kubeconfig", string(kubeconfig)),
			m.Write(flannelPlace+"/net-conf.json", `{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}`),
		)
		if err != nil {
			return err
		}
		proxy, err = w.site.Cluster.LaunchKubeProxy(ctx, kubetest.ProxyOptions{Node: m.Name(), Namespace: m.Namespace(), Config: "clusterCIDR: 10.244.0.0/16"})
		return err
	}
	n.after = func(ctx context.Context) error {
		var list string
		err := w.site.Cluster.Await(ctx, flannelFile, func(context.Context) (err error) {
			list, err = delegated(m.File(flannelFile))
			return err
		})
		if err != nil {
			return err
		}
		return m.Write(cniConfigs+"/10-flannel.conflist", list)
	}
	return n, nil
}

// delegated returns the conflist of Documentation/kube-flannel.yml with, in place of flannel's plugin, what that one makes of a subnet file
// (cmdAdd in flannel_linux.go of flannel-io/cni-plugin).
func delegated(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[key] = value
	}
	subnet, err1 := netip.ParsePrefix(env["FLANNEL_SUBNET"])
	mtu, err2 := strconv.Atoi(env["FLANNEL_MTU"])
	masquerades, err3 := strconv.ParseBool(env["FLANNEL_IPMASQ"])
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	type fields = map[string]any
	list, err := json.Marshal(fields{"name": "cbr0", "cniVersion": "0.3.1", "plugins": []fields{
		{"type": "bridge", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": !masquerades, "mtu": mtu, "ipam": fields{
			"type": "host-local", "ranges": [][]fields{{{"subnet": subnet.Masked()}}}, "routes": []fields{{"dst": env["FLANNEL_NETWORK"]}}}},
		{"type": "portmap", "capabilities": fields{"portMappings": true}},
	}})
	return string(list), err
}

// clockScript is a plugin that executes another one and notes when. The shell's own start is outside of what it measures.
const clockScript = `#!/bin/bash
begin=$EPOCHREALTIME
%s
code=$?
end=$EPOCHREALTIME
echo "$CNI_COMMAND $CNI_CONTAINERID %s ${begin/[.,]/} ${end/[.,]/} $code" >>%s
exit $code
`

// clock puts a clock around the plugins.
func (n *nodeNetwork) clock(ctx context.Context) error {
	for _, plugin := range n.plugins {
		place, real := filepath.Join(cniPrograms, plugin), filepath.Join(cniTimed, plugin)
		script := fmt.Sprintf(clockScript, real, plugin, cniTimes)
		if _, err := n.machine.Run(ctx, "sh", "-c", fmt.Sprintf("mkdir -p %s && cp -p %s %s", cniTimed, place, real)); err != nil {
			return err
		}
		if err := n.machine.Write(place, script); err != nil {
			return err
		}
		if err := os.Chmod(n.machine.File(place), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// clocked returns how long the plugins took for each container since remember. DEL may be repeated: the first one counts, which does the work.
func (n *nodeNetwork) clocked() (add, del samples, err error) {
	text, err := os.ReadFile(n.machine.File(cniTimes))
	if err != nil {
		return nil, nil, err
	}
	took := map[string]map[string]time.Duration{"ADD": {}, "DEL": {}}
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var verb, container, plugin string
		var begin, end int64 // microseconds
		var code int
		if _, err := fmt.Sscan(line, &verb, &container, &plugin, &begin, &end, &code); err != nil {
			continue // STATUS has no container
		}
		if key := verb + container + plugin; took[verb] != nil && !seen[key] {
			seen[key] = true
			took[verb][container] += time.Duration(end-begin) * time.Microsecond
			if code != 0 {
				return nil, nil, fmt.Errorf("%s failed: %s", plugin, line)
			}
		}
	}
	for _, d := range took["ADD"] {
		add = append(add, d)
	}
	for _, d := range took["DEL"] {
		del = append(del, d)
	}
	return add, del, nil
}

// podState lists what a machine holds, in lines that stay the same while nothing happens.
const podState = `cd /; {
ls /sys/class/net | sed 's/^/link /'
ls /run/netns | sed 's/^/netns /'
ls /var/lib/cni/results | sed 's/^/result /'
ip -4 route show table all; ip -6 route show table all
ip neighbour show nud permanent
bridge fdb show | grep permanent
nft --stateless list ruleset | tr ',' '\n'
%s; } 2>&1; :
`

func (n *nodeNetwork) holds(ctx context.Context) (map[string]int, error) {
	out, err := n.machine.Run(ctx, "sh", "-c", fmt.Sprintf(podState, n.state))
	lines := map[string]int{}
	for line := range strings.Lines(out) {
		lines[strings.Join(strings.Fields(line), " ")]++
	}
	return lines, err
}

// remember notes what the machine holds, and forgets what the clock has seen.
func (n *nodeNetwork) remember(ctx context.Context) error {
	known, err := n.holds(ctx)
	n.known = known
	if gone := os.Remove(n.machine.File(cniTimes)); !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// foreign returns the lines that were not there when remember looked.
func (n *nodeNetwork) foreign(ctx context.Context) ([]string, error) {
	now, err := n.holds(ctx)
	var lines []string
	for line, times := range now {
		for range times - n.known[line] {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines, err
}
