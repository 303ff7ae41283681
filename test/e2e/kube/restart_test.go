package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// restand waits until the standing pods run, which may have other addresses now.
func (r *rig) restand(t testing.TB) {
	t.Helper()
	var names []string
	for _, p := range r.pods {
		names = append(names, p.name)
	}
	r.pods = r.running(t, names...)
}

// testNodeRestart cuts a machine's power. All of its pods come back, with no address lost to what was before; meanwhile the others go on.
func testNodeRestart(t *testing.T, r *rig) {
	m := r.Machines[1]
	r.noLeaks(t)
	begin := time.Now()
	must(t, m.Crash())
	must(t, m.Boot(t.Context()))
	must(t, m.StartKubelet(t.Context()))
	// Until the kubelet says something, the API says what was before the crash.
	r.within(t, enough, func(ctx context.Context) error {
		now, err := processes(ctx, m)
		if err == nil && len(now) == 0 {
			err = errors.New("the daemon has not started")
		}
		return err
	})
	must(t, r.Cluster.AwaitReady(t.Context(), m.Name()))
	r.noLeaks(t)
	r.restand(t)
	r.within(t, enough, r.reachable)
	r.rolledOut(t, daemonSet)
	t.Logf("all pods are back %v after the crash", since(begin))
}

// away is for how long there is no API server.
const away = time.Minute

// testOutage takes the API server away, and kills the daemons meanwhile: pods notice nothing. When it is back, the daemons go on from there.
func testOutage(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	l := r.load(t)
	begin := time.Now()
	r.Cluster.Kill()
	// Controllers that cannot renew their lease end. Those that stayed would take all nodes, of which they hear nothing, for dead.
	r.Cluster.KillControllers()
	// The daemons of then know nothing but what is on the host.
	must(t, each(r.Machines, func(_ int, m *kubetest.Machine) error {
		was, err := kill(t.Context(), m)
		if err != nil {
			return err
		}
		_, err = poll(t.Context(), enough, func(ctx context.Context) error {
			now, err := processes(ctx, m)
			if err != nil || len(now) == 0 || now[0] == was[0] {
				return fmt.Errorf("the daemon of %s was not started again: %v", m.Name(), err)
			}
			return health(ctx, m, "/healthz")
		})
		return err
	}))
	t.Logf("the daemons run again after %v", since(begin))
	timer := time.NewTimer(away - time.Since(begin)) // this is about time
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
	must(t, each(r.Machines, func(_ int, m *kubetest.Machine) error { return health(t.Context(), m, "/healthz") }))
	must(t, r.Cluster.Restart(t.Context()))
	must(t, r.Cluster.StartControllers(t.Context()))
	begin = time.Now()
	t.Run("serves afterwards", func(t *testing.T) {
		must(t, each(r.Machines, func(_ int, m *kubetest.Machine) error {
			_, err := poll(t.Context(), enough, func(ctx context.Context) error { return health(ctx, m, "/readyz") })
			return err
		}))
		t.Logf("the daemons are in sync %v after the API server can be used", since(begin))
		s := r.serve(t, service("afterwards", "server", nil))
		r.becomes(t, func(ctx context.Context) error {
			return r.inPod(pods[0].name).served(ctx, url(s.Spec.ClusterIPs[0], 80, "/hostname"), pods)
		})
		r.run(t, server("afterwards", r.Machines[0]))
	})
	r.serving(t)
	must(t, r.reachable(t.Context()))
	l.whole(t)
}
