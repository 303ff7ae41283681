package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
)

// edited returns the daemon's conflist with its one plugin and the list itself changed.
func edited(t *testing.T, n *lab.Node, change func(list, plugin map[string]any)) json.RawMessage {
	t.Helper()
	text, err := n.ConfList()
	must(t, err)
	var list map[string]any
	must(t, json.Unmarshal(text, &list))
	change(list, list["plugins"].([]any)[0].(map[string]any))
	text, err = json.Marshal(list)
	must(t, err)
	return text
}

// Every verb works in every version that is announced, through libcni as a runtime calls it.
func TestCNIVersions(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	before := traces(t, n)
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			list := edited(t, n, func(list, _ map[string]any) {
				list["cniVersion"] = version
				delete(list, "cniVersions")
			})
			p, err := n.AddPod(t.Context(), lab.PodOptions{ConfList: list})
			must(t, err)
			if err := echo(t.Context(), n.Netns(), addr(t, p, false), 0); err != nil {
				t.Error(err)
			}
			must(t, p.Check(t.Context()))
			must(t, n.Do(func() error { // the verbs about no one pod
				parsed, err := libcni.NetworkConfFromBytes(list)
				if err != nil {
					return err
				}
				cni := libcni.NewCNIConfigWithCacheDir([]string{n.CNIBinDir()}, t.TempDir(), nil)
				valid := []types.GCAttachment{{ContainerID: p.ContainerID(), IfName: p.IfName()}}
				return errors.Join(cni.GetStatusNetworkList(t.Context(), parsed),
					cni.GCNetworkList(t.Context(), parsed, &libcni.GCArgs{ValidAttachments: valid}))
			}))
			must(t, p.Check(t.Context()))
			must(t, p.Delete(t.Context()))
			if diff := cmp.Diff(before, traces(t, n)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
	t.Run("VERSION", func(t *testing.T) {
		out, err := call{node: n}.do(t, "VERSION")
		must(t, err)
		var answer struct{ SupportedVersions []string }
		must(t, json.Unmarshal(out, &answer))
		if diff := cmp.Diff([]string{"0.4.0", "1.0.0", "1.1.0"}, answer.SupportedVersions); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		c := call{node: n, id: "x", netns: sandbox(t).Path(), config: map[string]any{"cniVersion": "9.9.9"}}
		_, err := c.do(t, "ADD")
		wantCode(t, err, types.ErrIncompatibleCNIVersion, "9.9.9")
	})
}

// CHECK finds whatever is not as ADD made it, and says what.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	const host, pod = "host", "pod"
	tests := []struct {
		name, where, do string // do knows $LINK, the pod's host link, and $RUN, the run directory
		names           string
	}{
		{"the pod's link is down", pod, "ip link set eth0 down", "eth0"},
		{"the pod's link is gone", pod, "ip link del eth0", ""},
		{"the pod's link has another MAC", pod, "ip link set eth0 address 02:00:00:00:00:09", "02:00:00:00:00:09"},
		{"no IPv4 address", pod, "ip -4 addr flush dev eth0", "10.244."},
		{"no IPv6 address", pod, "ip -6 addr flush dev eth0 scope global", "fd00:244"},
		{"no IPv4 default route", pod, "ip route del default", "0.0.0.0/0"},
		{"no IPv6 default route", pod, "ip -6 route del default", "::/0"},
		{"another gateway", pod, "ip route replace default dev eth0 scope link", "0.0.0.0/0"},
		{"the host link is down", host, "ip link set $LINK down", ""},
		{"the host link is off the bridge", host, "ip link set $LINK nomaster", "cni0"},
		{"the host link was made by somebody else", host, "ip link set $LINK alias foreign", ""},
		{"no lease", host, "rm $RUN/ipam/twill/leases/*$ID:eth0", "lease"},
		{"no record", host, "rm $RUN/attachments/twill/*$ID:eth0", ""},
		{"no host port", host, "nft flush map inet twill-hostports ports4", "tcp * port"},
		{"no table of host ports", host, "nft delete table inet twill-hostports", "tcp * port"},
		{"no bandwidth limit", host, "tc qdisc del dev $LINK root", ""},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{
				"portMappings": []any{map[string]any{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"}},
				"bandwidth":    map[string]any{"ingressRate": 100_000_000, "ingressBurst": 1_000_000},
			}})
			must(t, err)
			defer func() { must(t, p.Delete(t.Context())) }()
			must(t, p.Check(t.Context()))
			ns := p.Netns()
			if test.where == host {
				ns = n.Netns()
			}
			vars := fmt.Sprintf("LINK=%s RUN=%s ID=%s; ", p.Result().Interfaces[1].Name, n.RunDir(), p.ContainerID())
			sh(t, ns, vars+test.do)
			err = p.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.names) {
				t.Errorf("CHECK says %v; want an error that names %q", err, test.names)
			}
		})
	}
}

