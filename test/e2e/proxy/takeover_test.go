package proxy

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/test/e2e/harness"
	"github.com/twill-cni/twill/test/kubetest"
)

// newMixedRig makes a rig whose nodes are served by kube-proxies of a mode, in the test's hands.
func newMixedRig(t *testing.T, mode string) (*rig, map[string]*kubetest.KubeProxy) {
	t.Helper()
	l := harness.NewLab(t, lab.Options{Name: harness.Unique(runName), BinDir: binDir, Family: lab.DualStack})
	must(t, l.Up(t.Context()))
	gateway, _ := l.UnderlayGateway()
	r := &rig{kind: kubeProxy, lab: l, machines: map[string]*machine{}}
	r.Cluster = kubetest.Start(t, kubetest.Options{Namespace: l.Underlay().Path(), Addr: gateway})
	proxies := map[string]*kubetest.KubeProxy{}
	for _, name := range nodeNames {
		r.addNode(t, name)
		n := r.machines[name].node
		must(t, n.Ready(t.Context()))
		for _, pod := range podNames[name] {
			p, err := n.AddPod(t.Context(), lab.PodOptions{Name: pod})
			must(t, err)
			r.addMachine(t, pod, p.Netns(), p.Addrs())
		}
		proxies[name] = kubetest.StartKubeProxy(t, r.Cluster, kubetest.ProxyOptions{Node: name, Namespace: n.Netns().Path(), Mode: mode,
			Config: "clusterCIDR: 10.244.0.0/16,fd00:244::/48", NoWait: true}) // once Twill has its port, nobody can ask it
	}
	r.addOutside(t, "out1", "node1", 1)
	r.makeWorld(t)
	return r, proxies
}

// serveBy changes who is the service proxy in twilld's eyes: it, or somebody else.
func (r *rig) serveBy(t *testing.T, name string, by implementation) {
	t.Helper()
	args := []string{"--proxy=off"}
	if by == twill {
		args = []string{"--proxy=nftables", "--kubeconfig=" + r.Admin()}
	}
	n := r.machines[name].node
	must(t, n.StopDaemon(t.Context()))
	must(t, n.SetDaemon(lab.NodeOptions{Args: args}))
	must(t, n.StartDaemon())
	must(t, n.Ready(t.Context()))
}

// cleanUp removes kube-proxy's rules from a node, as its own documentation says.
func (r *rig) cleanUp(t *testing.T, name string) {
	t.Helper()
	programs, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_KUBE"), "../../../.cache/kube"))
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+r.machines[name].ns.Path(), filepath.Join(programs, "kube-proxy"), "--cleanup")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kube-proxy --cleanup: %v: %s", err, out)
	}
	for _, list := range []string{"nft list tables | grep kube-proxy", "iptables-save | grep KUBE-S", "ip6tables-save | grep KUBE-S"} {
		if left, err := harness.TryShell(t.Context(), r.machines[name].ns, list); err == nil {
			t.Errorf("kube-proxy --cleanup has left on %s: %s", name, left)
		}
	}
}

// customers use Services all the time: each either makes new connections, or talks on one that stands.
type customers struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu          sync.Mutex
	asked, slow int
	failures    []string
	phase       string
}

// now says what is being done.
func (c *customers) now(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = fmt.Sprintf(format, args...)
}

// begin begins a question; what it returns is to be called with how that failed, if it did, and with whether TCP had to send something again. An answer
// that came late although nothing was lost is the machine's doing: it has other work.
func (c *customers) begin() (end func(failure string, again bool)) {
	begin := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	phase := c.phase
	c.asked++
	return func(failure string, again bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		took := time.Since(begin)
		if took > second {
			c.slow++
			if failure == "" && again {
				failure = fmt.Sprintf("an answer after %v", took)
			}
		}
		if failure != "" {
			c.failures = append(c.failures, phase+": "+failure)
		}
	}
}

// custom starts customers: from a pod, from the node itself and from outside, at a ClusterIP and a node port, in TCP and UDP and both families.
func (r *rig) custom(t *testing.T, v variables) *customers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &customers{stop: cancel}
	t.Cleanup(cancel)
	for _, protocol := range []string{"tcp", "udp"} {
		for _, p := range []probe{{from: "a", to: "$vip:80"}, {from: "node1", to: "$vip:80"}, {from: "out1", to: "$node1:$np"}} {
			for _, one := range v.probes(t, probe{from: p.from, to: protocol + " " + p.to}) {
				_, to, _ := strings.Cut(one.to, " ")
				m := r.machines[p.from]
				standing := r.talk(t, p.from, protocol, to)
				_, err := standing.say(hesitant)
				must(t, err)
				c.done.Go(func() {
					_ = m.ns.Do(func() error { // it has no errors of its own
						c.ask(ctx, m, protocol, to)
						return nil
					})
				})
				c.done.Go(func() { c.talk(ctx, standing, one.String()) })
			}
		}
	}
	return c
}

