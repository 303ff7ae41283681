package kube

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

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