// GC frees what no valid attachment has, and nothing else.
func TestGC(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	ports := map[string]any{
		"portMappings": []any{map[string]any{"hostPort": 8081, "containerPort": 80, "protocol": "udp"}},
		"bandwidth":    map[string]any{"egressRate": 100_000_000, "egressBurst": 1_000_000},
	}
	kept, err := n.AddPod(t.Context(), lab.PodOptions{})
	must(t, err)
	before := traces(t, n)
	lost := call{node: n, id: "lost", netns: sandbox(t).Path(), runtimeConfig: ports}
	lost.add(t)
	with := traces(t, n)

	t.Run("without the key it does nothing", func(t *testing.T) {
		_, err := call{node: n}.do(t, "GC")
		must(t, err)
		if diff := cmp.Diff(with, traces(t, n)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("frees", func(t *testing.T) {
		valid := []any{map[string]any{"containerID": kept.ContainerID(), "ifname": "eth0"}}
		_, err := call{node: n, config: map[string]any{"cni.dev/valid-attachments": valid}}.do(t, "GC")
		must(t, err)
		if diff := cmp.Diff(before, traces(t, n)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		must(t, kept.Check(t.Context()))
	})
	t.Run("an empty list frees everything", func(t *testing.T) {
		_, err := call{node: n, config: map[string]any{"cni.dev/valid-attachments": []any{}}}.do(t, "GC")
		must(t, err)
		if left := traces(t, n); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	})
}

// STATUS answers fast, and says 50 when an ADD could not be served.
func TestStatus(t *testing.T) {
	n := up(t, lab.Options{Nodes: 1}).Nodes()[0]
	var times []time.Duration
	for range 9 {
		began := time.Now()
		_, err := call{node: n}.do(t, "STATUS")
		must(t, err)
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	t.Logf("STATUS answers in %v (median), %v (worst)", times[4], times[8])
	if times[4] > 100*time.Millisecond {
		t.Errorf("STATUS takes %v, want less than 100 ms", times[4])
	}
	small := small(t, n)
	first := call{node: n, id: "first", netns: sandbox(t).Path(), config: small}
	first.add(t)
	began := time.Now()
	_, err := call{node: n, config: small}.do(t, "STATUS")
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("STATUS of an exhausted pool takes %v", took)
	}
	wantCode(t, err, types.ErrPluginNotAvailable, "10.244.")
	_, err = first.do(t, "DEL")
	must(t, err)
	_, err = call{node: n, config: small}.do(t, "STATUS")
	must(t, err)
}

// small is an IPAM configuration with one address, of a network of its own.
func small(t *testing.T, n *lab.Node) map[string]any {
	t.Helper()
	conf := call{node: n}.netConf(t)
	ipam := conf["ipam"].(map[string]any)
	subnet := ipam["ranges"].([]any)[0].([]any)[0].(map[string]any)["subnet"].(string)
	last := netip.MustParsePrefix(subnet).Addr().As4()
	last[3] = 200
	only := netip.AddrFrom4(last).String()
	ipam["ranges"] = []any{[]any{map[string]any{"subnet": subnet, "rangeStart": only, "rangeEnd": only}}}
	return map[string]any{"ipam": ipam, "name": "small"}
}

// DEL succeeds whatever is missing, and whatever there was is gone afterwards.
func TestDelIsIdempotent(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	tests := []struct {
		name   string
		before func(t *testing.T, c *call)
	}{
		{"repeated", func(t *testing.T, c *call) {
			_, err := c.do(t, "DEL")
			must(t, err)
		}},
		{"the namespace does not exist any more", func(t *testing.T, c *call) {
			sh(t, n.Netns(), "ip netns del "+filepath.Base(c.netns))
		}},
		{"the namespace is another file now", func(t *testing.T, c *call) {
			c.netns = filepath.Join(t.TempDir(), "file")
			must(t, os.WriteFile(c.netns, nil, 0o644))
		}},
		{"CNI_NETNS is empty", func(_ *testing.T, c *call) { c.netns = "" }},
		{"the pod's link is gone", func(t *testing.T, c *call) {
			sh(t, n.Netns(), "ip -n "+filepath.Base(c.netns)+" link del eth0")
		}},
		{"the bridge is gone", func(t *testing.T, _ *call) { sh(t, n.Netns(), "ip link del cni0") }},
		{"the table of host ports is gone", func(t *testing.T, _ *call) { sh(t, n.Netns(), "nft delete table inet twill-hostports") }},
		{"the record is gone", func(t *testing.T, c *call) { sh(t, n.Netns(), "rm "+n.RunDir()+"/attachments/twill/"+c.id+":eth0") }},
		{"the record is empty", func(t *testing.T, c *call) { sh(t, n.Netns(), ": > "+n.RunDir()+"/attachments/twill/"+c.id+":eth0") }},
		{"the lease is gone", func(t *testing.T, c *call) { sh(t, n.Netns(), "rm "+n.RunDir()+"/ipam/twill/*/*") }},
		{"a reboot", func(t *testing.T, c *call) {
			sh(t, n.Netns(), "ip -n "+filepath.Base(c.netns)+" link del eth0; rm -rf "+n.RunDir()+"/attachments "+n.RunDir()+"/ipam; "+
				"nft delete table inet twill-hostports")
		}},
		{"prevResult of somebody else", func(_ *testing.T, c *call) {
			c.config = map[string]any{"prevResult": map[string]any{"cniVersion": "1.0.0", "ips": []any{map[string]any{"address": "192.0.2.1/24"}}}}
		}},
		{"a key of a later version", func(_ *testing.T, c *call) { c.config = map[string]any{"later": true} }},
		{"arguments of somebody else", func(_ *testing.T, c *call) { c.args = "SOMETHING=else" }},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &call{node: n, id: fmt.Sprintf("pod%d", i), netns: sandbox(t).Path(), runtimeConfig: map[string]any{
				"portMappings": []any{map[string]any{"hostPort": 8200 + i, "containerPort": 80, "protocol": "udp"}},
				"bandwidth":    map[string]any{"egressRate": 100_000_000, "egressBurst": 1_000_000},
			}}
			if strings.HasPrefix(test.name, "the record") { // host ports are found by the record alone
				delete(c.runtimeConfig, "portMappings")
			}
			before := traces(t, n)
			c.add(t)
			c.runtimeConfig = nil // a runtime may have lost that, too
			test.before(t, c)
			for range 2 {
				if _, err := c.do(t, "DEL"); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(before, traces(t, n)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
	if _, err := (call{node: n, id: "never", netns: "/run/netns/never"}).do(t, "DEL"); err != nil {
		t.Errorf("of a pod that never was: %v", err)
	}
}

// A failed ADD says why and leaves nothing.
func TestFailedAddLeavesNothing(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	ports := func(port int) map[string]any {
		return map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8090, "containerPort": 80, "protocol": "tcp"},
				map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"}},
			"bandwidth": map[string]any{"egressRate": 100_000_000, "egressBurst": 1_000_000},
		}
	}
	holder := call{node: n, id: "holder", netns: sandbox(t).Path(),
		runtimeConfig: map[string]any{"portMappings": []any{map[string]any{"hostPort": 8083, "containerPort": 80, "protocol": "tcp"}}}}
	held := holder.add(t)
	only := small(t, n)
	full := call{node: n, id: "full", netns: sandbox(t).Path(), config: only}
	full.add(t)
	occupied := sandbox(t)
	sh(t, occupied, "ip link add eth0 type veth peer name other")
	plain := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(plain, nil, 0o644))
	tests := []struct {
		name  string
		call  call
		code  uint
		names string
	}{
		{"no such namespace", call{netns: "/run/netns/nobody"}, types.ErrUnknownContainer, "/run/netns/nobody"},
		{"the namespace is a plain file", call{netns: plain}, types.ErrInvalidNetNS, plain},
		{"the namespace is the node's own", call{netns: n.Netns().Path()}, types.ErrInvalidNetNS, n.Netns().Path()},
		{"the interface exists", call{netns: occupied.Path()}, 102, "eth0"},
		{"the attachment exists", call{id: "holder"}, 102, "holder"},
		{"no address is left", call{config: only}, 103, "10.244."},
		{"the address is taken", call{runtimeConfig: map[string]any{"ips": []string{held.IPs[0].Address.IP.String()}}}, 103, held.IPs[0].Address.IP.String()},
		{"the address is of no range", call{runtimeConfig: map[string]any{"ips": []string{"192.0.2.9"}}}, 0, "192.0.2.9"},
		{"a host port is taken", call{runtimeConfig: ports(8083)}, 101, "8083"},
		{"the uplink as bridge", call{config: map[string]any{"bridge": "eth0"}}, types.ErrInvalidNetworkConfig, "eth0"},
		{"an unknown key", call{config: map[string]any{"brigde": "cni0"}}, types.ErrInvalidNetworkConfig, "brigde"},
		{"an MTU too small for IPv6", call{config: map[string]any{"mtu": 1000}}, 0, "1000"},
		{"an IPAM plugin that is not installed", call{config: map[string]any{"ipam": map[string]any{"type": "nowhere"}}}, 0, "nowhere"},
		{"a wrong MAC", call{runtimeConfig: map[string]any{"mac": "ff:ff:ff:ff:ff:ff"}}, types.ErrInvalidNetworkConfig, "mac"},
		{"unknown CNI_ARGS", call{args: "WHAT=ever"}, types.ErrInvalidEnvironmentVariables, "WHAT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			c.node = n
			if c.id == "" {
				c.id = "failing"
			}
			if c.netns == "" {
				c.netns = sandbox(t).Path()
			}
			before := traces(t, n) + sh(t, occupied, "ip -o link; ip addr")
			_, err := c.do(t, "ADD")
			if theirs, ok := err.(*types.Error); ok && test.code == 0 {
				test.code = theirs.Code // any will do
			}
			wantCode(t, err, test.code, test.names)
			if diff := cmp.Diff(before, traces(t, n)+sh(t, occupied, "ip -o link; ip addr")); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
	if _, err := holder.do(t, "CHECK"); err == nil {
		t.Error("CHECK without prevResult succeeded")
	}
}

// Two hundred and fifty pods start at one time on one node, as after a power cut.
func TestParallelAdds(t *testing.T) {
	n := up(t, lab.Options{Nodes: 1}).Nodes()[0]
	const many = 250
	pods := make([]*lab.Pod, many)
	var g errgroup.Group
	began := time.Now()
	for i := range pods {
		g.Go(func() (err error) {
			pods[i], err = n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{
				"portMappings": []any{map[string]any{"hostPort": 20000 + i, "containerPort": 80, "protocol": "tcp"}}}})
			return err
		})
	}
	must(t, g.Wait())
	t.Logf("%d parallel ADDs took %v", many, time.Since(began).Round(time.Millisecond))
	seen := map[netip.Addr]string{}
	for _, p := range pods {
		a := addr(t, p, false)
		if other := seen[a]; other != "" {
			t.Errorf("%s and %s have %v", other, p.Name, a)
		}
		seen[a] = p.Name
		if err := echo(t.Context(), n.Netns(), a, 0); err != nil {
			t.Errorf("%s at %v: %v", p.Name, a, err)
		}
	}
	began = time.Now()
	for _, p := range pods {
		g.Go(func() error { return p.Delete(context.WithoutCancel(t.Context())) })
	}
	must(t, g.Wait())
	t.Logf("%d parallel DELs took %v", many, time.Since(began).Round(time.Millisecond))
	if left := traces(t, n); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// The very first packet to a pod arrives when ADD has returned, also when the pod is the first on the bridge, whose carrier goes and comes
// with it. A neighbour request that is lost costs a second.
func TestFirstPacket(t *testing.T) {
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	var late []string
	for i := range 40 {
		p, err := n.AddPod(t.Context(), lab.PodOptions{})
		must(t, err)
		for _, v6 := range []bool{i%2 == 0, i%2 != 0} {
			began := time.Now()
			err := echo(t.Context(), n.Netns(), addr(t, p, v6), 0)
			if took := time.Since(began); err != nil || took > 500*time.Millisecond {
				late = append(late, fmt.Sprintf("pod %d, IPv6 %v: %v, %v", i, v6, took, err))
			}
		}
		must(t, p.Delete(t.Context()))
	}
	if len(late) > 0 {
		t.Errorf("%d of 80 first packets were late:\n%s", len(late), strings.Join(late, "\n"))
	}
}

// Another IPAM plugin works in place of Twill's own.
func TestDelegatedIPAM(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	n, data := l.Nodes()[0], t.TempDir()
	list := edited(t, n, func(_, plugin map[string]any) {
		ipam := plugin["ipam"].(map[string]any)
		subnet := ipam["ranges"].([]any)[0].([]any)[0].(map[string]any)
		start := netip.MustParsePrefix(subnet["subnet"].(string)).Addr().As4()
		start[3] = 100
		subnet["rangeStart"] = netip.AddrFrom4(start).String()
		plugin["ipam"] = map[string]any{"type": "host-local", "dataDir": data, "ranges": ipam["ranges"]}
	})
	p, err := n.AddPod(t.Context(), lab.PodOptions{ConfList: list, BinDirs: []string{n.CNIBinDir(), peersDir}})
	must(t, err)
	file := filepath.Join(data, "twill", addr(t, p, false).String())
	if _, err := os.Stat(file); err != nil {
		t.Errorf("host-local has not recorded it: %v", err)
	}
	wantMatrix(t, l)
	must(t, p.Check(t.Context()))
	must(t, p.Delete(t.Context()))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("DEL has not freed the address: %v", err)
	}
}

// What the capabilities ask for is in the result and in the kernel.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1, Family: lab.DualStack})
	n := l.Nodes()[0]
	var want []string
	for _, a := range n.Pods()[0].Addrs() {
		bytes := a.AsSlice()
		bytes[len(bytes)-1] = 77
		wanted, _ := netip.AddrFromSlice(bytes)
		want = append(want, wanted.String())
	}
	p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{
		"ips": want, "mac": "02:11:22:33:44:55",
		"dns": map[string]any{"servers": []string{"10.96.0.10"}, "searches": []string{"svc.cluster.local"}, "options": []string{"ndots:5"}},
	}})
	must(t, err)
	var have []string
	for _, a := range p.Addrs() {
		have = append(have, a.String())
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("ips (-want +have):\n%s", diff)
	}
	shown := sh(t, p.Netns(), "ip addr show dev eth0")
	for _, text := range append(want, "02:11:22:33:44:55") {
		if !strings.Contains(shown, text) {
			t.Errorf("the pod has no %s:\n%s", text, shown)
		}
	}
	dns := types.DNS{Nameservers: []string{"10.96.0.10"}, Search: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}}
	if diff := cmp.Diff(dns, p.Result().DNS); diff != "" {
		t.Errorf("dns (-want +have):\n%s", diff)
	}
	wantMatrix(t, l)
}

