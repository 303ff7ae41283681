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
	"strings"
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
	testNode(t, r)
	testSysdump(t, r)
}

// testNode asks all nodes for the cluster's, and what each holds for one of them.
func testNode(t *testing.T, r *rig) {
	name := r.Machines[0].Name()
	r.within(t, enough, func(ctx context.Context) error {
		list, err := r.twillctl(ctx, "node", "-o", "wide")
		if err != nil || strings.Count(list, "10.") < len(r.Machines) || !strings.Contains(list, name) {
			return fmt.Errorf("%w: %s", err, list)
		}
		one, err := r.twillctl(ctx, "node", name)
		if err != nil || strings.Count(one, " ok ") < len(r.Machines)-1 {
			return fmt.Errorf("%w: %s", err, one)
		}
		t.Logf("\n%s\n%s", list, one)
		return nil
	})
}

// testSysdump packs what all nodes say, by way of the API server.
func testSysdump(t *testing.T, r *rig) {
	path := filepath.Join(t.TempDir(), "d.tar.gz")
	out, err := r.twillctl(t.Context(), "sysdump", path)
	if err != nil || strings.Contains(out, "not taken") || strings.Count(out, "\n") != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	listed, err := exec.Command("tar", "-tzf", path).Output()
	must(t, err)
	for _, m := range r.Machines {
		for _, file := range []string{"settings.json", "metrics.txt", "log.txt", "files.txt", "kernel/routes.txt", "kernel/nftables.txt"} {
			if want := "nodes/" + m.Name() + "/" + file + "\n"; !strings.Contains(string(listed), want) {
				t.Errorf("no %s in\n%s", want, listed)
			}
		}
	}
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
