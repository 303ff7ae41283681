//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/twill-cni/twill/daemon/daemontest"
)

// A test's nodes are unnamed network namespaces on a bridged underlay. Each runs this test binary as twilld (see
// TestMain); etcd runs in the test process and listens on a unix socket, which all namespaces reach.

const asDaemon = "TWILLD_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if spec := os.Getenv(inContainer); spec != "" {
		var c container
		err := json.Unmarshal([]byte(spec), &c)
		if err == nil {
			err = c.enter()
		}
		log.Fatalf("make a container: %v", err)
	}
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

type cluster struct {
	t      testing.TB
	dir    string
	etcd   *embed.Etcd
	client *clientv3.Client
	net    *netspace // the underlay's bridge
	nodes  int
	kube   *kubernetes // in place of etcd, if there is one
}

func newCluster(t testing.TB, network string) *cluster {
	t.Helper()
	c := newUnderlay(t)
	c.startEtcd()
	t.Cleanup(c.stopEtcd)
	if network != "" {
		c.put("config", network)
	}
	return c
}

// newUnderlay makes a cluster without a datastore.
func newUnderlay(t testing.TB) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "twilld") // a unix socket's path is short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &cluster{t: t, dir: dir, net: newNetspace(t)}
	c.net.do(func() error {
		return up(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "underlay"}})
	})
	return c
}

func (c *cluster) socket() string { return filepath.Join(c.dir, "e") }

func (c *cluster) startEtcd() {
	c.t.Helper()
	unix := func(name string) []url.URL { return []url.URL{{Scheme: "unix", Path: filepath.Join(c.dir, name)}} }
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "test", filepath.Join(c.dir, "data")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = unix("e"), unix("e")
	cfg.ListenPeerUrls = unix("p")
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs, cfg.UnsafeNoFsync = 10, 100, true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	must(c.t, err)
	<-etcd.Server.ReadyNotify()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + c.socket()}})
	must(c.t, err)
	c.etcd, c.client = etcd, client
}

func (c *cluster) stopEtcd() {
	if c.etcd != nil {
		_ = c.client.Close()
		c.etcd.Close()
		c.etcd = nil
	}
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := c.client.Put(ctx, "/coreos.com/network/"+key, value)
	must(c.t, err)
}

func (c *cluster) delete(key string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := c.client.Delete(ctx, "/coreos.com/network/"+key)
	must(c.t, err)
}

// testNode is a node of the underlay.
type testNode struct {
	*netspace
	c    *cluster
	name string
	dir  string
	addr string // on the underlay
	// wrapper is a command that start runs the daemon by; empty for none.
	wrapper   []string
	container *container // that the daemon runs in; nil for none

	cmd  *exec.Cmd
	log  *daemontest.Log
	exit chan error
}

func (c *cluster) addNode() *testNode {
	c.t.Helper()
	c.nodes++
	n := &testNode{netspace: newNetspace(c.t), c: c, name: fmt.Sprintf("node%d", c.nodes), addr: fmt.Sprintf("192.0.2.%d", c.nodes)}
	n.dir = filepath.Join(c.dir, n.name)
	n.ip("link set lo up")
	c.plug(n, c.nodes)
	return n
}

// pair adds two nodes and returns when their daemons are ready.
func (c *cluster) pair() (a, b *testNode) {
	c.t.Helper()
	a, b = c.addNode(), c.addNode()
	a.start()
	b.start()
	a.eventuallyReady()
	b.eventuallyReady()
	return a, b
}

// plug gives a node its uplink.
func (c *cluster) plug(n *testNode, number int) {
	c.t.Helper()
	c.net.do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", number)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.handle)}
		if err := up(veth); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("underlay")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(veth, bridge)
	})
	n.ip("addr add " + n.addr + "/24 dev eth0")
	n.ip(fmt.Sprintf("addr add 2001:db8::%d/64 dev eth0 nodad", number))
	n.ip("link set eth0 up")
}

