package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

type nodeState struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		PodCIDRs []netip.Prefix
		Taints   []struct{ Key, Effect string }
	}
	Status struct {
		Conditions []struct{ Type, Status, Reason, Message string }
	}
}

func (r *rig) node(ctx context.Context, m *kubetest.Machine) (*nodeState, error) {
	n := &nodeState{}
	return n, r.Cluster.Get(ctx, "/api/v1/nodes/"+m.Name(), n)
}

// network returns nil when a Node's condition NetworkUnavailable is like this.
func (r *rig) network(ctx context.Context, m *kubetest.Machine, status, reason string) error {
	n, err := r.node(ctx, m)
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == "NetworkUnavailable" && c.Status == status && c.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("%s has no condition NetworkUnavailable %s %s: %+v", m.Name(), status, reason, n.Status.Conditions)
}

// testCondition: a node that is served says so.
func testCondition(t *testing.T, r *rig) {
	for _, m := range r.Machines {
		r.within(t, enough, func(ctx context.Context) error { return r.network(ctx, m, "False", "TwillIsUp") })
	}
}

// routesTo returns the routes of a machine to subnets of another one.
func routesTo(ctx context.Context, m *kubetest.Machine, subnets []netip.Prefix) ([]string, error) {
	out, err := run(ctx, m, "ip -4 route; ip -6 route")
	var found []string
	for line := range strings.Lines(out) {
		for _, s := range subnets {
			if strings.HasPrefix(line, s.String()+" ") {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found, err
}

// testNodeRemoved takes a machine and its Node away: the others forget it. Then it comes back, and gets its place again.
func testNodeRemoved(t *testing.T, r *rig) {
	stays, goes := r.Machines[0], r.Machines[1]
	n, err := r.node(t.Context(), goes)
	must(t, err)
	if routes, err := routesTo(t.Context(), stays, n.Spec.PodCIDRs); err != nil || len(routes) != 2 {
		t.Fatalf("routes to %v: %v, %v", n.Spec.PodCIDRs, routes, err)
	}
	var lost []string
	for _, p := range r.pods {
		if p.machine == goes {
			lost = append(lost, p.name)
		}
	}
	must(t, goes.Crash())
	r.kubectl(t, "delete", "node", goes.Name())
	took := r.within(t, 2*enough, func(ctx context.Context) error {
		routes, err := routesTo(ctx, stays, n.Spec.PodCIDRs)
		if err == nil && len(routes) > 0 {
			err = fmt.Errorf("%s still has the routes %v", stays.Name(), routes)
		}
		return err
	})
	t.Logf("the routes are gone after %v", took)
	must(t, health(t.Context(), stays, "/readyz"))

	begin := time.Now()
	r.kubectl(t, append([]string{"delete", "pod", "--grace-period=0", "--force", "--ignore-not-found"}, lost...)...)
	must(t, goes.Boot(t.Context()))
	must(t, goes.StartKubelet(t.Context()))
	r.within(t, enough, func(ctx context.Context) error { _, err := r.node(ctx, goes); return err })
	r.serving(t)
	pods := slices.Clone(r.pods)
	for i, p := range pods {
		if p.machine == goes {
			again := labeled(server(p.name, goes), fields{"role": "server"})
			must(t, r.Cluster.Apply(t.Context(), manifest(t, again)))
			pods[i] = r.running(t, p.name)[0]
		}
	}
	r.pods = pods
	r.within(t, enough, r.reachable)
	t.Logf("it is back after %v", since(begin))
	r.noLeaks(t)
}

// TestNoPodCIDR: a Node to which nobody gives subnets is told of, and served when it has some.
func TestNoPodCIDR(t *testing.T) {
	r := bare(t, "vxlan", kubetest.SiteOptions{Machines: 1, Cluster: kubetest.Options{Controllers: &kubetest.Controllers{NoPodCIDRs: true}}})
	r.locateAPI(t)
	must(t, r.Cluster.Apply(t.Context(), r.manifests(t)))
	m := r.Machines[0]
	r.complains(t, m, "podCIDR")
	t.Run("event", func(t *testing.T) { r.told(t, "Node", m.Name(), "PodCIDRMissing", "podCIDR") })
	r.kubectl(t, "patch", "node", m.Name(), "-p", `{"spec":{"podCIDR":"10.244.7.0/24","podCIDRs":["10.244.7.0/24","fd00:244:0:7::/64"]}}`)
	r.serving(t)
	r.stand(t)
	must(t, r.reachable(t.Context()))
}

// complains waits until the daemon of a machine is not ready and gives words as the reason, there and in its log.
func (r *rig) complains(t testing.TB, m *kubetest.Machine, words ...string) {
	t.Helper()
	r.within(t, enough, func(ctx context.Context) error {
		err := health(ctx, m, "/readyz")
		if err == nil {
			return errors.New("the daemon is ready")
		}
		if !containsAll(err.Error(), words) {
			return fmt.Errorf("the daemon is not ready for another reason than %q: %w", words, err)
		}
		return nil
	})
	r.within(t, enough, func(ctx context.Context) error {
		log, err := r.log(ctx, m)
		if err == nil && !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool { return containsAll(line, words) }) {
			err = fmt.Errorf("no line of the log has %q:\n%s", words, lastLines(log, 10))
		}
		return err
	})
}
