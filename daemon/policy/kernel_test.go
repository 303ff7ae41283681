package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/policy/gate"
)

func run(t testing.TB, format string, args ...any) {
	t.Helper()
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// lab is this node, which is the tests' own network namespace, and pods around it.
type lab struct {
	t      *testing.T
	handle *nft.Handle
}

func newLab(t *testing.T) *lab {
	handle, err := nft.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t, handle}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := handle.SyncTables(context.Background(), nil, []string{gate.TableName}); err != nil {
			t.Error(err)
		}
		_ = handle.Close()
	})
	return l
}

// namespace is the name of a pod's network namespace.
func namespace(name string) string { return fmt.Sprintf("twp-%d-%s", os.Getpid(), name) }

// pod makes a pod with an address, which is routed through the node.
func (l *lab) pod(name, addr string) {
	l.t.Helper()
	ns := namespace(name)
	run(l.t, `ip netns add %[1]s
ip link add v-%[2]s type veth peer name eth0 netns %[1]s
ip link set v-%[2]s up
ip addr add 169.254.1.1/32 dev v-%[2]s
ip route add %[3]s/32 dev v-%[2]s
ip -n %[1]s link set eth0 up
ip -n %[1]s addr add %[3]s/32 dev eth0
ip -n %[1]s route add 169.254.1.1 dev eth0
ip -n %[1]s route add default via 169.254.1.1`, ns, name, addr)
	l.t.Cleanup(func() { run(l.t, "ip link del v-%s\nip netns del %s", name, ns) })
}

// in calls f in the network namespace of a pod.
func (l *lab) in(name string, f func()) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+namespace(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.t.Fatal(err)
	}
}

// serve has a pod echo on a port.
func (l *lab) serve(name, address string) {
	l.in(name, func() {
		listener, err := net.Listen("tcp4", address)
		if err != nil {
			l.t.Error(err)
			return
		}
		l.t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
	})
}

// dial connects from a pod; nil when that does not work in time.
func (l *lab) dial(from, address string, limit time.Duration) (c net.Conn) {
	l.in(from, func() { c, _ = net.DialTimeout("tcp4", address, limit) })
	return c
}

func (l *lab) reaches(from, address string, limit time.Duration) bool {
	c := l.dial(from, address, limit)
	if c == nil {
		return false
	}
	_ = c.Close()
	return true
}

// echoes reports whether a connection carries data within the time.
func echoes(c net.Conn, limit time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

// enforce starts an Enforcer on the kernel.
func (l *lab) enforce(k Kernel, objects ...any) *rig {
	l.t.Helper()
	r := newRig(l.t, kerneltest.NewTables(), func(o *Options) {
		o.Kernel, o.Conntrack, o.Drops = k, Conntrack{Remark: conntrack.Remark}, Listen(o.Table.LogGroup)
	})
	r.host.put(record("web", "10.1.1.2"))
	r.begin(objects...)
	r.settled()
	return r
}

// listed is the whole table as nft shows it, without counters.
func (l *lab) listed() string {
	out, err := exec.Command("nft", "-s", "list", "table", "inet", gate.TableName).CombinedOutput()
	if err != nil {
		l.t.Fatalf("nft list: %v\n%s", err, out)
	}
	return string(out)
}

const soon = 300 * time.Millisecond // in which what is closed has to stay closed

// On the real kernel: what is allowed, a change that cuts a connection and one that restores it, a table that is deleted, and a restart.
func TestOnTheKernel(t *testing.T) {
	l := newLab(t)
	l.pod("web", "10.1.1.2")
	l.pod("client", "10.1.2.2")
	l.serve("web", "10.1.1.2:80")
	l.serve("web", "10.1.1.2:81")
	web := []any{shop(), allow("web", "role=web", "role=client"), pod(thisNode, "web", "10.1.1.2", "role=web")}
	r := l.enforce(l.handle, append(web, pod("node-b", "client", "10.1.2.2", "role=client"))...)
	monitor, err := l.handle.NewMonitor()
	if err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = monitor.Run(watching, r.Observe) }()
	defer func() { stop(); <-ended }()

	if l.reaches("client", "10.1.1.2:81", soon) {
		t.Error("a port that no rule allows is open")
	}
	r.until("the log to tell who refused it", func() bool {
		return strings.Contains(r.log.String(), "pod=shop/web address=10.1.1.2 peer=10.1.2.2 protocol=TCP peerPod=shop/client port=81 policies=[shop/web]")
	})
	c := l.dial("client", "10.1.1.2:80", daemontest.Patience)
	if c == nil || !echoes(c, daemontest.Patience) {
		t.Fatal("the client does not reach what a rule allows")
	}
	defer c.Close()
	if host, err := net.DialTimeout("tcp4", "10.1.1.2:81", daemontest.Patience); err != nil {
		t.Errorf("the node does not reach its pod: %v", err)
	} else {
		_ = host.Close()
	}

	began := time.Now()
	r.tell(pod("node-b", "client", "10.1.2.2", "role=none"))
	r.until("the connection to be cut", func() bool { return r.figure("twill_policy_cut_flows_total") > 0 })
	t.Logf("a connection is cut after %v", time.Since(began))
	if echoes(c, soon) || l.reaches("client", "10.1.1.2:80", soon) {
		t.Error("a client whose label is gone goes on")
	}
	r.tell(pod("node-b", "client", "10.1.2.2", "role=client"))
	r.until("the connection to go on", func() bool { return echoes(c, time.Second) })

	run(t, "nft delete table inet "+gate.TableName)
	r.until("the table to be repaired", func() bool {
		return !l.reaches("client", "10.1.1.2:81", soon) && l.reaches("client", "10.1.1.2:80", daemontest.Patience)
	})
	r.settled()
	r.stop()
	before := l.listed()
	again := l.enforce(l.handle, append(web, pod("node-b", "client", "10.1.2.2", "role=client"))...)
	if n := again.figure("twill_policy_elements_written_total"); n != 0 {
		t.Errorf("the restart wrote %v elements", n)
	}
	if diff := cmp.Diff(before, l.listed()); diff != "" {
		t.Error(diff)
	}
}

