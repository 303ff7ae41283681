package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// TestTwillctlIPAM has a pod die without a DEL: its address is named, and free again after --fix.
func TestTwillctlIPAM(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 2, PodsPerNode: 2, DaemonArgs: []string{"--pod-release-delay=3s"}})
	check := func(args ...string) outcome {
		return twillctl(t, append([]string{"ipam", "check", "--lab", l.Name()}, args...)...)
	}
	if o := check(); o.code != 0 || o.stdout != "\nnothing is wrong\n" {
		t.Fatalf("a healthy lab: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	pod := l.Nodes()[1].Pods()[0]
	shown := func() string { return twillctl(t, "ipam", "show", "--lab", l.Name()).stdout }
	if text := shown(); !strings.Contains(text, "default/"+pod.Name) || strings.Count(text, "attached") != 4 || strings.Count(text, "2 of 253 taken") != 2 {
		t.Errorf("show:\n%s", text)
	}
	must(t, pod.Vanish(t.Context()))
	within(t, enough, func() error {
		if o := check(); !strings.Contains(o.stdout, "node2: pod default/"+pod.Name+" holds") || o.code != 0 {
			return fmt.Errorf("a dead pod: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
		return nil
	})
	if o := check("--fix"); o.code != 0 || o.stdout != "\nnothing is wrong\n" {
		t.Errorf("--fix: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if text := shown(); strings.Contains(text, pod.Name) || !strings.Contains(text, "1 of 253 taken") {
		t.Errorf("after --fix:\n%s", text)
	}
}
