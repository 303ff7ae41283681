package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
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

// testTrace follows packets between machines with nothing but a kubeconfig, to a pod and through a Service: both ends are looked at, where they are.
func testTrace(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	from, to := pods[0], pods[1]
	if from.machine == to.machine {
		t.Fatalf("%s and %s are on one machine", from.name, to.name)
	}
	hole := to.addr(false).String() + "/32"
	for _, target := range []string{"default/" + to.name + ":8080", netip.AddrPortFrom(to.addr(true), 8080).String(), "default/kubernetes:443"} {
		ways, err := r.trace(t.Context(), from, target)
		must(t, err)
		for _, w := range ways {
			if w.Failure != nil || len(w.Hops) < 3 {
				t.Errorf("the way to %s: %+v", target, w)
			}
		}
	}
	_, err := from.machine.Run(t.Context(), "ip", "route", "add", "blackhole", hole)
	must(t, err)
	t.Cleanup(func() {
		_, err := from.machine.Run(context.WithoutCancel(t.Context()), "ip", "route", "del", "blackhole", hole)
		must(t, err)
	})
	ways, err := r.trace(t.Context(), from, "default/"+to.name+":8080")
	if err == nil {
		t.Error("the exit code of a way into a black hole is 0")
	}
	var failures []string
	for _, w := range ways {
		if !slices.ContainsFunc(w.Hops, func(h hop) bool { return h.Node == from.machine.Name() }) || !slices.ContainsFunc(w.Hops, func(h hop) bool { return h.Node == to.machine.Name() }) {
			t.Errorf("not both machines are looked at: %+v", w.Hops)
		}
		if w.Failure != nil {
			failures = append(failures, w.Failure.Node+" "+w.Failure.What)
		}
	}
	if want := []string{from.machine.Name() + " route"}; !slices.Equal(failures, want) {
		t.Errorf("a black hole for IPv4: what fails is %q, want %q", failures, want)
	}
}

type hop struct{ Node, What string }

// way is what twillctl trace says of one family.
type way struct {
	Hops    []hop
	Failure *hop
}

// trace follows a packet of a pod. The error is also that a hop fails.
func (r *rig) trace(ctx context.Context, from standing, target string) (ways []way, err error) {
	out, err := r.twillctl(ctx, "trace", "default/"+from.name, target, "-o", "json")
	return ways, errors.Join(err, json.Unmarshal([]byte(out), &ways))
}

// twillctl runs twillctl where kubectl would be run: on no node. It has nothing to say but its output.
func (r *rig) twillctl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	cmd, said, err := r.twillctlCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if err == nil && said.Len() > 0 {
		err = errors.New("it says something on standard error")
	}
	if err != nil {
		err = fmt.Errorf("twillctl %v: %w: %s", args, err, said)
	}
	return string(out), err
}

// twillctlCommand is twillctl, to be started where kubectl would be run, and what it says on standard error.
func (r *rig) twillctlCommand(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer, error) {
	built := repository(".cache/image/linux/" + runtime.GOARCH) // by make image
	program, err := filepath.Abs(filepath.Join(cmp.Or(os.Getenv("TWILL_BIN"), built), "twillctl"))
	if err != nil {
		return nil, nil, err
	}
	said := &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.Control.Namespace, "--", program}, append(args, "--kubeconfig", cmp.Or(r.kubeconfig, r.Cluster.Admin()))...)...)
	cmd.Stderr = said
	return cmd, said, nil
}
