package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	out, err := r.twillctl(t.Context(), "status", "-o", "json")
	must(t, err)
	must(t, json.Unmarshal([]byte(out), &report))
	if len(report.Nodes) != len(r.Machines) {
		t.Fatalf("%d nodes: %+v", len(report.Nodes), report)
	}
	for i, n := range report.Nodes {
		if n.Error != "" || len(n.Status.NotReady) > 0 || n.Status.Datastore.Kind != "kubernetes" || n.Status.Peers.Peers < len(r.Machines)-1 {
			t.Errorf("node %d: %+v", i, n)
		}
	}
	for range 10 { // what ends the streams is a race
		begin := time.Now()
		out, err = r.twillctl(t.Context(), "status", "-o", "wide")
		must(t, err)
		t.Logf("after %v:\n%s", since(begin), out)
	}
}

// twillctl runs twillctl where kubectl would be run: on no node. It has nothing to say but its output.
func (r *rig) twillctl(ctx context.Context, args ...string) (string, error) {
	built := repository(".cache/image/linux/" + runtime.GOARCH) // by make image
	program, err := filepath.Abs(filepath.Join(cmp.Or(os.Getenv("TWILL_BIN"), built), "twillctl"))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.Control.Namespace, "--", program}, append(args, "--kubeconfig", r.Cluster.Admin())...)...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err = cmd.Run(); err == nil && said.Len() > 0 {
		err = errors.New("it says something on standard error")
	}
	if err != nil {
		err = fmt.Errorf("twillctl %v: %w: %s", args, err, &said)
	}
	return out.String(), err
}
