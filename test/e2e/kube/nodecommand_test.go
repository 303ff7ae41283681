package kube

import (
	"context"
	"encoding/json"
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
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	cmd, said, err := r.twillctlCommand(ctx, "sysdump", path)
	must(t, err)
	out, err := cmd.Output() // standard output is for archives
	if told := said.String(); err != nil || len(out) > 0 || strings.Contains(told, "not taken") || strings.Count(told, "\n") != 1 {
		t.Fatalf("%v: %s%s", err, out, told)
	}
	listed, err := exec.Command("tar", "-tzf", path).Output()
	must(t, err)
	for _, m := range r.Machines {
		for _, file := range []string{"settings.json", "metrics.txt", "log.txt", "files.txt", "kernel/routes.txt", "kernel/nftables.txt", "check.json"} {
			if want := "nodes/" + m.Name() + "/" + file + "\n"; !strings.Contains(string(listed), want) {
				t.Errorf("no %s in\n%s", want, listed)
			}
		}
		checked(t, path, m.Name())
	}
}

// checked fails the test unless "twillctl check" has looked at the node from the daemon's pod: at all but the plugins, whose directory the pod does not have.
func checked(t *testing.T, path, node string) {
	t.Helper()
	text, err := exec.Command("tar", "-xzOf", path, "nodes/"+node+"/check.json").Output()
	must(t, err)
	var all []struct{ Check, Verdict string }
	must(t, json.Unmarshal(text, &all))
	for _, c := range all {
		if (c.Verdict == "notLookedAt") != (c.Check == "plugins") || c.Verdict == "failure" {
			t.Errorf("on %s: %s: %s\n%s", node, c.Check, c.Verdict, text)
		}
	}
	if len(all) < 10 {
		t.Errorf("on %s %d checks:\n%s", node, len(all), text)
	}
}
