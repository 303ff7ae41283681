//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/plugins/record"
	"github.com/twill-cni/twill/store"
)

const (
	bgpNetwork = `{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","Backend":{"Type":"bgp"}}`

	bgpFile = "bfd: {}\npasswordFile: %s\n"

	dnsService = `{"metadata":{"name":"dns","namespace":"default"},"spec":{"clusterIP":"10.96.0.10","clusterIPs":["10.96.0.10"],"type":"ClusterIP",` +
		`"ports":[{"name":"dns","protocol":"UDP","port":53,"targetPort":5353}]}}`
	localService = `{"metadata":{"name":"local","namespace":"default"},"spec":{"clusterIP":"10.96.0.11","clusterIPs":["10.96.0.11"],"type":"LoadBalancer",` +
		`"externalTrafficPolicy":"Local","healthCheckNodePort":30999,"ports":[{"name":"web","protocol":"TCP","port":80,"nodePort":30080}]}}`
	dnsSlice = `{"metadata":{"name":"dns-1","namespace":"default","labels":{"kubernetes.io/service-name":"dns"}},"addressType":"IPv4",` +
		`"endpoints":[{"addresses":["192.0.2.2"],"conditions":{"ready":true}}],"ports":[{"name":"dns","protocol":"UDP","port":5353}]}`
)

