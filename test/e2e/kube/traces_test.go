package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/test/kubetest"
)

// Traces are what a machine holds, by kind, in lines that do not depend on order. What counts packets or time is left out.
type traces map[string][]string

// What there is because of pods. Of nftables, that is elements, one a line; chains for a number of endpoints may outlive it for a while.
var podTraces = map[string]string{
	"links":      "ls /sys/class/net",
	"routes":     "ip -4 route show table all; ip -6 route show table all",
	"neighbours": "ip -4 neighbour show nud permanent; ip -6 neighbour show nud permanent",
	"fdb":        "bridge fdb show | grep permanent", // others are learned, and age
	"qdiscs":     "tc qdisc show | sed 's/ [0-9a-f]*: / /'",
	"nftables":   "nft --stateless list ruleset | awk '/elements = /{p=1} p{print} /}/{p=0}' | tr , '\\n' | sed 's/elements = {//; s/}//' | grep -v 'goto random'",
	"leases":     "ls /run/twill/ipam/twill/addresses",
	"records":    "ls /run/twill/attachments/twill",
	"namespaces": "ls /run/netns",
	"conflist":   "stat -c '%n %s %.Y %i' /etc/cni/net.d/*; sha256sum /etc/cni/net.d/*",
}

// trace reads what a machine holds.
func trace(ctx context.Context, m *kubetest.Machine, scripts map[string]string) (traces, error) {
	var script strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(scripts)) {
		fmt.Fprintf(&script, "echo '== %s'\n{ %s ; } 2>&1\n", kind, scripts[kind])
	}
	out, err := run(ctx, m, script.String())
	if err != nil {
		return nil, err
	}
	found, kind := traces{}, ""
	for line := range strings.Lines(out) {
		line = strings.Join(strings.Fields(line), " ")
		if name, ok := strings.CutPrefix(line, "== "); ok {
			kind = name
		} else if line != "" {
			found[kind] = append(found[kind], line)
		}
	}
	for _, lines := range found {
		slices.Sort(lines)
	}
	return found, nil
}

// tracesOf reads what all machines hold, once their own addresses have passed duplicate address detection: a link-local address has its route only then.
func (r *rig) tracesOf(t testing.TB, scripts map[string]string) []traces {
	t.Helper()
	r.within(t, enough, func(ctx context.Context) error {
		return each(r.Machines, func(_ int, m *kubetest.Machine) error {
			out, err := run(ctx, m, "ip -6 address show tentative")
			if err == nil && strings.TrimSpace(out) != "" {
				err = fmt.Errorf("%s has addresses that are tentative: %s", m.Name(), out)
			}
			return err
		})
	})
	all := make([]traces, len(r.Machines))
	must(t, each(r.Machines, func(i int, m *kubetest.Machine) (err error) {
		all[i], err = trace(t.Context(), m, scripts)
		return err
	}))
	return all
}

// restored waits until all machines hold what they held before.
func (r *rig) restored(t testing.TB, before []traces, scripts map[string]string) {
	t.Helper()
	took := r.within(t, enough, func(ctx context.Context) error {
		return each(r.Machines, func(i int, m *kubetest.Machine) error {
			now, err := trace(ctx, m, scripts)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(before[i], now); diff != "" {
				return fmt.Errorf("%s holds something else than before (-before +now):\n%s", m.Name(), diff)
			}
			return nil
		})
	})
	t.Logf("nothing is left after %v", took)
}

// accounted returns nil when a machine's leases are the addresses of its pods, and it has a record and a namespace for each pod.
func (r *rig) accounted(ctx context.Context, m *kubetest.Machine) error {
	var list struct {
		Items []struct {
			podState
			Spec struct{ HostNetwork bool }
		}
	}
	if err := r.Cluster.Get(ctx, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+m.Name(), &list); err != nil {
		return err
	}
	var want []string
	pods := 0
	for _, p := range list.Items {
		if p.Spec.HostNetwork || len(p.Status.PodIPs) == 0 {
			continue
		}
		pods++
		for _, ip := range p.Status.PodIPs {
			want = append(want, ip.IP.String())
		}
	}
	slices.Sort(want)
	held, err := trace(ctx, m, podTraces)
	if err != nil {
		return err
	}
	var errs []error
	if !slices.Equal(want, held["leases"]) {
		errs = append(errs, fmt.Errorf("%s has leases %v, its pods have %v", m.Name(), held["leases"], want))
	}
	for _, kind := range []string{"records", "namespaces"} {
		if len(held[kind]) != pods {
			errs = append(errs, fmt.Errorf("%s has %d %s for %d pods", m.Name(), len(held[kind]), kind, pods))
		}
	}
	return errors.Join(errs...)
}

// noLeaks waits until all machines hold what their pods need, and no more.
func (r *rig) noLeaks(t testing.TB) {
	t.Helper()
	r.within(t, 2*enough, func(ctx context.Context) error {
		return each(r.Machines, func(_ int, m *kubetest.Machine) error { return r.accounted(ctx, m) })
	})
}
