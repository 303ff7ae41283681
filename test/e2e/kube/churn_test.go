package kube

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// testChurn makes 100 pods on one machine and removes them again, twice.
func testChurn(t *testing.T, r *rig) {
	m := r.Machines[0]
	r.noLeaks(t)
	r.serve(t, service("crowd", "crowd", nil))
	before := r.tracesOf(t, podTraces)
	for range 2 {
		begin := time.Now()
		var pods []fields
		var names []string
		for i := range 100 {
			p := labeled(idle(fmt.Sprintf("crowd-%d", i), m), fields{"role": "crowd"})
			if i%10 == 0 {
				container(p)["ports"] = []fields{{"containerPort": 8080, "hostPort": 20000 + i}}
			}
			pods = append(pods, p)
			names = append(names, fmt.Sprintf("crowd-%d", i))
		}
		r.run(t, pods...)
		t.Logf("100 pods were ready after %v", since(begin))
		report(t, m)
		begin = time.Now()
		r.kubectl(t, append([]string{"delete", "--wait=false", "pod"}, names...)...)
		r.gone(t, names...)
		t.Logf("100 pods were gone after %v", since(begin))
		r.restored(t, before, podTraces)
	}
}

// report logs how long the network took of the pods on a machine: from the birth of the namespace, which is what the runtime makes first, to
// the last word of the plugin's record.
func report(t testing.TB, m *kubetest.Machine) {
	t.Helper()
	out, err := run(t.Context(), m, `cd /run/twill/attachments/twill && for f in *; do
		n=$(grep -o '/run/netns/cni-[-0-9a-f]*' "$f" | head -1); [ -n "$n" ] && echo $(stat -c %.Y "$n") $(stat -c %.Y "$f"); done; :`)
	must(t, err)
	var took []time.Duration
	for line := range strings.Lines(out) {
		var from, to string
		if _, err := fmt.Sscan(line, &from, &to); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		a, err1 := strconv.ParseFloat(from, 64)
		b, err2 := strconv.ParseFloat(to, 64)
		must(t, errors.Join(err1, err2))
		took = append(took, time.Duration((b-a)*float64(time.Second)))
	}
	slices.Sort(took)
	if len(took) == 0 {
		t.Error("no record names its namespace")
		return
	}
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(time.Millisecond / 10) }
	t.Logf("the network part of %d pods: p50 %v, p99 %v, from namespace to record", len(took), at(50), at(99))
}

// testRuntimeRestart ends kubelet and containerd, ends and removes pods meanwhile, and starts both again: what is left of the past goes, and
// pods that live on do not notice.
func testRuntimeRestart(t *testing.T, r *rig) {
	m := r.Machines[0]
	r.run(t, idle("doomed-a", m), idle("doomed-b", m), idle("removed", m))
	r.noLeaks(t)
	l := r.load(t)
	doomed, err := shims(t.Context(), m, "doomed-a", "doomed-b")
	must(t, err)

	m.KillKubelet()
	m.KillContainerd()
	if _, err := run(t.Context(), m, "kill -9 "+strings.Join(doomed, " ")); err != nil {
		t.Fatal(err)
	}
	r.kubectl(t, "delete", "pod", "removed", "--grace-period=0", "--force")
	must(t, m.StartContainerd(t.Context()))
	must(t, m.StartKubelet(t.Context()))

	must(t, r.Cluster.AwaitReady(t.Context(), m.Name()))
	r.running(t, "doomed-a", "doomed-b")
	r.noLeaks(t)
	must(t, r.reachable(t.Context()))
	l.whole(t)
}

// shims returns the process IDs of pods' first processes and of what watches over them.
func shims(ctx context.Context, m *kubetest.Machine, pods ...string) ([]string, error) {
	configs, err := filepath.Glob(m.File("/run/containerd/io.containerd.runtime.v2.task/k8s.io") + "/*/config.json")
	if err != nil {
		return nil, err
	}
	var pids []string
	for _, pod := range pods {
		for _, config := range configs {
			dir := filepath.Dir(config)
			out, err := run(ctx, m, fmt.Sprintf("cd /run/containerd/io.containerd.runtime.v2.task/k8s.io/%s; grep -q '\"io.kubernetes.cri.sandbox-name\":\"%s\"' config.json && cat init.pid; :",
				filepath.Base(dir), pod))
			if err != nil {
				return nil, err
			}
			pids = append(pids, strings.Fields(out)...)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process of %v is on %s", pods, m.Name())
	}
	return pids, nil
}
