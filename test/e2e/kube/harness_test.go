package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

const (
	// enough is a deadline for what must happen, when how soon is not the question: processors have other work, too.
	enough = 90 * time.Second

	namespace = "kube-system" // where Twill is
	daemonSet = "twill"
)

// rig is a cluster on which Twill is, or will be, installed.
type rig struct {
	*kubetest.Site
	backend string
	pods    []standing // see standingPods
	// kubeconfig is twillctl's; empty: the administrator's.
	kubeconfig string
}

// archive returns the image of Twill.
func archive(t testing.TB) string {
	t.Helper()
	name, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_IMAGE"), repository("bin/twill-image.tar")))
	must(t, err)
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("there is no image of Twill (make image builds it): %v", err)
	}
	return name
}

// repository returns the name of a file of the repository.
func repository(name string) string { return filepath.Join("../../..", name) }

// bare starts a site without Twill, whose machines have its image.
func bare(t testing.TB, backend string, o kubetest.SiteOptions) *rig {
	t.Helper()
	o.Archives = append(o.Archives, archive(t))
	prepare := o.Prepare
	o.Prepare = func(m *kubetest.Machine) error {
		// containerd asks for it before any other plugin, and packages of Kubernetes (kubernetes-cni) bring it.
		err := m.Install("/opt/cni/bin", filepath.Join(cmp.Or(os.Getenv("TWILL_PEERS"), repository(".cache/peers")), "loopback"))
		if err == nil && prepare != nil {
			err = prepare(m)
		}
		return err
	}
	begin := time.Now()
	r := &rig{Site: kubetest.StartSite(t, o), backend: backend}
	t.Logf("%d machines have joined after %v", len(r.Machines), since(begin))
	t.Cleanup(func() { r.explain(t) })
	return r
}

// start starts a site and installs Twill, by deploy/'s plain manifests.
func start(t testing.TB, backend string, o kubetest.SiteOptions) *rig {
	t.Helper()
	r := bare(t, backend, o)
	begin := time.Now()
	r.locateAPI(t)
	must(t, r.Cluster.Apply(t.Context(), r.manifests(t)))
	r.serving(t)
	t.Logf("all Nodes are Ready %v after the manifests were applied", since(begin))
	return r
}

func since(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }

// serving waits until all nodes are Ready and the DaemonSet is rolled out.
func (r *rig) serving(t testing.TB) {
	t.Helper()
	for _, m := range r.Machines {
		must(t, r.Cluster.AwaitReady(t.Context(), m.Name()))
	}
	r.rolledOut(t, daemonSet)
}

// rolledOut waits until each node has a pod of the DaemonSet's last template that is ready.
func (r *rig) rolledOut(t testing.TB, name string) {
	t.Helper()
	r.within(t, 2*enough, func(ctx context.Context) error {
		var d struct {
			Metadata struct{ Generation int64 }
			Status   struct{ ObservedGeneration, DesiredNumberScheduled, UpdatedNumberScheduled, NumberReady, CurrentNumberScheduled int64 }
		}
		if err := r.Cluster.Get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name, &d); err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Metadata.Generation || s.DesiredNumberScheduled == 0 || s.UpdatedNumberScheduled != s.DesiredNumberScheduled ||
			s.NumberReady != s.DesiredNumberScheduled || s.CurrentNumberScheduled != s.DesiredNumberScheduled {
			return fmt.Errorf("DaemonSet %s is at %+v", name, s)
		}
		return nil
	})
}

// within polls a condition until it returns nil, and returns how long that took. It ends the test when that takes longer than limit.
func (r *rig) within(t testing.TB, limit time.Duration, condition func(context.Context) error) time.Duration {
	t.Helper()
	took, err := poll(t.Context(), limit, condition)
	if err != nil {
		t.Fatalf("not within %v: %v", limit, err)
	}
	return took
}

func poll(ctx context.Context, limit time.Duration, condition func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	begin := time.Now()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return since(begin), nil
		}
		if last == nil || ctx.Err() == nil { // an attempt that the deadline interrupted says nothing
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return since(begin), last
		}
	}
}

// kubectl runs kubectl and returns what it printed. A failure ends the test.
func (r *rig) kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := r.Cluster.Kubectl(t.Context(), args...)
	must(t, err)
	return out
}

// exec runs a line of shell in a pod of agnhost and returns what it printed, without the end of the line.
func (r *rig) exec(ctx context.Context, pod, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	out, err := r.Cluster.Kubectl(ctx, "exec", pod, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// run runs a line of shell on a machine and returns what it printed, without the end of the line.
func run(ctx context.Context, m *kubetest.Machine, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	out, err := m.Run(ctx, "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// outside runs a line of shell outside of the cluster, and returns what it printed, without the end of the line.
func (r *rig) outside(ctx context.Context, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+r.Underlay.Namespace(), "--", "sh", "-c", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// each does something for every machine at once.
func each[T any](items []T, f func(int, T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() { errs[i] = f(i, item) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// explain prints what Twill says, when a test has failed.
func (r *rig) explain(t testing.TB) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods", "--all-namespaces", "-o", "wide"},
		{"get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"},
		{"-n", namespace, "logs", "-l", "app.kubernetes.io/name=twill", "--all-containers", "--prefix", "--tail=40"},
	} {
		out, err := r.Cluster.Kubectl(ctx, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, lastLines(out, 120))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// agent returns the name of Twill's pod on a machine, and its log.
func (r *rig) agent(ctx context.Context, m *kubetest.Machine) (string, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp string
			}
		}
	}
	query := "?labelSelector=app.kubernetes.io/name%3Dtwill&fieldSelector=spec.nodeName%3D" + m.Name()
	if err := r.Cluster.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods"+query, &list); err != nil {
		return "", err
	}
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp == "" {
			return p.Metadata.Name, nil
		}
	}
	return "", fmt.Errorf("%s has no pod of Twill", m.Name())
}

// log returns what the daemon on a machine has printed, since its container was started the last time.
func (r *rig) log(ctx context.Context, m *kubetest.Machine) (string, error) {
	name, err := r.agent(ctx, m)
	if err != nil {
		return "", err
	}
	return r.Cluster.Kubectl(ctx, "-n", namespace, "logs", name, "-c", "twilld")
}

// health asks the daemon on a machine for /healthz or /readyz. What it says is in the error when it is not well.
func health(ctx context.Context, m *kubetest.Machine, path string) error {
	out, err := run(ctx, m, "curl -sS --max-time 5 -w '\\n%{http_code}' http://127.0.0.1:10270"+path)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(out, "\n200") {
		return fmt.Errorf("%s of %s: %s", path, m.Name(), out)
	}
	return nil
}
