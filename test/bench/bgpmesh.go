package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/ctl/lab"
)

// meshNetwork gives the node under test a subnet that no made-up node has.
const meshNetwork = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.240.0","EnableIPv4":true,"Backend":{"Type":"bgp"}}`

// meshPeer returns the address and the pods of the made-up node with this number, below 200.
func meshPeer(i int) (address netip.Addr, pods netip.Prefix) {
	return netip.AddrFrom4([4]byte{172, 30, 2, byte(1 + i)}), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
}

// A mesh is one node among made-up ones: a single BIRD that has all their addresses, and a session of its own for each.
type mesh struct {
	lab    *lab.Lab
	others *lab.Node
	idle   time.Duration
}

func runBGPMesh(b bench) error {
	return b.withBGPLab(lab.Options{NetworkConfig: json.RawMessage(meshNetwork)}, b.meshes)
}

// meshes measures a node's speaker from its start until it has all routes, and then while nothing happens.
func (b bench) meshes(ctx context.Context, l *lab.Lab) error {
	const most = 200
	w := &mesh{lab: l, idle: time.Duration(b.scale(50)) * 100 * time.Millisecond}
	var err error
	if w.others, _, err = machine(ctx, l, "others"); err != nil {
		return err
	}
	if err := w.others.Do(func() error { return addMeshAddresses(most) }); err != nil {
		return err
	}
	rows := [][]string{{"one node's sessions", "all routes after", "CPU until then", "peak memory", "idle: share of a core", "memory"}}
	for _, sessions := range []int{10, 50, 100, most} {
		for _, rival := range []struct {
			name  string
			start func(context.Context, int) (*contender, error)
		}{{"twilld", w.startTwilld}, {"BIRD", w.startBIRD}} {
			if rival.name == "BIRD" && sessions < most {
				continue // the largest mesh is enough to compare
			}
			row, err := w.measure(ctx, sessions, rival.start)
			if err != nil {
				return fmt.Errorf("%s, %d sessions: %w", rival.name, sessions, err)
			}
			rows = append(rows, append([]string{fmt.Sprintf("%s, %d", rival.name, sessions)}, row...))
		}
	}
	table(rows...)
	return nil
}

// addMeshAddresses gives the made-up nodes' addresses to eth0 of the calling thread's namespace.
func addMeshAddresses(n int) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for i := range n {
		address, _ := meshPeer(i)
		addr, err := netlink.ParseAddr(address.String() + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	return nil
}

// A contender is a node under test: its speaker runs.
type contender struct {
	pid   int
	begun time.Time
	seen  *routeMonitor
	end   func() error
}

func (w *mesh) measure(ctx context.Context, sessions int, start func(context.Context, int) (*contender, error)) (row []string, err error) {
	c, err := start(ctx, sessions)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	defer c.seen.close()
	all, err := c.seen.until("all routes", func() bool { return len(c.seen.routes) >= sessions })
	if err != nil {
		return nil, err
	}
	first, err := processUsage(c.pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(3 * time.Second) // the start's afterwork is not what is measured
	before, err := processUsage(c.pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(w.idle)
	after, err := processUsage(c.pid)
	if err != nil {
		return nil, err
	}
	return []string{ms(all.Sub(c.begun)), ms(first.cpu), mib(after.peak), fmt.Sprintf("%.2f%%", 100*float64(after.cpu-before.cpu)/float64(w.idle)), mib(after.rss)}, nil
}

// startTwilld registers the made-up nodes and starts them and the daemon of a new node.
func (w *mesh) startTwilld(ctx context.Context, sessions int) (*contender, error) {
	if err := w.register(ctx, sessions); err != nil {
		return nil, err
	}
	file := filepath.Join(w.lab.Dir(), "mesh.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return nil, err
	}
	n, err := unborn(ctx, w.lab, fmt.Sprintf("mesh%d", sessions), "--bgp-config="+file)
	if err != nil {
		return nil, err
	}
	others, err := startBIRD(ctx, w.others, meshConf(n.Addrs()[0], sessions))
	if err != nil {
		return nil, err
	}
	c := &contender{end: func() error {
		others.kill()
		return n.Delete(ctx)
	}}
	if c.seen, err = monitorRoutes(n.Netns(), byTwill, podNetwork); err != nil {
		return nil, errors.Join(err, c.end())
	}
	c.begun = time.Now()
	if err := n.StartDaemon(); err != nil {
		return nil, errors.Join(err, c.end())
	}
	c.pid = n.DaemonPID()
	return c, nil
}

// register makes the leases in etcd those of the made-up nodes and no others.
func (w *mesh) register(ctx context.Context, sessions int) error {
	client, err := w.lab.Etcd().Client()
	if err != nil {
		return err
	}
	if _, err := client.Delete(ctx, etcdPrefix+"/subnets/", clientv3.WithPrefix()); err != nil {
		return err
	}
	for i := range sessions {
		address, pods := meshPeer(i)
		data, err := bgp.LeaseData{AS: nodesAS, Node: fmt.Sprintf("other%d", i), RouterID: address}.Encode()
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%s/subnets/%s-24", etcdPrefix, pods.Addr())
		if _, err := client.Put(ctx, key, fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"bgp","BackendData":%s}`, address, data)); err != nil {
			return err
		}
	}
	return nil
}

// meshConf has a session with the node under test for each made-up node, which announces its pods. The node does all the connecting. BIRD has no
// two sessions with one address and port, hence the ports, which nobody connects to.
func meshConf(neighbor netip.Addr, sessions int) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, "router id 172.30.1.1;\ntemplate bgp peer { passive; direct; hold time 9; error wait time 1, 2; graceful restart on; }\n")
	for i := range sessions {
		address, pods := meshPeer(i)
		fmt.Fprintf(&conf, `protocol static { ipv4; route %[1]s blackhole; }
protocol bgp from peer { router id %[2]s; local %[2]s as %[3]d; neighbor %[4]s port %[5]d as %[3]d; ipv4 { import all; export where net = %[1]s; next hop self; }; }
`, pods, address, nodesAS, neighbor, 10_000+i)
	}
	return conf.String()
}

// startBIRD starts the made-up nodes, and a BIRD with the same sessions in the place of a daemon.
func (w *mesh) startBIRD(ctx context.Context, sessions int) (*contender, error) {
	n, address, err := machine(ctx, w.lab, fmt.Sprintf("bird%d", sessions))
	if err != nil {
		return nil, err
	}
	others, err := startBIRD(ctx, w.others, meshConf(address, sessions))
	if err != nil {
		return nil, err
	}
	seen, err := monitorRoutes(n.Netns(), byBIRD, podNetwork)
	if err != nil {
		others.kill()
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `router id %[1]s;
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol static { ipv4; route 10.244.255.0/24 blackhole; }
template bgp peer { local %[1]s as %[2]d; direct; hold time 9; connect delay time 1; connect retry time 2; error wait time 1, 2; graceful restart on;
ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
`, address, nodesAS)
	for i := range sessions {
		other, _ := meshPeer(i)
		fmt.Fprintf(&conf, "protocol bgp from peer { neighbor %s as %d; }\n", other, nodesAS)
	}
	begun := time.Now()
	b, err := startBIRD(ctx, n, conf.String())
	if err != nil {
		others.kill()
		return nil, err
	}
	return &contender{pid: b.pid(), begun: begun, seen: seen, end: func() error {
		b.kill()
		others.kill()
		return n.Delete(ctx)
	}}, nil
}
