package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

// upBGP makes a lab that routes.
func upBGP(t *testing.T, options lab.Options) *lab.Lab {
	t.Helper()
	options.Backend = lab.BGP
	options.BackendConfig = json.RawMessage(`{}`)
	return up(t, options)
}

// sessions returns what a node's daemon says of its sessions.
func sessions(t *testing.T, n *lab.Node) []bgp.SessionState {
	t.Helper()
	all, err := api.NewClient(n.RunDir()).Sessions(t.Context())
	must(t, err)
	return all
}

// established waits until a node has so many sessions, all of them up.
func established(t *testing.T, n *lab.Node, want int) {
	t.Helper()
	within(t, enough, func() error {
		all, err := api.NewClient(n.RunDir()).Sessions(t.Context())
		if err != nil {
			return err
		}
		if len(all) != want {
			return fmt.Errorf("%s has %d sessions, want %d: %+v", n.Name, len(all), want, all)
		}
		for _, s := range all {
			if !s.Established() {
				return fmt.Errorf("%s: the session with %s is %s: %s", n.Name, s.Name, s.State, s.LastError)
			}
		}
		return nil
	})
}

// Pods of all nodes reach each other without encapsulation, as soon as the nodes are ready.
func TestBGPMatrix(t *testing.T) {
	t.Parallel()
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.DualStack} {
		t.Run(string(family), func(t *testing.T) {
			t.Parallel()
			l := upBGP(t, lab.Options{Family: family, PodsPerNode: 2})
			wantMatrix(t, l)
			node := l.Nodes()[0]
			routes := sh(t, node.Netns(), "ip -4 route show proto 84; ip -6 route show proto 84; ip -o link show")
			if strings.Contains(routes, "flannel") || strings.Count(routes, "metric 32") == 0 || strings.Contains(routes, "onlink") {
				t.Errorf("routes and links of %s:\n%s", node.Name, routes)
			}
			for _, v6 := range []bool{false, true} {
				if v6 && family.V6() || !v6 && family.V4() {
					wantLargePackets(t, l, v6, 1500)
				}
			}
			established(t, node, 2)
		})
	}
}

// Packets to addresses of the node's own subnet that no pod has are not sent back to the router that they came from.
func TestBGPBlackhole(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	sh(t, node.Netns(), "ip link set cni0 down")
	for _, family := range []string{"-4", "-6"} {
		own := sh(t, node.Netns(), "ip "+family+" route show proto 84 type blackhole")
		if !strings.Contains(own, "blackhole") {
			t.Errorf("no blackhole among\n%s", sh(t, node.Netns(), "ip "+family+" route show proto 84"))
		}
	}
}

// A daemon's restart, upgrade or kill -9 costs no packet and changes no route on any node.
func TestBGPRestartLosesNothing(t *testing.T) {
	l := upBGP(t, lab.Options{Nodes: 3, Family: lab.DualStack, PodsPerNode: 1})
	nodes, pods := l.Nodes(), l.Pods()
	for _, n := range nodes {
		established(t, n, 2)
	}
	var streams []*load
	for _, v6 := range []bool{false, true} { // 4 x 250 packets a second
		streams = append(streams, startLoad(t, pods[0], addr(t, pods[1], v6), 4*time.Millisecond),
			startLoad(t, pods[1], addr(t, pods[0], v6), 4*time.Millisecond))
	}
	before := []string{programmed(t, nodes[0]), programmed(t, nodes[1])}
	for _, step := range []struct {
		name string
		end  func() error
	}{
		{"SIGTERM", func() error { return nodes[0].StopDaemon(t.Context()) }},
		{"SIGKILL", func() error { return nodes[0].KillDaemon(t.Context()) }},
		{"SIGKILL again", func() error { return nodes[0].KillDaemon(t.Context()) }},
		{"SIGTERM again", func() error { return nodes[0].StopDaemon(t.Context()) }},
	} {
		unchanged := func(when string) {
			t.Helper()
			for i := range before {
				if now := programmed(t, nodes[i]); now != before[i] {
					t.Errorf("%s, %s: the routes of %s changed:\n%s", step.name, when, nodes[i].Name, difference(before[i], now))
				}
			}
		}
		must(t, step.end())
		unchanged("while the daemon is gone")
		begin := time.Now()
		must(t, nodes[0].StartDaemon())
		must(t, nodes[0].Ready(t.Context()))
		t.Logf("%s: ready again in %v", step.name, time.Since(begin).Round(time.Millisecond))
		unchanged("after the start")
		established(t, nodes[0], 2)
		unchanged("after the sessions are up")
	}
	for _, s := range streams {
		s.endWhole(t)
	}
}

