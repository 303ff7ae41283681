//go:build linux

package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	vxlanNetwork = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`
	ipv6Network  = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan","VNI":7,"Port":4789}}`
	dualNetwork  = `{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}`
	directRoutes = `{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan","DirectRouting":true}}`
)

func TestNodesReachEachOther(t *testing.T) {
	tests := []struct{ name, network, via string }{
		{"IPv4", vxlanNetwork, "dev flannel.1"},
		{"IPv6", ipv6Network, ""},
		{"dual stack", dualNetwork, "dev flannel.1"},
		{"direct routing", directRoutes, "dev eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.network)
			a, b := c.pair()
			c.eventuallyReach(a, b)
			if routes := a.ip("route"); !strings.Contains(routes, tt.via) {
				t.Errorf("no route %q in\n%s", tt.via, routes)
			}
		})
	}
}

// Neither the end of a daemon, orderly or not, nor its return costs a packet.
func TestRestartIsInvisible(t *testing.T) {
	c := newCluster(t, dualNetwork)
	a, b := c.pair()
	c.eventuallyReach(a, b)
	subnets := a.gateways()
	stream := c.stream(b, a)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		err := a.signal(end)
		if end == syscall.SIGTERM && err != nil {
			t.Errorf("SIGTERM: %v", err)
		}
		a.start()
		a.eventuallyReady()
	}
	if lost, sent := stream(); lost > 0 || sent < 10 {
		t.Errorf("%d of %d packets were lost", lost, sent)
	}
	if now := a.gateways(); strings.Join(now, " ") != strings.Join(subnets, " ") {
		t.Errorf("subnets changed from %v to %v", subnets, now)
	}
	for _, kind := range []string{"link created", "changes.fdb", "changes.neighbor", "changes.route", "table changed"} {
		if strings.Contains(a.log.String(), kind) {
			t.Errorf("a restart changed the kernel (%s):\n%s", kind, a.log)
		}
	}
}

func TestDriftIsRepairedByNotification(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	c.eventuallyReach(a, b)
	state := func() string { // without what counts and ages
		return a.ip("-o -br link show type vxlan") + a.ip("-o -br link show type bridge") + a.ip("-br -4 addr show dev flannel.1 scope global") +
			a.ip("neigh show dev flannel.1 nud permanent") + a.ip("route show proto 84") + a.fdb() + a.nft("list table inet twill-masquerade")
	}
	want := state()
	peer := strings.Fields(a.ip("route show proto 84"))[0]
	base, _, _ := strings.Cut(peer, "/")
	mac := strings.Fields(a.fdb())[0]
	for _, change := range []string{
		"link del flannel.1", "link set flannel.1 down", "link del cni0", "link set flannel.1 mtu 1300", "addr flush dev flannel.1 scope global",
		"route del " + peer, "route replace " + peer + " via 192.0.2.254 proto 84", "neigh del " + base + " dev flannel.1",
		"neigh replace " + base + " lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent", "bridge fdb del " + mac + " dev flannel.1",
		"bridge fdb replace " + mac + " dev flannel.1 dst 192.0.2.99 self permanent", "nft delete table inet twill-masquerade",
		"nft flush chain inet twill-masquerade postrouting", "link set flannel.1 address 02:00:00:00:00:98",
	} {
		begin := time.Now()
		a.command(change)
		c.eventually("repaired: "+change, func() string {
			if now := state(); now != want {
				return now + "want\n" + want
			}
			return ""
		})
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%s: repaired after %s", change, took)
		}
	}
	c.eventuallyReach(a, b)
	a.eventuallyReady()
}

