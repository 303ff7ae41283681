package policy

import (
	"testing"

	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// TestDenyAll is the shortest way through everything: one policy closes a namespace on two nodes, and is taken away again.
func TestDenyAll(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := r.addPods(t, modelPods(2))
	expect := func(allowed func(src, dst *store.Pod) bool) {
		t.Helper()
		if failed := wrong(everything(pods, func(src, dst *pod, _ policytest.Service) bool { return allowed(src.record, dst.record) })); failed != nil {
			t.Fatalf("%d wrong: %q", len(failed), failed[:min(len(failed), 10)])
		}
	}
	r.apply(t, changesOf(policytest.Namespaces()))
	expect(func(_, _ *store.Pod) bool { return true })
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "deny", ""), true, false)))
	expect(func(src, dst *store.Pod) bool { return dst.Name.Namespace != "x" || src == dst })
	r.apply(t, changesOf(policytest.Namespaces()))
	expect(func(_, _ *store.Pod) bool { return true })
}

// everything is all that can be asked between pods, in both families.
func everything(pods []*pod, allowed func(src, dst *pod, service policytest.Service) bool) []expected {
	var all []expected
	for _, src := range pods {
		for _, dst := range pods {
			for _, service := range policytest.Services() {
				for _, addr := range dst.record.Addrs {
					all = append(all, expected{question: question{src.prober, addr, service}, allowed: allowed(src, dst, service), why: "(" + dst.name + ")"})
				}
			}
		}
	}
	return all
}