// A node that leaves the cluster while another one's daemon is down is forgotten by that one's start, once all the others have spoken.
func TestBGPPeerLeavesWhileDown(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	node, gone := l.Nodes()[0], l.Nodes()[2]
	subnet := subnetOf(t, l, gone)
	must(t, hasRoute(t, node, subnet, true)())
	must(t, node.KillDaemon(t.Context()))
	key := leaseKey(t, l, gone)
	must(t, gone.Delete(t.Context()))
	del(t, l, key)
	must(t, node.StartDaemon())
	must(t, node.Ready(t.Context()))
	within(t, enough, hasRoute(t, node, subnet, false))
	wantMatrix(t, l)
}

func subnetOf(t *testing.T, l *lab.Lab, n *lab.Node) string {
	t.Helper()
	return strings.Replace(strings.TrimPrefix(leaseKey(t, l, n), subnetsKey), "-", "/", 1)
}

// A node that falls silent keeps nobody waiting for longer than the hold time: graceful restart is for daemons that restart, not for
// nodes that are dead.
func TestBGPDeadNodeIsNoBlackhole(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	node, dead := l.Nodes()[0], l.Nodes()[2]
	established(t, node, 2)
	subnet := subnetOf(t, l, dead)
	must(t, dead.Unplug())
	took := within(t, 13*time.Second, hasRoute(t, node, subnet, false))
	t.Logf("the dead node's route went after %v; the hold time is 9s", took.Round(time.Millisecond))
	must(t, dead.PlugIn())
	within(t, 2*enough, hasRoute(t, node, subnet, true))
}

// With BFD, a silent node is noticed in less than a second.
func TestBGPWithBFD(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	for _, n := range l.Nodes() {
		must(t, n.SetBGPConfig([]byte("bfd: {enabled: true, transmit: 300ms, receive: 300ms, multiplier: 3}\n")))
	}
	node, dead := l.Nodes()[0], l.Nodes()[2]
	within(t, 2*enough, func() error {
		for _, s := range sessions(t, node) {
			if s.BFD != "Up" || !s.Established() {
				return fmt.Errorf("%s: BFD is %q, the session %s", s.Name, s.BFD, s.State)
			}
		}
		return nil
	})
	subnet := subnetOf(t, l, dead)
	must(t, dead.Unplug())
	took := within(t, 3*time.Second, hasRoute(t, node, subnet, false))
	t.Logf("the route went after %v", took.Round(time.Millisecond))
}

// Whatever is removed or changed behind the daemon's back is back within a second.
func TestBGPDrift(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	healthy := programmed(t, node)
	subnet := subnetOf(t, l, l.Nodes()[1])
	subnet, _, _ = strings.Cut(subnet, "&")
	for _, in := range []injury{
		{"route", "ip route del " + subnet},
		{"all routes", "ip route flush proto 84; ip -6 route flush proto 84"},
		{"another next hop", "ip route replace " + subnet + " via 172.30.1.3 proto 84 metric 32"},
		{"a route of ours too many", "ip route add 10.244.253.0/24 via 172.30.1.2 proto 84 metric 32"},
		{"blackhole", "ip route flush proto 84 type blackhole"},
	} {
		sh(t, node.Netns(), in.line)
		if took, sure := repaired(t, node, in, healthy); sure && took > time.Second {
			t.Errorf("%s: repaired after %v", in.name, took)
		}
	}
	wantMatrix(t, l)
}

