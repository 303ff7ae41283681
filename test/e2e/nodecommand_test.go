package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

// twillctl node lists what the datastore has, and finds what a kernel lacks while nobody repairs it.
func TestTwillctlNode(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 3, PodsPerNode: 1})
	within(t, enough, func() error {
		o := twillctl(t, "node", "--lab", l.Name(), "-o", "json")
		var listing api.NodeListing
		if err := json.Unmarshal([]byte(o.stdout), &listing); err != nil || o.code != 0 || len(listing.Nodes) != 3 {
			return fmt.Errorf("exit code %d, %w\n%s%s", o.code, err, o.stdout, o.stderr)
		}
		seen := map[string]bool{}
		for _, n := range listing.Nodes {
			seen[n.Name] = true
			if len(n.Subnets) != 1 || len(n.Addresses) != 1 || n.Backend != "vxlan" || len(n.VTEPMACs) != 1 || n.Expires.IsZero() {
				return fmt.Errorf("%+v", n)
			}
		}
		if !seen["node1"] || !seen["node2"] || !seen["node3"] {
			return fmt.Errorf("names %v", seen)
		}
		return nil
	})
	within(t, enough, func() error {
		o := twillctl(t, "node", "node2", "--lab", l.Name())
		if o.code != 0 || strings.Count(o.stdout, " ok ") != 6 || !strings.Contains(o.stdout, "it is this node itself") {
			return fmt.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
	if o := twillctl(t, "node", "node9", "--lab", l.Name()); o.code != 1 || !strings.Contains(o.stdout, `no node of the datastore is "node9"`) {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// A node that routes with BGP publishes its name, and has sessions.
func TestTwillctlNodeBGP(t *testing.T) {
	t.Parallel()
	l := upBGP(t, lab.Options{Nodes: 2, PodsPerNode: 0})
	first := l.Nodes()[0]
	within(t, enough, func() error {
		if o := twillctl(t, "node", "--run-dir", first.RunDir(), "-o", "wide"); o.code != 0 || !strings.Contains(o.stdout, "node2") || !strings.Contains(o.stdout, "64512") {
			return fmt.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		o := twillctl(t, "node", "node2", "--run-dir", first.RunDir())
		if o.code != 0 || !strings.Contains(o.stdout, "Established") || !strings.Contains(o.stdout, " ok ") {
			return fmt.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
	must(t, l.Nodes()[1].KillDaemon(t.Context()))
	within(t, enough, func() error { // its record lasts, the session does not
		o := twillctl(t, "node", "node2", "--lab", l.Name())
		if o.code != 1 || !strings.Contains(o.stdout, "node2   -") || !strings.Contains(o.stdout, "NO ANSWER") {
			return fmt.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
}
