package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
)

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