func (n *testNode) args(extra ...string) []string {
	datastore := []string{"--etcd-endpoints=unix://" + n.c.socket()}
	if n.c.kube != nil {
		datastore = n.c.kube.flags()
	}
	args := slices.Concat(datastore, []string{
		"--iface=eth0", "--node-name=" + n.name,
		"--subnet-file=" + n.file("flannel/subnet.env"), "--run-dir=" + n.file("run"),
		"--cni-conf-dir=" + n.file("net.d"), "--cni-bin-dir=",
	})
	if n.container != nil {
		args = append(args, "--sysctl-dir="+n.file("host/proc/sys"))
	}
	return append(args, extra...)
}

func (n *testNode) file(name string) string { return filepath.Join(n.dir, name) }

func (n *testNode) start(extra ...string) {
	n.c.t.Helper()
	command := slices.Concat(n.wrapper, []string{os.Args[0]}, n.args(extra...))
	n.cmd = exec.Command(command[0], command[1:]...)
	n.cmd.Env, n.cmd.SysProcAttr = n.environ(), n.attributes()
	n.log = &daemontest.Log{}
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.do(n.cmd.Start)
	cmd, exit := n.cmd, make(chan error, 1)
	n.exit = exit
	go func() { exit <- cmd.Wait() }()
	n.c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if n.c.t.Failed() {
			n.c.t.Logf("log of %s:\n%s", n.name, n.log)
		}
	})
}

func (n *testNode) signal(sig os.Signal) error {
	n.c.t.Helper()
	must(n.c.t, n.cmd.Process.Signal(sig))
	return n.wait()
}

func (n *testNode) wait() error {
	n.c.t.Helper()
	select {
	case err := <-n.exit:
		return err
	case <-time.After(10 * time.Second):
		n.c.t.Fatalf("%s does not end", n.name)
		return nil
	}
}

func (n *testNode) kill() { _ = n.signal(syscall.SIGKILL) }

// get asks the daemon over HTTP from inside its namespace.
func (n *testNode) get(path string) (code int, body string) {
	return n.getFrom("127.0.0.1:10270", path)
}

func (n *testNode) getFrom(address, path string) (code int, body string) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(n.c.t, err)
	return resp.StatusCode, string(data)
}

func (n *testNode) eventuallyReady() {
	n.c.t.Helper()
	n.c.eventually(n.name+" is ready", func() string {
		if code, body := n.get("/readyz"); code != http.StatusOK {
			return body
		}
		return ""
	})
}

