package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// TestDropsAreTold has a refused packet show in the log, in the metrics and in what twillctl asks the daemon, with pod, direction and policies.
func TestDropsAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := map[string]*pod{}
	for _, p := range r.addPods(t, modelPods(2)) {
		pods[p.name] = p
	}
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("y", "no-entry", ""), true, false), closes(named("x", "no-exit", ""), false, true)))
	for _, c := range []struct {
		src, dst, direction, pod, policy string
		node                             int
	}{
		{"z/a", "y/b", "ingress", "y/b", "y/no-entry", 2},
		{"z/a", "y/a", "ingress", "y/a", "y/no-entry", 1},
		{"x/a", "z/b", "egress", "x/a", "x/no-exit", 1},
		{"x/b", "y/b", "egress", "x/b", "x/no-exit", 2},
	} {
		n := r.node(c.node)
		series := fmt.Sprintf("twill_policy_drops_total{direction=%q}", c.direction)
		for i, a := range pods[c.dst].record.Addrs {
			before := metric(t, n, series)
			q := question{pods[c.src].prober, a, policytest.Service{Protocol: store.UDP, Port: 81}}
			if answer := one(q); answer != silent {
				t.Errorf("%v is %s", q, answer)
			}
			if after := metric(t, n, series); after <= before {
				t.Errorf("%v: %s of node%d was %v and is %v", q, series, c.node, before, after)
			}
			src := pods[c.src].record.Addrs[i]
			within(t, patience, func() error {
				return inLog(r, c.node, fmt.Sprintf("direction=%s pod=%s ", c.direction, c.pod), c.policy, src.String(), a.String())
			})
			within(t, patience, func() error {
				drops, err := api.NewClient(n.RunDir()).Drops(t.Context())
				if err == nil && !slices.ContainsFunc(drops, func(d api.Drop) bool {
					return d.Direction == c.direction && d.Pod == c.pod && slices.Equal(d.Policies, []string{c.policy}) && d.Protocol == "UDP" && d.Port == 81
				}) {
					err = fmt.Errorf("node%d does not tell of %v: %+v", c.node, q, drops)
				}
				return err
			})
		}
	}
}

// inLog returns nil when a line about a refused packet has all the words.
func inLog(r *rig, node int, words ...string) error {
	text, err := r.node(node).DaemonLog()
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "refused by policy") && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return nil
		}
	}
	return fmt.Errorf("the log of node%d has no line with all of %q", node, words)
}

// errorAbout reports whether a log has an error about an object.
func errorAbout(log, object string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=ERROR") && strings.Contains(line, object) {
			return true
		}
	}
	return false
}