func TestForeignObjectsStay(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	foreign := []string{"route add 10.5.200.0/24 via 192.0.2.200", "link add flannel.9 type vxlan id 9 dstport 9999", "link add br9 type bridge"}
	for _, f := range foreign {
		a.ip(f)
	}
	a.command("nft add table inet other")
	a.start()
	a.eventuallyReady()
	must(t, a.signal(syscall.SIGTERM))
	a.cleanup()
	have := a.ip("route") + a.links() + a.nft("list tables")
	for _, want := range []string{"10.5.200.0/24", "flannel.9", "br9", "table inet other"} {
		if !strings.Contains(have, want) {
			t.Errorf("%s is gone:\n%s", want, have)
		}
	}
}

func TestDatastoreDownAtStart(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	c.eventuallyReach(a, b)
	a.kill()
	c.stopEtcd()
	before := a.ip("route") + a.ip("neigh show dev flannel.1") + a.ip("-o addr show scope global")
	a.start()
	c.eventually("a says that etcd is away", func() string {
		if code, body := a.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "waiting for the network configuration") {
			return body
		}
		return ""
	})
	if code, body := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if now := a.ip("route") + a.ip("neigh show dev flannel.1") + a.ip("-o addr show scope global"); now != before {
		t.Errorf("the kernel changed to\n%sfrom\n%s", now, before)
	}
	c.eventuallyReach(a, b)
	c.startEtcd()
	begin := time.Now()
	a.eventuallyReady()
	b.eventuallyReady()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("ready %s after etcd came back", took)
	}
}

func TestOutageAndGarbage(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	c.stopEtcd()
	c.eventually("a is not ready", func() string {
		if code, _ := a.get("/readyz"); code != http.StatusServiceUnavailable {
			return "it is"
		}
		return ""
	})
	c.eventuallyReach(a, b)
	c.startEtcd()
	a.eventuallyReady()
	for key, value := range map[string]string{
		"subnets/10.5.201.0-24": "{", "subnets/garbage": "x", "subnets/10.9.0.0-24": `{"PublicIP":"192.0.2.99","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}`,
		"subnets/10.5.202.0-24": `{"PublicIP":"192.0.2.98","BackendType":"host-gw"}`,
	} {
		c.put(key, value)
	}
	c.eventually("four peers are rejected", func() string {
		if _, body := a.get("/metrics"); !strings.Contains(body, "twill_rejected_peers 4\n") || !strings.Contains(body, "twill_peers 1\n") {
			return body
		}
		return ""
	})
	c.eventuallyReach(a, b)
	a.eventuallyReady()
}

func TestUplinkChanges(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	c.eventuallyReach(a, b)
	a.ip("link set eth0 mtu 1400")
	c.eventually("a follows the MTU", func() string {
		if link := a.ip("link show flannel.1"); !strings.Contains(link, "mtu 1350 ") {
			return link
		}
		if env := a.read("flannel/subnet.env"); !strings.Contains(env, "FLANNEL_MTU=1350\n") {
			return env
		}
		if list := a.read("net.d/10-twill.conflist"); !strings.Contains(list, `"mtu": 1350`) {
			return list
		}
		return ""
	})
	a.ip("addr flush dev eth0")
	a.ip("addr add 192.0.2.77/24 dev eth0")
	c.eventuallyReach(a, b)
	c.eventuallyReach(b, a)
	a.eventuallyReady()
	if fdb := b.fdb(); !strings.Contains(fdb, "192.0.2.77") {
		t.Errorf("b sends to\n%s", fdb)
	}
}

// A device goes with the link that it was made on.
func TestUplinkIsMadeAgain(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	a.ip("link del eth0")
	c.eventually("a misses its uplink", func() string {
		if code, body := a.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "eth0") {
			return body
		}
		return ""
	})
	c.plug(a, 1)
	a.eventuallyReady()
	c.eventuallyReach(a, b)
	c.eventuallyReach(b, a)
}

