//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/delegate"
	"github.com/twill-cni/twill/plugins/hostport"
)

// binDir holds the programs under test: twill with failpoints, and the reference host-local.
var binDir string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: attaching pods needs root")
		return 0, nil
	}
	dir, err := os.MkdirTemp("", "twill-plugin-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binDir = dir
	for _, b := range []struct{ dir, target string }{
		{".", "."},
		{"../../test/reference", "github.com/containernetworking/plugins/plugins/ipam/host-local"},
	} {
		cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", dir+"/", b.target)
		cmd.Dir = b.dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build %s: %w\n%s", b.target, err, out)
		}
	}
	return m.Run(), nil
}

// netns is a network namespace that lasts as long as the test.
type netns struct {
	t    testing.TB
	file *os.File
	path string // for other processes too
}

func newNetns(t testing.TB) netns {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- made{f, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatal(m.err)
	}
	n := netns{t, m.file, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.file.Fd())}
	t.Cleanup(func() { n.file.Close() })
	n.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// try runs f in the namespace, and programs that f starts.
func (n netns) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: see newNetns
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func (n netns) do(f func() error) {
	n.t.Helper()
	if err := n.try(f); err != nil {
		n.t.Fatal(err)
	}
}

// node is a host of its own: network namespace, run directory, network configuration.
type node struct {
	netns
	dir  string
	conf map[string]any
}

// subnets of the three kinds of network.
var (
	subnet4 = []any{map[string]any{"subnet": "10.5.1.0/24"}}
	subnet6 = []any{map[string]any{"subnet": "fd00:5:1::/64"}}
)

func newNode(t testing.TB, ranges ...[]any) *node {
	t.Helper()
	dir := t.TempDir()
	return &node{newNetns(t), dir, map[string]any{"cniVersion": "1.1.0", "name": "net", "type": "twill", "mtu": 1450, "runDir": dir + "/run",
		"ipam": map[string]any{"type": "twill-ipam", "ranges": ranges, "dataDir": dir + "/ipam"}}}
}

// call is one call of the plugin.
type call struct {
	verb, id, ifName string
	netns            string
	args             string
	keys             map[string]any // of the configuration, besides or instead of the node's
	failpoint        string
}

var errDied = errors.New("killed")

// run runs the plugin and returns what it prints, or the error object.
func (n *node) run(c call) (string, error) {
	conf := maps.Clone(n.conf)
	maps.Copy(conf, c.keys)
	data, err := json.Marshal(conf)
	if err != nil {
		return "", err
	}
	return n.runRaw(c, data)
}

func (n *node) runRaw(c call, conf []byte) (string, error) {
	if c.ifName == "" {
		c.ifName = "eth0"
	}
	var stdout, stderr bytes.Buffer
	err := n.try(func() error {
		cmd := exec.Command(filepath.Join(binDir, "twill"))
		cmd.Env = []string{"CNI_COMMAND=" + c.verb, "CNI_CONTAINERID=" + c.id, "CNI_IFNAME=" + c.ifName, "CNI_NETNS=" + c.netns, "CNI_ARGS=" + c.args,
			"CNI_PATH=" + binDir, "TWILL_FAILPOINT=" + c.failpoint}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &stdout, &stderr
		return cmd.Run()
	})
	if stderr.Len() > 0 {
		n.t.Errorf("%s wrote to stderr: %s", c.verb, stderr.String())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return "", errDied
	}
	if err != nil {
		var printed delegate.Error
		if jsonErr := json.Unmarshal(stdout.Bytes(), &printed); jsonErr != nil {
			return "", fmt.Errorf("%w: no error object: %s", err, stdout.String())
		}
		return "", &printed
	}
	return stdout.String(), nil
}

func (n *node) must(c call) string {
	n.t.Helper()
	out, err := n.run(c)
	if err != nil {
		n.t.Fatalf("%s %s: %v", c.verb, c.id, err)
	}
	return out
}

// pod is an attached pod.
type pod struct {
	netns
	id     string
	result attach.Result
	raw    json.RawMessage
}

func (n *node) add(id string, keys map[string]any) pod {
	n.t.Helper()
	p := pod{netns: newNetns(n.t), id: id}
	out := n.must(call{verb: "ADD", id: id, netns: p.path, keys: keys})
	p.raw = json.RawMessage(out)
	if err := json.Unmarshal(p.raw, &p.result); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// with joins a prevResult to configuration keys.
func (p pod) with(keys map[string]any) map[string]any {
	out := map[string]any{"prevResult": p.raw}
	maps.Copy(out, keys)
	return out
}

// addr returns the pod's address of the same family as like.
func (p pod) addr(like netip.Addr) netip.Addr {
	for _, ip := range p.result.IPs {
		if ip.Address.Addr().Is4() == like.Is4() {
			return ip.Address.Addr()
		}
	}
	p.t.Fatalf("pod %s has no address like %s", p.id, like)
	return netip.Addr{}
}

// left lists everything on the node that belongs to pods.
func (n *node) left() []string {
	n.t.Helper()
	var out []string
	n.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "veth" || l.Type() == "ifb" {
				out = append(out, l.Type()+" "+l.Attrs().Name+" "+l.Attrs().Alias)
			}
		}
		return err
	})
	for _, dir := range []string{"run/attachments/net", "ipam/net/leases", "ipam/net/addresses"} {
		files, err := os.ReadDir(filepath.Join(n.dir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.t.Fatal(err)
		}
		for _, f := range files {
			out = append(out, dir+"/"+f.Name())
		}
	}
	var tables *nft.Handle
	n.do(func() (err error) { tables, err = nft.Open(slog.New(slog.DiscardHandler)); return err })
	defer tables.Close()
	for _, s := range hostport.Table().Sets {
		if len(s.Value) == 0 && !strings.HasPrefix(s.Name, "self") {
			continue // of the bridge
		}
		elems, err := tables.ListElements(kernel.FamilyInet, hostport.TableName, s.Name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			n.t.Fatal(err)
		}
		for _, e := range elems {
			out = append(out, fmt.Sprintf("element of %s: %v", s.Name, e.Key))
		}
	}
	return out
}

func (n *node) wantNothingLeft() {
	n.t.Helper()
	if left := n.left(); len(left) > 0 {
		n.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

const timeout = 3 * time.Second

// echo answers TCP connections and UDP packets in the namespace with the address that they come from.
func (n netns) echo(port int) {
	n.t.Helper()
	for _, family := range []string{"4", "6"} {
		var tcp net.Listener
		var udp net.PacketConn
		n.do(func() (err error) {
			if tcp, err = net.Listen("tcp"+family, fmt.Sprint(":", port)); err != nil {
				return err
			}
			udp, err = net.ListenPacket("udp"+family, fmt.Sprint(":", port))
			return err
		})
		n.t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprint(c, host)
				c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 1500)
			for {
				_, from, err := udp.ReadFrom(buf)
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(from.String())
				_, _ = udp.WriteTo([]byte(host), from)
			}
		}()
	}
}

// ask connects from the namespace and returns what echo answers: who is seen to ask.
func (n netns) ask(network string, to netip.AddrPort) (seen string, err error) {
	err = n.try(func() error {
		c, err := net.DialTimeout(network, to.String(), timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		k, err := c.Read(buf)
		seen = string(buf[:k])
		return err
	})
	return seen, err
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(timeout); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, timeout)
		}
	}
}
