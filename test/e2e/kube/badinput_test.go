package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// configured is the ConfigMap of Twill.
type configured struct {
	Data map[string]string
}

// testWrongNetConf rolls out network configurations that are wrong: the first daemon that reads one says so, the update stops there, and
// packets flow on. The right one ends it. With bgp it has to come within the restart time (docs/bgp.md): a daemon that does not know the network
// holds no sessions.
func testWrongNetConf(t *testing.T, r *rig) {
	const configMap = "/api/v1/namespaces/" + namespace + "/configmaps/twill"
	var right configured
	must(t, r.Cluster.Get(t.Context(), configMap, &right))
	set := func(t *testing.T, netConf string) {
		t.Helper()
		text, err := json.Marshal(fields{"data": fields{"net-conf.json": netConf}})
		must(t, err)
		r.kubectl(t, "-n", namespace, "patch", "configmap", "twill", "--type=merge", "-p", string(text))
		r.restart(t, netConf)
	}
	other := map[string]string{"vxlan": "host-gw", "bgp": "vxlan"}[r.backend]
	good := right.Data["net-conf.json"]
	l := r.load(t)
	for _, c := range []struct {
		name, netConf, says string
		stops               bool // the daemon ends, and is started again
	}{
		{"no JSON", "{ \"Network\": ", "net-conf.json", false},
		{"another network", replace(t, good, "10.244.0.0/16", "10.99.0.0/16"), "10.99.0.0/16", false},
		{"another backend", replace(t, good, `"Type": "`+r.backend+`"`, `"Type": "`+other+`"`), other, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			set(t, c.netConf)
			var m *kubetest.Machine
			r.within(t, enough, func(ctx context.Context) error {
				var errs []error
				for _, candidate := range r.Machines {
					err := health(ctx, candidate, "/readyz")
					if err != nil && c.stops {
						log, _ := r.log(ctx, candidate) // there is none at the very start
						err = errors.New(lastLines(log, 10))
					}
					if err != nil && strings.Contains(err.Error(), c.says) {
						m = candidate
						return nil
					}
					errs = append(errs, err)
				}
				return fmt.Errorf("no daemon says %q: %w", c.says, errors.Join(errs...))
			})
			if !c.stops {
				r.complains(t, m, c.says)
			}
			must(t, r.reachable(t.Context()))
			r.told(t, "Node", m.Name(), "NetworkConfigInvalid", c.says)
			set(t, good)
			r.rolledOut(t, daemonSet)
		})
	}
	must(t, r.reachable(t.Context()))
	l.whole(t)
}

// networkUnavailable is a patch that says of a Node what twilld does not leave there.
const networkUnavailable = `{"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "Test"}]}}`

// testMissingRule takes rules of RBAC away: what is missing is named.
func testMissingRule(t *testing.T, r *rig) {
	const clusterRole = "/apis/rbac.authorization.k8s.io/v1/clusterroles/twill"
	var role struct {
		Rules []struct {
			APIGroups []string `json:"apiGroups"`
			Resources []string `json:"resources"`
			Verbs     []string `json:"verbs"`
		} `json:"rules"`
	}
	must(t, r.Cluster.Get(t.Context(), clusterRole, &role))
	whole := role.Rules
	set := func(t *testing.T) {
		t.Helper()
		text, err := json.Marshal(role)
		must(t, err)
		r.kubectl(t, "patch", "clusterrole", "twill", "--type=merge", "-p", string(text))
	}
	defer func() {
		role.Rules = whole
		set(t)
		r.restart(t, "all rules")
		r.rolledOut(t, daemonSet)
		must(t, r.reachable(t.Context()))
	}()
	for i, rule := range whole {
		resource := rule.Resources[0]
		if resource == "events" || resource == "servicecidrs" { // without the one, nobody could be told; the other one is not needed
			continue
		}
		t.Run(resource, func(t *testing.T) {
			role.Rules = append(append(whole[:0:0], whole[:i]...), whole[i+1:]...)
			set(t)
			// Which verb is missed first is client-go's choice: a list can be a watch that begins with what there is.
			namesVerb := func(text string) bool {
				return slices.ContainsFunc(rule.Verbs, func(verb string) bool { return strings.Contains(text, "verb "+verb+" ") })
			}
			m := r.Machines[0]
			name, err := r.agent(t.Context(), m)
			must(t, err)
			r.kubectl(t, "-n", namespace, "delete", "pod", name)
			if resource == "nodes/status" { // which is not written while it is right
				r.kubectl(t, "patch", "node", m.Name(), "--subresource=status", "-p", networkUnavailable)
			}
			r.within(t, enough, func(ctx context.Context) error {
				log, err := r.log(ctx, m)
				if err != nil {
					return err
				}
				for line := range strings.Lines(log) {
					if containsAll(line, []string{resource, "forbidden"}) && namesVerb(line) {
						return nil
					}
				}
				return fmt.Errorf("the log does not name the rule:\n%s", lastLines(log, 10))
			})
			must(t, r.reachable(t.Context()))
			if e := r.told(t, "Node", m.Name(), "ForbiddenByRBAC", resource); !namesVerb(e.Note) {
				t.Errorf("the Event names no verb of %v: %s", rule.Verbs, e.Note)
			}
		})
	}
}

// TestExhausted: a node whose subnet is small has no address for some pods, which say so. Addresses that are freed are given to them.
func TestExhausted(t *testing.T) {
	r := start(t, "vxlan", kubetest.SiteOptions{Machines: 1, Cluster: kubetest.Options{Controllers: &kubetest.Controllers{NodeMask4: 28}}})
	const room, all = 16 - 3, 20 // of a /28: without its first and last address, and the bridge's
	var pods []fields
	for i := range all {
		pods = append(pods, idle(fmt.Sprintf("crowd-%d", i), r.Machines[0]))
	}
	r.make(t, pods...)
	count := func(ctx context.Context) (running, waiting []string, err error) {
		for i := range all {
			name := fmt.Sprintf("crowd-%d", i)
			p, err := r.pod(ctx, name)
			switch {
			case kubetest.IsNotFound(err):
			case err != nil:
				return nil, nil, err
			case p.ready():
				running = append(running, name)
			default:
				waiting = append(waiting, name)
			}
		}
		return running, waiting, nil
	}
	var running, waiting []string
	r.within(t, enough, func(ctx context.Context) (err error) {
		if running, waiting, err = count(ctx); err == nil && len(running) != room {
			err = fmt.Errorf("%d pods are ready, want %d", len(running), room)
		}
		return err
	})
	r.told(t, "Pod", waiting[0], "", "10.244.0.0/28")
	if now, _, err := count(t.Context()); err != nil || len(now) != room {
		t.Errorf("%d pods are ready, want %d", len(now), room)
	}
	r.kubectl(t, append([]string{"delete", "pod"}, running[:len(waiting)]...)...)
	r.running(t, waiting...)
	r.noLeaks(t)
}