// The daemon does all of its work in a container with the capabilities that the DaemonSet gives it, under the runtime's default filter of system
// calls, with a read-only file system and its own process namespace.
func TestLeastPrivilege(t *testing.T) {
	for _, tt := range []struct {
		name, network string
		capabilities  []int
		args          []string
	}{
		{"vxlan", dualNetwork, forVXLAN, nil},
		{"bgp", bgpNetwork, forBGP, []string{"--backend=bgp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.network)
			a, b := c.addNode(), c.addNode()
			a.contain(tt.capabilities)
			a.namespaces()
			state := func() string { return a.ip("-br link") + a.ip("route") + a.nft("list tables") }
			c.eventually("the uplink is up", func() string {
				if link := a.ip("-br link"); !strings.Contains(link, " UP ") {
					return link
				}
				return ""
			})
			must(t, os.WriteFile(filepath.Join(c.dir, "key"), []byte("secret"), 0o600))
			must(t, os.WriteFile(filepath.Join(c.dir, "bgp.yaml"), fmt.Appendf(nil, bgpFile, filepath.Join(c.dir, "key")), 0o600))
			tt.args = append(tt.args, "--bgp-config="+filepath.Join(c.dir, "bgp.yaml"))
			args := append([]string{"--proxy=nftables", "--policy=on", "--page=10280", "--pod-release-delay=100ms", "--log-level=debug"}, tt.args...)
			before := state()
			a.start(args...)
			b.start(tt.args...)
			a.eventuallyReady()
			b.eventuallyReady()
			c.eventuallyReach(a, b)
			c.eventuallyReach(b, a)
			a.mendsDrift()
			a.servesUDP(b)
			a.keepsPods()
			a.enforces(b)
			a.answers()
			noRefusal(t, a.log.String())
			must(t, a.signal(syscall.SIGTERM))

			a.start(args...)
			a.eventuallyReady()
			noRefusal(t, a.log.String())
			must(t, a.signal(syscall.SIGTERM))
			out, err := a.run1("--cleanup", "--cni-bin-dir="+a.file("bin"))
			if err != nil {
				t.Errorf("clean up: %v: %s", err, out)
			}
			noRefusal(t, out)
			if after := state(); after != before {
				t.Errorf("left:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// noRefusal looks for what a lack of privileges would have the daemon say.
func noRefusal(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		warned := strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")
		for _, sign := range []string{"not permitted", "ermission denied", "read-only", "not implemented"} {
			warned = warned || strings.Contains(line, sign)
		}
		if warned {
			t.Error("the daemon says: ", line)
		}
	}
}

// mendsDrift breaks some of each kind of what the daemon holds in the kernel.
func (n *testNode) mendsDrift() {
	n.c.t.Helper()
	state := func() string {
		return n.ip("-o -br link show type vxlan") + n.ip("-o -br link show type bridge") + n.ip("-br addr show dev cni0 scope global") +
			n.ip("neigh show nud permanent") + n.ip("route show proto 84") + n.ip("-6 route show proto 84") + n.fdb() +
			n.nft("list table inet twill-masquerade") + n.nft("list chains ip") + n.nft("list chains ip6") + n.output("sysctl -n net.ipv4.ip_forward")
	}
	want := state()
	peer := strings.Fields(n.ip("route show proto 84 type unicast"))[0]
	changes := []string{"route del " + peer, "link set cni0 down", "link del cni0", "nft delete table inet twill-masquerade", "nft delete table ip twill-proxy"}
	if fdb := strings.Fields(n.fdb()); len(fdb) > 0 {
		base, _, _ := strings.Cut(peer, "/")
		changes = append(changes, "link del flannel.1", "neigh del "+base+" dev flannel.1", "bridge fdb del "+fdb[0]+" dev flannel.1")
	}
	for _, change := range changes {
		n.command(change)
		n.c.eventually("repaired: "+change, func() string {
			if now := state(); now != want {
				return now + "want\n" + want
			}
			return ""
		})
	}
}

// servesUDP has a Service whose flows go when their endpoint does.
func (n *testNode) servesUDP(endpoint *testNode) {
	n.c.t.Helper()
	n.ip("route add 10.96.0.0/16 dev eth0")
	defer n.ip("route del 10.96.0.0/16 dev eth0")
	n.c.put("registry/services/default/dns", dnsService)
	n.c.put("registry/services/default/local", localService)
	n.c.put("registry/endpointslices/default/dns-1", dnsSlice)
	var server net.PacketConn
	endpoint.do(func() (err error) {
		server, err = net.ListenPacket("udp4", ":5353")
		return err
	})
	defer server.Close()
	go func() {
		buf := make([]byte, 64)
		for {
			size, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:size], from) // the client asks again
		}
	}()
	n.c.eventually("the Service answers", func() string {
		conn, err := n.dial(context.Background(), "udp4", "10.96.0.10:53")
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		err = conn.SetDeadline(time.Now().Add(time.Second))
		if err == nil {
			_, err = conn.Write([]byte("who is it"))
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 64))
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
	flows := func() (found string) {
		n.do(func() error {
			return conntrack.Each(context.Background(), conntrack.Flows{Protocol: syscall.IPPROTO_UDP}, func() { found = "" }, func(f conntrack.Flow) {
				if f.Dst.Addr() == netip.MustParseAddr("10.96.0.10") {
					found += f.Dst.String() + " "
				}
			})
		})
		return found
	}
	if flows() == "" {
		n.c.t.Error("there is no flow to the Service")
	}
	n.c.delete("registry/endpointslices/default/dns-1")
	n.c.eventually("the flows to the endpoint are gone", flows)
	n.c.eventually("the health port answers", func() string {
		conn, err := n.dial(context.Background(), "tcp4", "127.0.0.1:30999")
		if err != nil {
			return err.Error()
		}
		return errorText(conn.Close())
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// namespaces makes the directory of pods' namespaces, with one of a pod that is alive. A container sees what is there when it starts, and more only
// when the runtime was asked for it (HostToContainer).
func (n *testNode) namespaces() {
	n.c.t.Helper()
	alive := n.file("netns/alive")
	must(n.c.t, os.MkdirAll(filepath.Dir(alive), 0o755))
	must(n.c.t, os.WriteFile(alive, nil, 0o600))
	must(n.c.t, syscall.Mount("/proc/self/ns/net", alive, "", syscall.MS_BIND, ""))
	n.c.t.Cleanup(func() { _ = syscall.Unmount(alive, syscall.MNT_DETACH) })
}

// keepsPods has two pods that are alive, whose host ports are restored, and another one that is dead. The namespace of one is told by a process that
// the container does not see.
func (n *testNode) keepsPods() {
	n.c.t.Helper()
	records := record.Open(n.file("run"), "twill")
	owner := func(name string) kernel.PodOwner { return kernel.PodOwner{ContainerID: name, IfName: "eth0"} }
	for i, name := range []string{"alive", "unseen", "dead"} {
		path := n.file("netns/" + name)
		if name == "unseen" {
			path = fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
		}
		entry, err := records.Begin(attach.Record{
			Network: "twill", ContainerID: name, IfName: "eth0", Bridge: "cni0", HostLink: "veth" + name, Netns: path,
			Addresses:    []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(n.gateways()[0]).Next(), 24)},
			PortMappings: []netconf.PortMapping{{HostPort: uint16(8080 + i), ContainerPort: 80, Protocol: netconf.UDP}},
		})
		must(n.c.t, err)
		must(n.c.t, entry.Commit())
		entry.Close()
		if name == "unseen" {
			continue // its link was lost
		}
		n.ip(fmt.Sprintf("link add veth%s type veth peer name pod%d", name, i))
		n.do(func() error {
			return exec.Command("ip", "link", "set", "veth"+name, "alias", owner(name).Alias()).Run()
		})
	}
	n.command("nft add table inet twill-hostports") // somebody touches host ports, so they are looked at
	n.ip("link del vethdead")
	defer n.ip("link del vethalive")
	n.c.eventually("the dead pod is released, the other one has its port", func() string {
		if _, found, err := records.Get(owner("dead")); found || err != nil {
			return "it is not: " + errorText(err)
		}
		if ports := n.nft("list table inet twill-hostports"); !strings.Contains(ports, " 8080 ") || !strings.Contains(ports, " 8081 ") || strings.Contains(ports, " 8082 ") {
			return ports
		}
		return ""
	})
	for _, name := range []string{"alive", "unseen"} {
		if _, found, err := records.Get(owner(name)); !found || err != nil {
			n.c.t.Errorf("the pod that is %s: found %t, %v", name, found, err)
		}
		must(n.c.t, records.Remove(owner(name)))
	}
}

// answers asks the daemon over its socket, as twillctl does.
func (n *testNode) answers() {
	n.c.t.Helper()
	_, err := api.NewClient(n.file("run")).Services(context.Background(), store.ObjectName{})
	if err != nil {
		n.c.t.Errorf("the daemon does not answer: %v", err)
	}
}

// A clean-up in a container goes on past what it cannot do, and its exit code tells: here, the datastore is gone, one directory cannot be written, and
// the settings of the kernel are not where the daemon had them.
func TestCleanupInContainer(t *testing.T) {
	c := newCluster(t, dualNetwork)
	a := c.addNode()
	a.contain(forVXLAN)
	before := a.ip("-o link show type vxlan") + a.ip("-o link show type bridge") + a.ip("route show proto 84") + a.nft("list tables")
	a.start("--proxy=nftables")
	a.eventuallyReady()
	must(t, a.signal(syscall.SIGTERM))
	c.stopEtcd()
	for _, plugin := range []string{"twill", "twill-ipam"} {
		must(t, os.WriteFile(a.file("bin/"+plugin), nil, 0o755))
	}
	a.container.Writable = slices.DeleteFunc(a.container.Writable, func(dir string) bool { return dir == a.file("flannel") })
	out, err := a.run1("--cleanup", "--cni-bin-dir="+a.file("bin"), "--sysctl-dir=/nowhere")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit code 1", err)
	}
	for _, want := range []string{"removed file " + a.file("net.d/10-twill.conflist"), "removed file " + a.file("bin/twill-ipam"), "removed link flannel.1", "removed link cni0",
		"removed table twill-masquerade", "removed table twill-proxy", a.file("flannel/subnet.env") + ": read-only file system", "clean up: release the node's subnets: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if n := strings.Count(out, "clean up: "); n != 2 {
		t.Errorf("%d failures, want 2:\n%s", n, out)
	}
	if after := a.ip("-o link show type vxlan") + a.ip("-o link show type bridge") + a.ip("route show proto 84") + a.nft("list tables"); after != before {
		t.Errorf("left:\n%s", after)
	}
	if files, err := os.ReadDir(a.file("run")); err != nil || len(files) > 0 {
		t.Errorf("the run directory holds %v, error %v", files, err)
	}
}