// ask makes 100 connections a second.
func (c *customers) ask(ctx context.Context, m *machine, protocol, to string) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		end, failure := c.begin(), ""
		word, again := m.question(protocol, to, hesitant)
		if len(strings.TrimSuffix(word, "~")) != 1 {
			failure = fmt.Sprintf("new: %s to %s %s: %s", m.name, protocol, to, word)
		}
		end(failure, again)
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// talk says something 100 times a second to an endpoint that must stay the same.
func (c *customers) talk(ctx context.Context, with *conversation, name string) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	endpoint := ""
	for ctx.Err() == nil {
		end, failure, sent := c.begin(), "", sentAgain(with.Conn)
		have, err := with.say(hesitant)
		switch {
		case err != nil:
			failure = fmt.Sprintf("standing: %s: %v", name, err)
		case endpoint != "" && have != endpoint:
			failure = fmt.Sprintf("standing: %s: %s answers, and not %s", name, have, endpoint)
		}
		endpoint = have
		end(failure, sentAgain(with.Conn) > sent)
		if err != nil && with.LocalAddr().Network() == "tcp" {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// end returns how many questions were not answered, or late.
func (c *customers) end(t *testing.T, what string) (failed int) {
	t.Helper()
	c.stop()
	c.done.Wait()
	kinds := map[string]int{}
	for _, f := range c.failures {
		kinds[f]++
	}
	t.Logf("%s: %d questions, %d without an answer or with a late one (%d took a second or more)", what, c.asked, len(c.failures), c.slow)
	for f, n := range kinds {
		t.Logf("    %d x %s", n, f)
	}
	return len(c.failures)
}

// wrote succeeds when kube-proxy has written all Services of both families; IPv6 comes last.
var wrote = map[string]string{
	"nftables": "nft list map ip6 kube-proxy service-ips | grep fd00:96::15 && nft list map ip kube-proxy service-ips | grep 10.96.0.21",
	"iptables": "ip6tables-save -t nat | grep KUBE-SVC.*fd00:96::15 && iptables-save -t nat | grep KUBE-SVC.*10.96.0.21",
}

// TestTakeover has Twill take Services over from a real kube-proxy while they are in use, and give them back. Twill starts beside kube-proxy,
// which ends afterwards, and its rules go last: nothing is lost. The other order, which leaves the node without a proxy in between, is there
// to be counted.
func TestTakeover(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r, proxies := newMixedRig(t, mode)
			v := r.vars(t, 0)
			must(t, r.Apply(t.Context(), v.expand(t, "{apiVersion: v1, kind: Namespace, metadata: {name: $ns}}", "")))
			must(t, r.Apply(t.Context(), v.expand(t, service("web", dual, "type: NodePort, ports: [{name: t, port: 80, nodePort: $np}, {name: u, port: 80, nodePort: $np, protocol: UDP}]")+
				slice{ports: "{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}", endpoints: "a b c d"}.yaml(), "")))
			// Nobody asks before: the SYN of who does passes untranslated, and conntrack has the next one from that port pass, too, for two minutes.
			written := func(name string) {
				within(t, patience, func() error {
					_, err := harness.TryShell(t.Context(), r.machines[name].ns, wrote[mode])
					return err
				})
			}
			for _, name := range nodeNames {
				written(name)
			}
			r.soon(t, v, probe{"a", "tcp $vip:80", "a~ b c d"}, probe{"out1", "tcp $node1:$np", "a~ b~ c~ d~"})

			c := r.custom(t, v)
			for _, name := range nodeNames {
				c.now("twilld takes over on %s", name)
				r.serveBy(t, name, twill)
				c.now("kube-proxy ends on %s", name)
				proxies[name].Kill()
				c.now("kube-proxy --cleanup on %s", name)
				r.cleanUp(t, name)
			}
			if failed := c.end(t, "Twill beside kube-proxy, then kube-proxy's end and --cleanup"); failed > 0 {
				t.Error("that is more than none")
			}
			changed := strings.NewReplacer("a b c d", "b c d").Replace(slice{ports: "{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}", endpoints: "a b c d"}.yaml())
			must(t, r.Apply(t.Context(), v.expand(t, changed, "")))

			c = r.custom(t, v)
			for _, name := range nodeNames {
				c.now("kube-proxy comes back on %s", name)
				must(t, proxies[name].Restart(t.Context()))
				written(name)
				c.now("--proxy=off on %s", name)
				r.serveBy(t, name, kubeProxy)
			}
			if failed := c.end(t, "back: kube-proxy beside Twill, then --proxy=off"); failed > 0 {
				t.Error("that is more than none")
			}

			c = r.custom(t, v)
			for _, name := range nodeNames {
				c.now("kube-proxy's end on %s", name)
				proxies[name].Kill()
				c.now("kube-proxy --cleanup, then twilld, on %s", name)
				r.cleanUp(t, name)
				r.serveBy(t, name, twill)
			}
			if failed := c.end(t, "the other order: kube-proxy's end and --cleanup, then Twill"); failed == 0 {
				t.Error("a node without a service proxy has lost nothing: this test sees nothing")
			}
			r.soon(t, v, probe{"a", "tcp $vip:80", "b c d"}, probe{"out1", "tcp $node1:$np", "b~ c~ d~"})
		})
	}
}
