package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// Host ports that somebody removes or changes are back within a second: the kernel's tables as well as what a client gets.
func TestHostPortDrift(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{"portMappings": []any{mapping("tcp", 8080, 80), mapping("udp", 53, 53)}}})
	must(t, err)
	servePort(t, p.Netns(), "tcp", netip.AddrPortFrom(netip.Addr{}, 80), "web")
	servePort(t, p.Netns(), "udp", netip.AddrPortFrom(netip.Addr{}, 53), "dns")
	const list = "nft -s list table inet twill-hostports"
	healthy, foreign := "", "nft add table inet foreign; nft add chain inet foreign c; nft add rule inet foreign c counter; "
	within(t, enough, func() error { // the daemon has had its look at what the ADD did
		before := healthy
		healthy = sh(t, n.Netns(), list)
		if before != healthy {
			return errors.New("the table changes")
		}
		return nil
	})
	for _, injury := range []string{
		"nft delete table inet twill-hostports",
		"nft flush ruleset",
		"nft delete element inet twill-hostports ports4 '{ tcp . 8080 }'",
		"nft flush map inet twill-hostports ports4",
		"nft flush map inet twill-hostports ports4; nft add element inet twill-hostports ports4 '{ tcp . 8080 : 192.0.2.1 . 80 }'",
		"nft add element inet twill-hostports ports4 '{ tcp . 9999 : 10.244.99.99 . 80 }'",
		"nft flush chain inet twill-hostports ports",
		"nft flush chain inet twill-hostports guard",
		"nft insert rule inet twill-hostports prerouting tcp dport 8080 drop",
		"nft flush set inet twill-hostports bridges",
		"nft delete table inet twill-hostports; ip link del cni0",
	} {
		t.Run(injury, func(t *testing.T) {
			if !strings.Contains(injury, "ruleset") {
				sh(t, n.Netns(), foreign)
			}
			sh(t, n.Netns(), injury)
			took := within(t, enough, func() error {
				now, err := trySh(t.Context(), n.Netns(), list)
				if err == nil && now != healthy {
					err = errors.New(difference(healthy, now))
				}
				return err
			})
			if took > time.Second {
				t.Errorf("repaired after %v", took)
			}
			t.Logf("repaired after %v", took.Round(time.Millisecond))
			within(t, enough, func() error {
				for _, ask := range []struct {
					network string
					to      netip.AddrPort
				}{
					{"tcp", netip.AddrPortFrom(nodeAddr(t, n, false), 8080)}, {"tcp", netip.AddrPortFrom(nodeAddr(t, n, true), 8080)},
					{"tcp", netip.MustParseAddrPort("127.0.0.1:8080")}, {"udp", netip.AddrPortFrom(nodeAddr(t, n, false), 53)},
				} {
					if _, err := askPort(t.Context(), n.Netns(), ask.network, ask.to, time.Second); err != nil {
						return err
					}
				}
				return nil
			})
			if left := sh(t, n.Netns(), "nft list tables"); !strings.Contains(injury, "ruleset") && !strings.Contains(left, "inet foreign") {
				t.Errorf("the foreign table is gone: %s", left)
			}
		})
	}
	if repaired := metric(t, n, "twill_hostports_repaired_total"); repaired < 10 {
		t.Errorf("%v repairs counted", repaired)
	}
	must(t, n.KillDaemon(t.Context())) // what happens while none runs is mended by the next one
	sh(t, n.Netns(), "nft flush ruleset")
	must(t, n.StartDaemon())
	within(t, enough, func() error {
		_, err := askPort(t.Context(), n.Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, false), 8080), 500*time.Millisecond)
		return err
	})
	must(t, n.Ready(t.Context()))
	must(t, p.Delete(t.Context()))
	holds(t, time.Second, func() error { // the daemon does not put back what a DEL removed
		if left := traces(t, n); left != "" {
			return fmt.Errorf("left behind:\n%s", left)
		}
		return nil
	})
}

// While somebody deletes the table again and again, pods with host ports come and go. Each keeps its port from the end of its ADD,
// within a second, and none is left behind.
func TestHostPortsUnderAttack(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1}).Nodes()[0]
	ctx, cancel := context.WithCancel(t.Context())
	var attack, adds sync.WaitGroup
	attack.Go(func() {
		for ctx.Err() == nil {
			_, _ = trySh(ctx, n.Netns(), "nft delete table inet twill-hostports 2>/dev/null || true; sleep 0.3") // it is the answer that counts
		}
	})
	for worker := range 4 {
		adds.Go(func() {
			for round := range 6 {
				port := 8000 + 10*worker + round
				p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{"portMappings": []any{mapping("tcp", port, 80)}}})
				if err != nil {
					t.Error(err)
					return
				}
				servePort(t, p.Netns(), "tcp", netip.AddrPortFrom(netip.Addr{}, 80), p.Name)
				within(t, 2*time.Second, func() error {
					answer, err := askPort(t.Context(), n.Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, false), uint16(port)), 500*time.Millisecond)
					if err == nil && !strings.HasPrefix(answer, p.Name+" ") {
						err = fmt.Errorf("port %d leads to %s", port, answer)
					}
					return err
				})
				if round == 5 {
					return // this one stays
				}
				if err := p.Delete(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	adds.Wait()
	cancel()
	attack.Wait()
	within(t, 2*time.Second, func() error {
		text := sh(t, n.Netns(), "nft list map inet twill-hostports ports4")
		for worker := range 4 {
			if !strings.Contains(text, fmt.Sprintf("tcp . %d :", 8000+10*worker+5)) {
				return fmt.Errorf("a port is missing:\n%s", text)
			}
		}
		if strings.Count(text, "tcp . ") != 4 {
			return fmt.Errorf("ports that nobody has:\n%s", text)
		}
		return nil
	})
}

