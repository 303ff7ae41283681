package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

// nodesOf are what `twillctl status` says of a lab.
type nodesOf struct {
	Nodes []struct {
		Name   string
		Error  string
		Status *api.NodeStatus
	}
	Findings []struct{ Severity, Node, What, Mend string }
}

// statusOf asks all nodes of a lab, for programs, and checks that the exit code says whether something is broken.
func statusOf(t *testing.T, l *lab.Lab) nodesOf {
	t.Helper()
	o := twillctl(t, "status", "--lab", l.Name(), "-o", "json")
	var all nodesOf
	if err := json.Unmarshal([]byte(o.stdout), &all); err != nil || o.stderr != "" {
		t.Fatalf("%v: %s\n%s", err, o.stdout, o.stderr)
	}
	broken := 0
	for _, f := range all.Findings {
		if f.Severity == "broken" {
			broken = 1
		}
		if f.Mend == "" {
			t.Errorf("%s: no mend", f.What)
		}
	}
	if o.code != broken {
		t.Errorf("exit code %d with %+v", o.code, all.Findings)
	}
	return all
}

// wantFinding waits until status finds what is wrong with a node ("" for several) in that severity.
func wantFinding(t *testing.T, l *lab.Lab, severity, node, what string) {
	t.Helper()
	within(t, enough, func() error {
		all := statusOf(t, l)
		for _, f := range all.Findings {
			if f.Severity == severity && f.Node == node && strings.Contains(f.What, what) {
				return nil
			}
		}
		return fmt.Errorf("no %s of %q is said to be %s: %+v", what, node, severity, all.Findings)
	})
}

// wantNothingWrong waits until status says so, to people.
func wantNothingWrong(t *testing.T, l *lab.Lab) {
	t.Helper()
	within(t, enough, func() error {
		if o := twillctl(t, "status", "--lab", l.Name()); o.code != 0 || o.stderr != "" || !strings.HasSuffix(o.stdout, "\n\nnothing is wrong\n") {
			return fmt.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
}

// twillctl status names what was done to a cluster, and nothing when it is mended.
func TestTwillctlStatus(t *testing.T) {
	t.Parallel()
	config := json.RawMessage(`{"Network": "10.244.0.0/16", "SubnetLen": 28, "Backend": {"Type": "vxlan"}}`)
	l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1, Proxy: "nftables", NetworkConfig: config})
	first, second := l.Nodes()[0], l.Nodes()[1]
	wantNothingWrong(t, l)

	t.Run("a route is deleted, and repaired", func(t *testing.T) {
		before := statusOf(t, l).Nodes[0].Status.Peers.Repaired
		sh(t, first.Netns(), "ip route flush proto 84")
		within(t, enough, func() error {
			if p := statusOf(t, l).Nodes[0].Status.Peers; p.Repaired <= before || p.Programmed != p.Desired {
				return fmt.Errorf("repaired %d, before %d: %+v", p.Repaired, before, p)
			}
			return nil
		})
	})
	t.Run("the table of Services is deleted, and repaired", func(t *testing.T) {
		sh(t, first.Netns(), "nft delete table ip twill-proxy")
		within(t, enough, func() error {
			_, err := trySh(t.Context(), first.Netns(), "nft list table ip twill-proxy")
			return err
		})
		wantNothingWrong(t, l)
	})
	t.Run("a range is nearly full", func(t *testing.T) {
		for range 11 { // of 13 addresses, one is taken
			_, err := first.AddPod(t.Context(), lab.PodOptions{})
			must(t, err)
		}
		wantFinding(t, l, "degraded", "node1", "12 of the 13 addresses")
		_, err := first.AddPod(t.Context(), lab.PodOptions{})
		must(t, err)
		wantFinding(t, l, "broken", "node1", "all 13 addresses")
		for _, p := range first.Pods()[1:] {
			must(t, p.Delete(t.Context()))
		}
		wantNothingWrong(t, l)
	})
	t.Run("an uplink with a smaller MTU", func(t *testing.T) {
		must(t, first.SetMTU(1400))
		wantFinding(t, l, "degraded", "", "pods have different MTUs: 1350 (node1), 1450 (node2)")
		must(t, first.SetMTU(1500))
		wantNothingWrong(t, l)
	})
	t.Run("etcd is away", func(t *testing.T) {
		must(t, l.Etcd().Kill(t.Context()))
		wantFinding(t, l, "degraded", "node1", "the datastore (etcd) does not answer")
		for _, n := range statusOf(t, l).Nodes {
			if s := n.Status; s.Datastore.Error == "" || len(s.NotReady) == 0 || s.Pods != 1 || s.Addresses[0].Used != 1 || s.Peers.Programmed != s.Peers.Desired {
				t.Errorf("%s: %+v", n.Name, s)
			}
		}
		must(t, l.Etcd().Start(t.Context()))
		wantNothingWrong(t, l)
	})
	t.Run("a daemon is killed", func(t *testing.T) {
		must(t, second.KillDaemon(t.Context()))
		wantFinding(t, l, "broken", "node2", "ask twilld")
		if o := twillctl(t, "status", "--run-dir", second.RunDir()); o.code != 1 || !strings.Contains(o.stdout, "this node   NO ANSWER") {
			t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		must(t, second.StartDaemon())
		wantNothingWrong(t, l)
	})
}

// A BGP session that is down is named by the node at its other end, too.
func TestTwillctlStatusBGP(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 1})
	wantNothingWrong(t, l)
	must(t, l.Nodes()[1].KillDaemon(t.Context()))
	wantFinding(t, l, "broken", "node1", "1 of 1 BGP sessions are not established")
	must(t, l.Nodes()[1].StartDaemon())
	wantNothingWrong(t, l)
}
