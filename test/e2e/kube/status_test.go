package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// testStatus asks all nodes with nothing but a kubeconfig.
func testStatus(t *testing.T, r *rig) {
	var report struct {
		Nodes []struct {
			Name, Error string
			Status      struct {
				NotReady  []string
				Datastore struct{ Kind string }
				Peers     struct{ Peers int }
			}
		}
		Findings []struct{ Node, What string }
	}
	r.within(t, enough, func(ctx context.Context) error {
		out, err := r.twillctl(ctx, "status", "-o", "json")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return json.Unmarshal([]byte(out), &report)
	})
	if len(report.Nodes) != len(r.Machines) {
		t.Fatalf("%d nodes: %+v", len(report.Nodes), report)
	}
	for i, n := range report.Nodes {
		if n.Error != "" || len(n.Status.NotReady) > 0 || n.Status.Datastore.Kind != "kubernetes" || n.Status.Peers.Peers < len(r.Machines)-1 {
			t.Errorf("node %d: %+v", i, n)
		}
	}
	begin := time.Now()
	out, err := r.twillctl(t.Context(), "status", "-o", "wide")
	must(t, err)
	t.Logf("after %v:\n%s", since(begin), out)
}

// twillctl runs twillctl where kubectl would be run: on no node.
func (r *rig) twillctl(ctx context.Context, args ...string) (string, error) {
	built := repository(".cache/image/linux/" + runtime.GOARCH) // by make image
	program, err := filepath.Abs(filepath.Join(cmp.Or(os.Getenv("TWILL_BIN"), built), "twillctl"))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.Control.Namespace, "--", program}, append(args, "--kubeconfig", r.Cluster.Admin())...)...).CombinedOutput()
	return string(out), err
}