// A pod whose DEL was lost is released after the delay, with all that belongs to it, while other pods come and go and the daemon is killed.
func TestPodVanishes(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, Family: lab.DualStack, PodsPerNode: 2, DaemonArgs: []string{"--pod-release-delay=2s"}})
	n := l.Nodes()[0]
	before, stay := traces(t, n), n.Pods()
	var vanished []*lab.Pod
	for i := range 3 {
		p, err := n.AddPod(t.Context(), lab.PodOptions{Name: fmt.Sprint("lost", i), CapabilityArgs: map[string]any{
			"portMappings": []any{mapping("tcp", 8080+i, 80)}, "bandwidth": map[string]any{"ingressRate": 8_000_000, "egressRate": 8_000_000}}})
		must(t, err)
		vanished = append(vanished, p)
	}
	if got := metric(t, n, "twill_attachments"); got != 5 {
		t.Errorf("%v attachments counted", got)
	}
	traffic := startLoad(t, stay[0], addr(t, stay[1], false), 20*time.Millisecond)
	storm := startStorm(t, n)
	for _, p := range vanished[:2] {
		must(t, p.Vanish(t.Context()))
	}
	time.Sleep(500 * time.Millisecond)
	must(t, n.KillDaemon(t.Context()))
	must(t, vanished[2].Vanish(t.Context())) // nobody is there to see it
	must(t, n.StartDaemon())
	must(t, n.Ready(t.Context()))
	time.Sleep(time.Second)
	storm()
	took := within(t, 3*enough, func() error {
		if now := traces(t, n); now != before {
			return errors.New(difference(before, now))
		}
		return nil
	})
	t.Logf("released after another %v", took.Round(time.Millisecond))
	if got := metric(t, n, "twill_attachments_released_total"); got != 3 {
		t.Errorf("%v releases counted", got)
	}
	for _, p := range stay {
		must(t, p.Check(t.Context()))
	}
	traffic.endWhole(t)
	wantMatrix(t, l)
}

// startStorm adds and deletes pods, some at a time, until the function that it returns is called. Each pod is whole at the end of its ADD and
// before its DEL.
func startStorm(t *testing.T, n *lab.Node) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				p, err := n.AddPod(t.Context(), lab.PodOptions{Name: fmt.Sprintf("storm%d-%d", worker, i)})
				if err != nil {
					t.Error(err)
					return
				}
				for range 2 {
					if err := p.Check(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if err := p.Delete(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	return func() { cancel(); workers.Wait() }
}

// A pod whose host link was deleted by hand is not released while its namespace lives: its runtime will say DEL.
func TestPodWithoutLinkIsKept(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, PodsPerNode: 1, DaemonArgs: []string{"--pod-release-delay=200ms"}}).Nodes()[0]
	p := n.Pods()[0]
	sh(t, n.Netns(), "ip link del $(ip -o link show master cni0 | sed 's/^[0-9]*: \\([^@]*\\).*/\\1/')")
	holds(t, 2*time.Second, func() error {
		if left := traces(t, n); !strings.Contains(left, p.ContainerID()) {
			return fmt.Errorf("released: %s", left)
		}
		return nil
	})
	must(t, p.Delete(t.Context()))
	if left := traces(t, n); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// A pod's host link is put back on the bridge, with hairpin mode, and up.
func TestPodLinkDrift(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, PodsPerNode: 2}).Nodes()[0]
	for _, injury := range []string{"set $L down", "set $L nomaster", "set $L type bridge_slave hairpin off", "set $L nomaster down"} {
		t.Run(injury, func(t *testing.T) {
			const links = "ip -o -d link show type veth | sed 's/^[0-9]*: //; s/promiscuity.*minmtu//; s/qdisc.*master/master/; s/state [A-Z]* mode//' | grep -o -e '^[^:]*' -e 'master cni0' -e '<[^>]*>' -e 'hairpin o[nf]*'"
			healthy := sh(t, n.Netns(), links)
			sh(t, n.Netns(), "L=$(ip -o link show master cni0 | head -1 | sed 's/^[0-9]*: \\([^@]*\\).*/\\1/'); ip link "+injury)
			took := within(t, enough, func() error {
				if now := sh(t, n.Netns(), links); now != healthy {
					return errors.New(difference(healthy, now))
				}
				return nil
			})
			t.Logf("repaired after %v", took.Round(time.Millisecond))
			if took > time.Second {
				t.Errorf("repaired after %v", took)
			}
		})
	}
	pods := n.Pods()
	if slices.ContainsFunc(pods, func(p *lab.Pod) bool { return p.Check(t.Context()) != nil }) {
		t.Error("CHECK finds something amiss")
	}
}