// A limit can be read with tc and felt by a connection, in both directions.
func TestBandwidth(t *testing.T) {
	l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	n, peer := l.Nodes()[0], l.Nodes()[1].Pods()[0]
	const ingress, egress = 40e6, 20e6 // bits per second
	p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{"bandwidth": map[string]any{
		"ingressRate": int(ingress), "ingressBurst": 800_000, "egressRate": int(egress), "egressBurst": 800_000,
	}}})
	must(t, err)
	if qdiscs := sh(t, n.Netns(), "tc qdisc show"); !strings.Contains(qdiscs, "rate 40Mbit") || !strings.Contains(qdiscs, "rate 20Mbit") {
		t.Errorf("tc shows:\n%s", qdiscs)
	}
	for _, test := range []struct {
		name     string
		from, to *lab.Pod
		limit    float64
	}{{"ingress", peer, p, ingress}, {"egress", p, peer, egress}} {
		rate := throughput(t, test.from, test.to, 2<<20)
		t.Logf("%s: %.1f Mbit/s of %.0f", test.name, rate/1e6, test.limit/1e6)
		if rate > 1.15*test.limit || rate < 0.5*test.limit {
			t.Errorf("%s: %.1f Mbit/s, the limit is %.0f", test.name, rate/1e6, test.limit/1e6)
		}
	}
}

// throughput sends that many bytes over TCP and returns bits per second.
func throughput(t *testing.T, from, to *lab.Pod, size int) float64 {
	t.Helper()
	var listener net.Listener
	address := netip.AddrPortFrom(addr(t, to, false), 5001).String()
	must(t, to.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }))
	defer listener.Close()
	var g errgroup.Group
	began := time.Now()
	g.Go(func() error {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		n, err := io.Copy(io.Discard, conn)
		if err == nil && n != int64(size) {
			err = fmt.Errorf("%d bytes arrived of %d", n, size)
		}
		return err
	})
	conn, err := from.Netns().Dial(t.Context(), "tcp", address)
	must(t, err)
	_, err = conn.Write(make([]byte, size))
	must(t, errors.Join(err, conn.Close()))
	must(t, g.Wait())
	return float64(size) * 8 / time.Since(began).Seconds()
}