// Nodes of two subnets: through the overlay where a router knows nothing of pods, plainly where it speaks BGP itself, and through the
// overlay everywhere when that is asked for.
func TestBGPSubnets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		routing lab.Routing
		tunnels bool
	}{
		{"cross-subnet", lab.Routing{Overlay: lab.OverlayCrossSubnet}, true},
		{"always", lab.Routing{Overlay: lab.OverlayAlways}, true},
		{"top of rack", lab.Routing{ToR: true}, false},
		{"two reflectors", lab.Routing{Reflectors: 2, Overlay: lab.OverlayCrossSubnet}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := upBGP(t, lab.Options{Nodes: 4, Subnets: 2, Family: lab.DualStack, PodsPerNode: 1, Routing: tt.routing})
			within(t, enough, func() error { return reachable(t, l) })
			wantMatrix(t, l)
			links := sh(t, l.Nodes()[0].Netns(), "ip -o link show")
			if strings.Contains(links, "flannel.1") != tt.tunnels {
				t.Errorf("links:\n%s", links)
			}
		})
	}
}

// reachable reports whether the first pod reaches all others.
func reachable(t *testing.T, l *lab.Lab) error {
	t.Helper()
	pods := l.Pods()
	var errs []error
	for _, p := range pods[1:] {
		errs = append(errs, echo(t.Context(), pods[0].Netns(), addr(t, p, false), 0))
	}
	return errors.Join(errs...)
}

// A lab goes from VXLAN to BGP and back, node by node, and its pods keep talking.
func TestBGPSwitch(t *testing.T) {
	l := up(t, lab.Options{Nodes: 3, Family: lab.DualStack, PodsPerNode: 1, BackendConfig: json.RawMessage(`{}`)})
	pods := l.Pods()
	var streams []*load
	for _, v6 := range []bool{false, true} {
		for i := range pods {
			streams = append(streams, startLoad(t, pods[i], addr(t, pods[(i+1)%len(pods)], v6), 5*time.Millisecond))
		}
	}
	for _, to := range []lab.Routing{{Backend: lab.BGP}, {Backend: lab.BGP, Overlay: lab.OverlayNever}, {Backend: lab.VXLAN}} {
		begin := time.Now()
		must(t, l.SwitchRouting(t.Context(), to, func(lab.Switched) error { return nil }))
		t.Logf("to %s in %v", to, time.Since(begin).Round(time.Millisecond))
		wantMatrix(t, l)
	}
	longest := time.Duration(0)
	for _, s := range streams {
		got := s.end(t)
		longest = max(longest, got.Gap)
		if got.Lost() > 0 {
			t.Errorf("%s to %s: %d of %d lost, the longest gap was %v", s.from, s.to, got.Lost(), got.Sent, got.Gap)
		}
	}
	t.Logf("the longest gap was %v", longest)
}

// The file is read again when it changes: what it adds comes about, and sessions that it does not concern stay up. A file that is
// wrong is named in the log and changes nothing.
func TestBGPConfigChanges(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	nodes := l.Nodes()
	for _, n := range nodes {
		established(t, n, 2)
		must(t, n.SetBGPConfig([]byte("accept: [10.99.0.0/16 ge 16 le 32]\n")))
	}
	must(t, nodes[0].SetBGPConfig([]byte("accept: [10.99.0.0/16 ge 16 le 32]\nannounce:\n- {prefix: 10.99.7.0/24, communities: [\"64512:7\"]}\n")))
	within(t, enough, hasRoute(t, nodes[1], "10.99.7.0/24", true))
	explained := twillctl(t, "bgp", "explain", "10.99.7.0/24", "--lab-node", nodes[1].Name, "--name", l.Name())
	explained.wantOK(t)
	if !strings.Contains(explained.stdout, "64512:7") {
		t.Errorf("explain prints:\n%s", explained.stdout)
	}

	must(t, nodes[0].SetBGPConfig([]byte("anounce: []\n")))
	within(t, enough, func() error {
		text, err := nodes[0].DaemonLog()
		if err == nil && !strings.Contains(text, "anounce") {
			err = errors.New("the log does not name the key")
		}
		return err
	})
	must(t, hasRoute(t, nodes[1], "10.99.7.0/24", true)())

	must(t, nodes[0].SetBGPConfig([]byte("{}\n")))
	within(t, enough, hasRoute(t, nodes[1], "10.99.7.0/24", false))
	for _, n := range nodes {
		for _, s := range sessions(t, n) {
			if s.Flaps > 0 || !s.Established() {
				t.Errorf("%s: the session with %s is %s after %d flaps", n.Name, s.Name, s.State, s.Flaps)
			}
		}
	}
	wantMatrix(t, l)
}

