package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/ctl/lab"
)

// rack is one node with a pod, and FRR as the router of its rack.
type rack struct {
	lab       *lab.Lab
	node, tor *lab.Node
	frr       *peertest.FRR
	log       string // of FRR's bgpd
	subnets   []string
}

// newRack returns when FRR reaches the pod. more goes into the configuration of the node's peer.
func newRack(t *testing.T, more string) *rack {
	t.Helper()
	l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 1})
	r := &rack{lab: l, node: l.Nodes()[0], tor: outsider(t, l, "tor"), log: "/tmp/" + l.Name() + ".log"}
	r.subnets = strings.Split(strings.ReplaceAll(subnetOf(t, l, r.node), "-", "/"), "&")
	must(t, os.WriteFile(r.log, nil, 0o666))
	must(t, os.Chmod(r.log, 0o666)) // FRR is not root
	t.Cleanup(func() { _ = os.Remove(r.log) })
	r.frr = router{as: rackAS, nodes: []*lab.Node{r.node}, global: "log file " + r.log + "\ndebug bgp updates in\n"}.frr(t, r.tor)
	must(t, r.node.SetBGPConfig(fmt.Appendf(nil, "peers:\n- {name: tor, address: %s, as: %d%s}\n", address(t, r.tor, false), rackAS, more)))
	for _, a := range l.Pods()[0].Addrs() {
		within(t, enough, func() error { return echo(t.Context(), r.tor.Netns(), a, 0) })
	}
	return r
}

// established waits until FRR's session with the node is up, and is no longer one that restarts.
func (r *rack) established(t *testing.T) {
	t.Helper()
	established(t, r.node, 1)
	within(t, enough, func() error {
		for i, family := range []string{"ipv4", "ipv6"} {
			paths := r.frr.Paths(family, r.subnets[i])
			if len(paths) != 1 || paths[0].Stale || !paths[0].Valid {
				return fmt.Errorf("FRR has for %s: %+v", r.subnets[i], paths)
			}
		}
		return nil
	})
}

// withdrawals counts the messages that took a route away from FRR.
func (r *rack) withdrawals(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(r.log)
	must(t, err)
	if !strings.Contains(string(text), "rcvd UPDATE") {
		t.Errorf("FRR logs no updates:\n%s", text)
	}
	return strings.Count(string(text), "withdrawn")
}

// streams sends 1,000 packets a second from the router to the pod.
func (r *rack) streams(t *testing.T) []*load {
	t.Helper()
	var all []*load
	for _, a := range r.lab.Pods()[0].Addrs() {
		all = append(all, startLoadIn(t, r.tor.Netns(), a, 2*time.Millisecond))
	}
	return all
}

// A router that speaks graceful restart sends 1,000 packets a second to pods while the daemon is stopped, killed, upgraded: none is lost, and
// no route is taken away, neither by a message nor from the router's kernel.
func TestBGPUpgradeUnderFRR(t *testing.T) {
	r := newRack(t, "")
	r.established(t)
	upgrade := t.TempDir()
	must(t, os.CopyFS(upgrade, os.DirFS(binDir)))
	monitor := r.frr.Monitor()
	routes := r.frr.Routes()
	streams := r.streams(t)
	stop := func() error { return r.node.StopDaemon(t.Context()) }
	kill := func() error { return r.node.KillDaemon(t.Context()) }
	for _, step := range []struct {
		name    string
		end     func() error
		program string
	}{
		{"SIGTERM", stop, ""}, {"SIGKILL", kill, ""}, {"upgrade", stop, filepath.Join(upgrade, "twilld")},
	} {
		begin := time.Now()
		must(t, step.end())
		must(t, r.node.SetDaemon(lab.NodeOptions{Program: step.program}))
		must(t, r.node.StartDaemon())
		must(t, r.node.Ready(t.Context()))
		ready := time.Since(begin)
		r.established(t)
		t.Logf("%s: ready after %v, session after %v", step.name, ready.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
	}
	for _, s := range streams {
		s.endWhole(t)
	}
	if n := r.withdrawals(t); n > 0 {
		t.Errorf("FRR heard %d withdrawals", n)
	}
	if out := monitor.Output(); strings.Contains(out, "Deleted") {
		t.Errorf("routes were deleted at FRR:\n%s", out)
	}
	if now := r.frr.Routes(); now != routes {
		t.Errorf("FRR's routes in the kernel changed:\n%s", difference(routes, now))
	}
}

// Without graceful restart the same costs packets.
func TestBGPUpgradeWithoutGracefulRestart(t *testing.T) {
	t.Parallel()
	r := newRack(t, ", gracefulRestart: {enabled: false}")
	r.established(t)
	monitor := r.frr.Monitor()
	streams := r.streams(t)
	must(t, r.node.StopDaemon(t.Context()))
	must(t, r.node.StartDaemon())
	within(t, enough, func() error {
		if out := monitor.Output(); !strings.Contains(out, "Deleted") {
			return fmt.Errorf("no route was deleted at FRR: %q", out)
		}
		return nil
	})
	within(t, enough, func() error { return echo(t.Context(), r.tor.Netns(), r.lab.Pods()[0].Addrs()[0], 0) })
	for _, s := range streams {
		if got := s.end(t); got.Lost() == 0 {
			t.Errorf("%s to %s lost nothing: the test cannot see a loss", s.from, s.to)
		}
	}
}
