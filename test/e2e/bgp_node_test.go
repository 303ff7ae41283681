package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// unstarted makes a node whose daemon was not started yet, with a BGP configuration.
func unstarted(t *testing.T, l *lab.Lab, config string) *lab.Node {
	t.Helper()
	n, err := l.AddNode(t.Context(), lab.NodeOptions{Program: "/bin/true"})
	must(t, err)
	within(t, enough, func() error {
		if n.DaemonRunning() {
			return fmt.Errorf("the program that stands in for the daemon of %s runs", n.Name)
		}
		return nil
	})
	must(t, n.SetBGPConfig([]byte(config)))
	must(t, n.SetDaemon(lab.NodeOptions{}))
	return n
}

// A router hears of a new node's pods within 3 s from the start of its daemon, although another of its neighbours is dead.
func TestBGPFirstPrefix(t *testing.T) {
	l := upBGP(t, lab.Options{Nodes: 1})
	tor := outsider(t, l, "tor")
	n := unstarted(t, l, fmt.Sprintf("peers:\n- {name: dead, address: 172.30.1.99, as: %d}\n- {name: tor, address: %s, as: %d}\n",
		rackAS, address(t, tor, false), rackAS))
	bird := router{as: rackAS, nodes: []*lab.Node{n}}.bird(t, tor)
	begin := time.Now()
	must(t, n.StartDaemon())
	within(t, enough, func() error {
		if !strings.Contains(bird.Ctl("show", "route", "protocol", n.Name), "10.244.") {
			return fmt.Errorf("BIRD has %s", bird.Ctl("show", "route"))
		}
		return nil
	})
	took := time.Since(begin)
	t.Logf("first prefix at BIRD after %v", took.Round(time.Millisecond))
	if took > 3*time.Second {
		t.Errorf("first prefix at BIRD after %v, want 3s at most", took)
	}
}

// explained returns what twillctl says of a prefix, by lines.
func explained(t *testing.T, l *lab.Lab, n *lab.Node, prefix string) []string {
	t.Helper()
	o := twillctl(t, "bgp", "explain", prefix, "--lab-node", n.Name, "--name", l.Name())
	o.wantOK(t)
	return strings.Split(o.stdout, "\n")
}

// saysLine waits until a line of the explanation begins and goes on as given.
func saysLine(t *testing.T, l *lab.Lab, n *lab.Node, prefix, begin string, words ...string) {
	t.Helper()
	within(t, enough, func() error {
		lines := explained(t, l, n, prefix)
		for _, line := range lines {
			matches := strings.HasPrefix(line, begin)
			for _, w := range words {
				matches = matches && strings.Contains(line, w)
			}
			if matches {
				return nil
			}
		}
		return fmt.Errorf("no line %q with %q in\n%s", begin, words, strings.Join(lines, "\n"))
	})
}

// The tool says of a prefix that a filter refuses that it was the filter; and --cleanup leaves of the node what was there before its daemon
// ran for the first time.
func TestBGPExplainAndCleanup(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 1, Family: lab.DualStack})
	tor := outsider(t, l, "tor")
	n := unstarted(t, l, fmt.Sprintf(`
overlay: always
peers:
- name: tor
  address: %s
  as: %d
  import:
  - {prefixes: [%s], action: reject}
  export:
  - {prefixes: [10.244.0.0/16 ge 16], action: reject}
`, address(t, tor, false), rackAS, behind4))
	within(t, enough, func() error { // duplicate address detection is over
		if have := sh(t, n.Netns(), "ip -o addr"); strings.Contains(have, "tentative") {
			return fmt.Errorf("%s", have)
		}
		return nil
	})
	before := kernelState(t, n.Netns())
	router{as: rackAS, nodes: []*lab.Node{n}, announces: true}.bird(t, tor)
	must(t, n.StartDaemon())
	must(t, n.Ready(t.Context()))
	established(t, n, 2)

	within(t, enough, hasRoute(t, n, behind6, true))
	saysLine(t, l, n, behind4, "heard from", "tor", "an import rule rejects it")
	must(t, hasRoute(t, n, behind4, false)())
	own := strings.Split(strings.ReplaceAll(subnetOf(t, l, n), "-", "/"), "&")
	saysLine(t, l, n, own[0], "announced to", "tor", "an export rule rejects it")
	saysLine(t, l, n, own[1], "announced to", "tor")
	if strings.Contains(sh(t, tor.Netns(), "ip route show proto bird"), own[0]) {
		t.Errorf("the router knows %s, which is not exported", own[0])
	}

	must(t, n.StopDaemon(t.Context()))
	out, err := n.Command(t.Context(), filepath.Join(binDir, "twilld"), "--cleanup", "--backend=bgp", "--node-name="+n.Name, "--iface="+n.Uplink(),
		"--etcd-endpoints="+strings.Join(l.Etcd().Endpoints(), ","), "--run-dir="+n.RunDir(), "--subnet-file="+n.SubnetFile(),
		"--cni-conf-dir="+n.CNIConfDir(), "--cni-bin-dir="+n.CNIBinDir(), "--bgp-config="+n.BGPConfigFile()).CombinedOutput()
	if err != nil {
		t.Fatalf("--cleanup: %v: %s", err, out)
	}
	if now := kernelState(t, n.Netns()); now != before {
		t.Errorf("--cleanup left or took away:\n%s", difference(before, now))
	}
	for _, dir := range []string{n.CNIConfDir(), n.CNIBinDir(), n.RunDir(), n.SubnetFile()} {
		if files, err := filepath.Glob(dir + "/*"); err != nil || len(files) > 0 {
			t.Errorf("--cleanup left %v (%v)", files, err)
		}
	}
}