// eventually waits until amiss returns nothing.
func (c *cluster) eventually(what string, amiss func() string) {
	c.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		why := amiss()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("waiting until %s: %s", what, why)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// read returns the content of one of the node's files, or why it cannot be read.
func (n *testNode) read(name string) string {
	data, err := os.ReadFile(n.file(name))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// run1 runs twilld to its end and returns what it prints.
func (n *testNode) run1(extra ...string) (string, error) {
	var out []byte
	err := n.run(func() (err error) {
		cmd := exec.Command(os.Args[0], n.args(extra...)...)
		cmd.Env, cmd.SysProcAttr = n.environ(), n.attributes()
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

func (n *testNode) cleanup() string {
	n.c.t.Helper()
	out, err := n.run1("--cleanup")
	if err != nil {
		n.c.t.Fatalf("clean up: %v: %s", err, out)
	}
	return out
}

// gateways returns the addresses of the node's bridge as subnet.env has them.
func (n *testNode) gateways() []string {
	var addrs []string
	for line := range strings.Lines(n.read("flannel/subnet.env")) {
		if _, value, ok := strings.Cut(line, "SUBNET="); ok {
			addr, _, _ := strings.Cut(value, "/")
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// eventuallyReach waits until each family's datagrams go from one node to the other's bridge and back.
func (c *cluster) eventuallyReach(from, to *testNode) {
	c.t.Helper()
	gateways := to.gateways()
	if len(gateways) == 0 {
		c.t.Fatalf("%s has no subnet.env", to.name)
	}
	for _, gateway := range gateways {
		c.eventually(from.name+" reaches "+gateway, func() string { return from.reaches(to, gateway) })
	}
}

// reaches sends a datagram to an address of the other node, which sends it back. It returns what went wrong.
func (n *testNode) reaches(o *testNode, addr string) string {
	var echo net.PacketConn
	err := o.run(func() (err error) {
		echo, err = net.ListenPacket("udp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer echo.Close()
	conn, err := n.dial(context.Background(), "udp", echo.LocalAddr().String())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	deadline := time.Now().Add(500 * time.Millisecond)
	buf := make([]byte, 16)
	if err := errors.Join(echo.SetDeadline(deadline), conn.SetDeadline(deadline)); err != nil {
		return err.Error()
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err.Error()
	}
	_, source, err := echo.ReadFrom(buf)
	if err != nil {
		return n.name + " to " + o.name + ": " + err.Error()
	}
	if _, err := echo.WriteTo(buf, source); err != nil {
		return err.Error()
	}
	if _, err := conn.Read(buf); err != nil {
		return o.name + " back to " + n.name + ": " + err.Error()
	}
	return ""
}

// dial opens a connection from inside the namespace.
func (s *netspace) dial(_ context.Context, network, address string) (conn net.Conn, err error) {
	err = s.run(func() error {
		conn, err = net.DialTimeout(network, address, 2*time.Second)
		return err
	})
	return conn, err
}

// netspace is an unnamed network namespace, which one locked thread keeps alive and works in.
type netspace struct {
	t      testing.TB
	handle netns.NsHandle
	work   chan func()
}

func newNetspace(t testing.TB) *netspace {
	t.Helper()
	s := &netspace{t: t, work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		var err error
		s.handle, err = netns.New()
		made <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() {
		close(s.work)
		_ = s.handle.Close()
	})
	return s
}

// run calls f in the namespace.
func (s *netspace) run(f func() error) error {
	done := make(chan error)
	s.work <- func() { done <- f() }
	return <-done
}

func (s *netspace) do(f func() error) {
	s.t.Helper()
	must(s.t, s.run(f))
}

// ip runs ip(8), the second opinion on what the kernel holds, and returns what it prints.
func (s *netspace) ip(args string) string { s.t.Helper(); return s.output("ip " + args) }

// links returns the names and addresses of all links, without their state: a link that was just set up has its carrier a moment later.
func (s *netspace) links() string {
	s.t.Helper()
	var links strings.Builder
	for line := range strings.Lines(s.ip("-br link")) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			fmt.Fprintln(&links, fields[0], fields[2])
		}
	}
	return links.String()
}

func (s *netspace) nft(args string) string { s.t.Helper(); return s.output("nft " + args) }

// fdb returns the entries that name a tunnel's end.
func (s *netspace) fdb() string {
	s.t.Helper()
	var entries []string
	for line := range strings.Lines(s.output("bridge fdb show")) {
		if strings.Contains(line, "dst ") {
			entries = append(entries, line)
		}
	}
	return strings.Join(entries, "")
}

// command runs a program, ip(8) unless the command starts with another one.
func (s *netspace) command(command string) {
	s.t.Helper()
	if !strings.HasPrefix(command, "nft ") && !strings.HasPrefix(command, "bridge ") {
		command = "ip " + command
	}
	s.output(command)
}

func (s *netspace) output(command string) string {
	s.t.Helper()
	fields := strings.Fields(command)
	var out []byte
	err := s.run(func() (err error) {
		out, err = exec.Command(fields[0], fields[1:]...).CombinedOutput()
		return err
	})
	// A device that is missing for the moment is an answer too.
	if err != nil && !strings.Contains(string(out), "does not exist") && !strings.Contains(string(out), "Cannot find device") &&
		!strings.Contains(string(out), "No such file") {
		s.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

func up(link netlink.Link) error {
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