// What an operator writes into a node's record counts at once.
func TestBGPNodeRecord(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	nodes := l.Nodes()
	for _, n := range nodes {
		established(t, n, 2)
	}
	put(t, l, "/coreos.com/network/nodes/"+nodes[0].Name, `{"labels":{"rack":"r1"},"bgp":{"reflector":{}}}`)
	within(t, 2*enough, func() error {
		for _, n := range nodes[1:] {
			if all := sessions(t, n); len(all) != 1 || !all[0].Established() {
				return fmt.Errorf("%s has the sessions %+v, want one with the reflector", n.Name, all)
			}
		}
		return nil
	})
	wantMatrix(t, l)
}

// From a full mesh to reflectors and back, no packet is lost.
func TestBGPReflectorsReplaceTheMesh(t *testing.T) {
	l := upBGP(t, lab.Options{Nodes: 4, PodsPerNode: 1})
	nodes, pods := l.Nodes(), l.Pods()
	for _, n := range nodes {
		established(t, n, 3)
	}
	var streams []*load
	for i := range pods {
		for j := range pods {
			if i != j {
				streams = append(streams, startLoad(t, pods[i], addr(t, pods[j], false), 10*time.Millisecond))
			}
		}
	}
	must(t, l.SwitchRouting(t.Context(), lab.Routing{Backend: lab.BGP, Overlay: lab.OverlayNever, Reflectors: 1}, func(lab.Switched) error { return nil }))
	for _, n := range nodes[1:] {
		established(t, n, 1)
	}
	must(t, l.SwitchRouting(t.Context(), lab.Routing{Backend: lab.BGP, Overlay: lab.OverlayNever}, func(lab.Switched) error { return nil }))
	for _, n := range nodes {
		established(t, n, 3)
	}
	for _, s := range streams {
		s.endWhole(t)
	}
}

func TestBGPBadConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"not YAML", "as: [\n", []string{"bgp.yaml"}},
		{"unknown key", "sa: 64512\n", []string{"bgp.yaml", "sa"}},
		{"AS", "as: 0\n", []string{"bgp.yaml", "as", "1 to"}},
		{"overlay", "overlay: sometimes\n", []string{"overlay", "sometimes", "never"}},
		{"peer without address", "peers:\n- {name: tor, as: 65000}\n", []string{"peers[0]", "address"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "bgp.yaml")
			must(t, os.WriteFile(path, []byte(tt.text), 0o644))
			o := runTwilld(t, sandbox(t), t.TempDir(), nil, "--backend=bgp", "--bgp-config="+path)
			if o.code != 2 {
				t.Errorf("exit code %d", o.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("no %q in %q", want, o.stderr)
				}
			}
		})
	}
}

// A daemon that is stopped by a signal that cannot be caught, and goes on later, is a peer again.
func TestBGPFrozenDaemon(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{PodsPerNode: 1})
	node, frozen := l.Nodes()[0], l.Nodes()[1]
	established(t, node, 2)
	subnet := subnetOf(t, l, frozen)
	must(t, frozen.SignalDaemon(syscall.SIGSTOP))
	within(t, 13*time.Second, hasRoute(t, node, subnet, false))
	must(t, frozen.SignalDaemon(syscall.SIGCONT))
	within(t, enough, hasRoute(t, node, subnet, true))
	for _, n := range l.Nodes() {
		established(t, n, 2)
	}
	converged(t, l, recovery)
	wantMatrix(t, l)
}
