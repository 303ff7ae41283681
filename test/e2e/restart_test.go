package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// The dataplane outlives the daemon: restarts and upgrades under 1,000 packets a second cost none.
func TestRestartLosesNothing(t *testing.T) {
	l := up(t, lab.Options{Nodes: 2, Family: lab.DualStack, PodsPerNode: 1})
	pods, node := l.Pods(), l.Nodes()[0]
	upgrade := filepath.Join(t.TempDir(), "new")
	must(t, os.CopyFS(upgrade, os.DirFS(binDir)))
	var streams []*load
	for _, v6 := range []bool{false, true} { // 4 x 250 packets a second
		streams = append(streams, startLoad(t, pods[0], addr(t, pods[1], v6), 4*time.Millisecond),
			startLoad(t, pods[1], addr(t, pods[0], v6), 4*time.Millisecond))
	}
	before := programmed(t, node)
	stop := func() error { return node.StopDaemon(t.Context()) }
	kill := func() error { return node.KillDaemon(t.Context()) }
	steps := []struct {
		name    string
		end     func() error
		program string
	}{
		{"SIGTERM", stop, ""}, {"SIGKILL", kill, ""}, {"upgrade", stop, filepath.Join(upgrade, "twilld")}, {"rollback", stop, ""}, {"SIGKILL again", kill, ""},
	}
	for _, step := range steps {
		pid := node.DaemonPID()
		begin := time.Now()
		must(t, step.end())
		ended := time.Since(begin)
		if now := programmed(t, node); now != before {
			t.Errorf("%s: its end changed the kernel:\n%s", step.name, difference(before, now))
		}
		must(t, node.SetDaemon(lab.NodeOptions{Program: step.program}))
		begin = time.Now()
		must(t, node.StartDaemon())
		must(t, node.Ready(t.Context()))
		t.Logf("%s: ended in %v, ready again in %v", step.name, ended.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		if pid == node.DaemonPID() {
			t.Errorf("%s: it is the same process", step.name)
		}
		if now := programmed(t, node); now != before {
			t.Errorf("%s: its start changed the kernel:\n%s", step.name, difference(before, now))
		}
	}
	for _, s := range streams {
		s.endWhole(t)
	}
}

// A daemon that is killed in the middle of a sync leaves nothing that the next one does not mend.
func TestKilledInSync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(binDir)))
	must(t, os.Remove(filepath.Join(dir, "twilld")))
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "failpoint", "-o", dir, "../../daemon/twilld")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program := filepath.Join(dir, "twilld")
	l := up(t, lab.Options{PodsPerNode: 1})
	node, pods := l.Nodes()[0], l.Pods()
	healthy := programmed(t, node)
	for _, failpoint := range []string{"sync-begin", "sync-end", "sync-announce"} {
		stream := startLoad(t, pods[0], addr(t, pods[1], false), 2*time.Millisecond)
		must(t, node.StopDaemon(t.Context()))
		// Something to mend, that the stream does not need.
		sh(t, node.Netns(), "ip route add 10.244.253.0/24 via 172.30.0.1 proto 84; nft delete table inet twill-masquerade")
		must(t, node.SetDaemon(lab.NodeOptions{Program: program, Env: []string{"TWILL_FAILPOINT=" + failpoint}}))
		must(t, node.StartDaemon())
		within(t, enough, func() error {
			if node.DaemonRunning() {
				return fmt.Errorf("%s was not hit", failpoint)
			}
			return nil
		})
		must(t, node.SetDaemon(lab.NodeOptions{Program: program}))
		must(t, node.StartDaemon())
		must(t, node.Ready(t.Context()))
		if now := programmed(t, node); now != healthy {
			t.Errorf("%s: the next run left:\n%s", failpoint, difference(healthy, now))
		}
		stream.endWhole(t)
	}
	wantMatrix(t, l)
}

// Peers that left, came or changed while the daemon was down are put right by its start.
func TestPeersChangeWhileDown(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	node, gone := l.Nodes()[0], l.Nodes()[2]
	key := leaseKey(t, l, gone)
	subnet := strings.Replace(strings.TrimPrefix(key, subnetsKey), "-", "/", 1)
	must(t, hasRoute(t, node, subnet, true)())
	must(t, node.KillDaemon(t.Context()))
	must(t, gone.Delete(t.Context()))
	del(t, l, key)
	put(t, l, subnetsKey+"10.244.250.0-24", peerValue("172.30.9.1"))
	must(t, node.StartDaemon())
	must(t, node.Ready(t.Context()))
	must(t, errors.Join(hasRoute(t, node, subnet, false)(), hasRoute(t, node, "10.244.250.0/24", true)()))
	base, _, _ := strings.Cut(subnet, "/")
	if left := sh(t, node.Netns(), "ip neigh show dev flannel.1; bridge fdb show dev flannel.1"); strings.Contains(left, base) ||
		strings.Contains(left, "dst 172.30.1.3") || !strings.Contains(left, "dst 172.30.9.1") {
		t.Errorf("left of the peer, or missing of the new one:\n%s", left)
	}
	wantMatrix(t, l)
}

// After a reboot, with the run directory and all links gone and late DELs for containers of before, the node serves the same subnet.
func TestReboot(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Family: lab.DualStack, PodsPerNode: 2})
	node := l.Nodes()[0]
	key := leaseKey(t, l, node)
	old := node.Pods()
	must(t, node.KillDaemon(t.Context()))
	for _, p := range old {
		must(t, p.Vanish(t.Context()))
	}
	sh(t, node.Netns(), `nft flush ruleset
for dev in $(ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do
	case $dev in lo|eth0) ;; *) ip link del $dev 2>/dev/null || true ;; esac
done`)
	must(t, errors.Join(os.RemoveAll(node.RunDir()), os.Remove(node.SubnetFile())))
	must(t, node.StartDaemon())
	must(t, node.Ready(t.Context()))
	if now := leaseKey(t, l, node); now != key {
		t.Errorf("the lease is %s, was %s", now, key)
	}
	var pods []*lab.Pod
	for i := range old {
		p, err := node.AddPod(t.Context(), lab.PodOptions{Name: fmt.Sprintf("after-%d", i)})
		must(t, err)
		pods = append(pods, p)
	}
	for _, p := range old {
		if err := p.Detach(t.Context()); err != nil {
			t.Errorf("a late DEL: %v", err)
		}
	}
	for _, p := range pods {
		if err := p.Check(t.Context()); err != nil {
			t.Errorf("after late DELs: %v", err)
		}
	}
	one, err := node.AddPod(t.Context(), lab.PodOptions{Name: "one-more"})
	must(t, err)
	for _, p := range pods {
		if p.Addrs()[0] == one.Addrs()[0] {
			t.Errorf("%s and %s have the same address: a late DEL freed it", p.Name, one.Name)
		}
	}
	wantMatrix(t, l)
}