// dying is a kernel that a daemon can write to so often before it is killed.
type dying struct {
	*nft.Handle
	left int
}

var errKilled = errors.New("killed")

func (d *dying) ChangeElements(ctx context.Context, family kernel.TableFamily, table string, changes []kernel.SetChange) error {
	if d.left--; d.left < 0 {
		return errKilled
	}
	return d.Handle.ChangeElements(ctx, family, table, changes)
}

func (d *dying) SyncTables(ctx context.Context, desired []kernel.Table, stale []string) error {
	if d.left--; d.left < 0 {
		return errKilled
	}
	return d.Handle.SyncTables(ctx, desired, stale)
}

// A daemon that is killed between the steps of a change leaves each connection with the old verdict or the new one, and its successor ends the change.
func TestKilledBetweenSteps(t *testing.T) {
	l := newLab(t)
	l.pod("web", "10.1.1.2")
	l.pod("client", "10.1.2.2")
	l.pod("stranger", "10.1.2.3")
	l.serve("web", "10.1.1.2:80")
	l.serve("web", "10.1.1.2:81")
	pods := []any{shop(), pod(thisNode, "web", "10.1.1.2", "role=web"), pod("node-b", "client", "10.1.2.2", "role=client"), pod("node-b", "stranger", "10.1.2.3", "role=stranger")}
	old, now := allow("web", "role=web", "role=client"), allow("web", "role=web", "role=stranger")
	now.Ingress[0].Ports[0].Port = 81
	for steps := 0; ; steps++ {
		k := &dying{l.handle, 1 << 30}
		r := l.enforce(k, append(pods, old)...)
		r.state.Lock()
		k.left = steps
		r.state.Unlock()
		r.source.Tell(r.t, changes(now))
		r.until("the change to be made or to fail", func() bool {
			r.state.Lock()
			defer r.state.Unlock()
			return r.progress.State().Waiting == 0 || k.left < 0
		})
		r.stop()
		died := k.left < 0
		for from, address := range map[string]string{"client": "10.1.1.2:81", "stranger": "10.1.1.2:80"} {
			if l.reaches(from, address, soon) {
				t.Errorf("killed after %d steps: %s reaches %s, which neither policy allows", steps, from, address)
			}
		}
		after := l.enforce(l.handle, append(pods, now)...)
		if !l.reaches("stranger", "10.1.1.2:81", daemontest.Patience) || l.reaches("client", "10.1.1.2:80", soon) {
			t.Errorf("killed after %d steps: the successor does not end the change", steps)
		}
		after.stop()
		if !died {
			t.Logf("the change has %d steps", steps)
			if steps < 3 {
				t.Error("that is too few to be a test")
			}
			return
		}
	}
}