// What flanneld left is taken over in place: its subnet, its device with the MAC that peers know, its entries of peers that are there. Those of
// peers that are gone are removed.
func TestTakesOverFromFlannel(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	const peer = `{"PublicIP":"192.0.2.50","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"de:ad:be:ef:00:50"}}`
	const self = `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"de:ad:be:ef:00:01"}}`
	c.put("subnets/10.5.50.0-24", peer)
	c.put("subnets/10.5.7.0-24", self)
	a := c.addNode()
	for _, left := range []string{
		"link add flannel.1 address de:ad:be:ef:00:01 mtu 1450 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning",
		"addr add 10.5.7.0/32 dev flannel.1", "link set flannel.1 up",
		"neigh add 10.5.50.0 lladdr de:ad:be:ef:00:50 dev flannel.1 nud permanent", "route add 10.5.50.0/24 via 10.5.50.0 dev flannel.1 onlink",
		"neigh add 10.5.60.0 lladdr de:ad:be:ef:00:60 dev flannel.1 nud permanent", "route add 10.5.60.0/24 via 10.5.60.0 dev flannel.1 onlink",
	} {
		a.ip(left)
	}
	a.command("bridge fdb add de:ad:be:ef:00:50 dev flannel.1 dst 192.0.2.50 self permanent")
	a.command("bridge fdb add de:ad:be:ef:00:60 dev flannel.1 dst 192.0.2.60 self permanent")
	index := func() string { before, _, _ := strings.Cut(a.ip("-o link show flannel.1"), ":"); return before }
	before := index()
	a.start()
	a.eventuallyReady()
	if now := index(); now != before {
		t.Errorf("the device was made again: index %s, was %s", now, before)
	}
	have := a.ip("-o link show flannel.1") + a.ip("route") + a.ip("neigh show dev flannel.1") + a.fdb() + a.read("flannel/subnet.env")
	for _, want := range []string{"de:ad:be:ef:00:01", "10.5.50.0/24", "10.5.50.0 lladdr", "dst 192.0.2.50", "FLANNEL_SUBNET=10.5.7.1/24"} {
		if !strings.Contains(have, want) {
			t.Errorf("no %q in\n%s", want, have)
		}
	}
	if strings.Contains(have, "10.5.60.0") || strings.Contains(have, "192.0.2.60") {
		t.Errorf("entries of a peer that is gone:\n%s", have)
	}
}

func TestCleanup(t *testing.T) {
	c := newCluster(t, dualNetwork)
	a, b := c.addNode(), c.addNode()
	before := a.links() + a.ip("route") + a.ip("-6 route show proto 84") + a.nft("list tables")
	a.start()
	b.start()
	a.eventuallyReady()
	b.eventuallyReady()
	c.eventuallyReach(a, b)
	if out, err := a.run1("--cleanup"); err == nil || !strings.Contains(out, "another twilld is running") {
		t.Errorf("clean up beside a running daemon: %v: %s", err, out)
	}
	must(t, a.signal(syscall.SIGTERM))
	out := a.cleanup()
	for _, want := range []string{"removed file " + a.file("net.d/10-twill.conflist"), "removed file " + a.file("flannel/subnet.env"), "removed link flannel.1",
		"removed link flannel-v6.1", "removed link cni0", "removed route 10.5.", "removed route fd00:5:", "removed table twill-masquerade", "removed lease 10.5."} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if after := a.links() + a.ip("route") + a.ip("-6 route show proto 84") + a.nft("list tables"); after != before {
		t.Errorf("left:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(a.file("run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run directory: %v", err)
	}
	c.eventually("b forgets a", func() string { return b.ip("route show proto 84") })
	if again := a.cleanup(); strings.Contains(again, "removed") {
		t.Errorf("a second clean up removed\n%s", again)
	}
}

// What only the plugins made goes too, be it half made. What others have on the node stays.
func TestCleanupOfPods(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.ip("link add foreign type veth peer name foreign1")
	before := a.links() + a.nft("list tables")
	for _, made := range []string{
		"link add cni0 type bridge", "link set cni0 alias twill-bridge",
		"link add veth1 type veth peer name pod1", "link set veth1 master cni0",
		"link add veth2 type veth peer name pod2", "link set veth2 master cni0", "nft add table inet twill-hostports",
	} {
		a.command(made)
	}
	a.do(func() error {
		link, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		return netlink.LinkSetAlias(link, "twill-pod c1/eth0")
	})
	dir := a.file("run/attachments/twill")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.MkdirAll(a.file("run/ipam/twill"), 0o700))
	must(t, os.WriteFile(dir+"/c2:eth0.adding", []byte(`{"network":"twill","containerID":"c2","ifName":"eth0","bridge":"cni0","hostLink":"veth2"}`+"\n"), 0o600))
	must(t, os.WriteFile(dir+"/c3:eth0", []byte("{"), 0o600))
	must(t, os.WriteFile(dir+"/c4:eth0", []byte(`{"network":"twill","containerID":"c4","ifName":"eth0","hostLink":"veth4"}`+"\n"), 0o600))
	out := a.cleanup()
	for _, want := range []string{"removed link cni0\n", "removed link veth1 of pod c1/eth0\n", "removed link veth2 of pod c2/eth0\n",
		"removed table twill-hostports\n", "removed records " + a.file("run/attachments"), "removed records " + a.file("run/ipam")} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if after := a.links() + a.nft("list tables"); after != before {
		t.Errorf("left:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(a.file("run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("run directory: %v", err)
	}
	if again := a.cleanup(); strings.Contains(again, "removed") {
		t.Errorf("a second clean up removed\n%s", again)
	}
}

func TestRefusesWhatCannotWork(t *testing.T) {
	tests := []struct {
		name, network string
		args          []string
		code          int
		want          string
	}{
		{"configuration", vxlanNetwork, []string{"--backend=udp", "--log-level=loud"}, 2, `flag --backend: "udp" is unknown`},
		{"BGP file", vxlanNetwork, []string{"--backend=bgp", "--bgp-config=/nowhere/bgp.yaml"}, 2, "/nowhere/bgp.yaml: no such file"},
		{"stored backend", `{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`, nil, 1, `Backend.Type "host-gw", but this node was told --backend=vxlan`},
		{"stored VNI", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":0}}`, nil, 1, "Backend.VNI: want an integer from 1 to 16777215, have 0"},
		{"stored MTU", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","MTU":9000}}`, nil, 1, "Backend.MTU 9000 is more than the 1500 of uplink eth0"},
		{"interface", vxlanNetwork, []string{"--iface=eth9"}, 1, "eth9"},
		{"plugins", vxlanNetwork, []string{"--cni-bin-dir=/opt/cni/bin"}, 2, "plugin twill is not beside twilld"},
		{"health address", vxlanNetwork, []string{"--health-address=192.0.2.250:80"}, 1, "listen for probes and metrics"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.network)
			a := c.addNode()
			out, err := a.run1(tt.args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("%v: %s\nwant exit code %d and %q", err, out, tt.code, tt.want)
			}
			if links := a.links(); strings.Contains(links, "flannel") || strings.Contains(links, "cni0") {
				t.Errorf("links were made:\n%s", links)
			}
		})
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.start()
	a.eventuallyReady()
	if out, err := a.run1(); err == nil || !strings.Contains(out, "another twilld is running") {
		t.Errorf("a second daemon: %v: %s", err, out)
	}
}

// stream sends a datagram from one node to the other every few milliseconds until it is told to stop, and then says how
// many got lost.
func (c *cluster) stream(from, to *testNode) (stop func() (lost, sent int)) {
	ctx, cancel := context.WithCancel(context.Background())
	type counts struct{ lost, sent int }
	done := make(chan counts)
	go func() {
		var n counts
		for ctx.Err() == nil {
			n.sent++
			if why := from.reaches(to, to.gateways()[0]); why != "" {
				n.lost++
			}
		}
		done <- n
	}()
	return func() (lost, sent int) {
		cancel()
		n := <-done
		return n.lost, n.sent
	}
}
