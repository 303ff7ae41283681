package filter

import (
	"fmt"
	"testing"

	"github.com/twill-cni/twill/store"
)

// What is remembered of pods of one kind does not outlive them, nor their namespace.
func TestChoicesAreForgotten(t *testing.T) {
	f := small()
	f.Plan()
	before := len(f.chosen)
	for i := range 50 {
		p := testPod("dual", fmt.Sprint("job", i), "web", "10.1.1.9")
		p.Labels["job"] = fmt.Sprint(i)
		if i%2 == 0 { // in a namespace of its own, without a policy
			p.Name.Namespace = fmt.Sprint("ns", i)
			f.Apply(store.PolicyChanges{Namespaces: map[string]*store.Namespace{p.Name.Namespace: {Name: p.Name.Namespace}}})
		} else {
			f.Apply(store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{{Namespace: "shop", Name: "job"}: {
				Name: store.ObjectName{Namespace: "shop", Name: "job"}, IsolatesEgress: true, Pods: *selector("job", fmt.Sprint(i))}}})
		}
		f.Apply(podChanges(p))
		f.SetLocal(localsOf(p))
		f.Plan()
		f.SetLocal(nil)
		f.Apply(store.PolicyChanges{Pods: map[store.PodKey]*store.Pod{p.Key(): nil}, Namespaces: map[string]*store.Namespace{fmt.Sprint("ns", i): nil}})
		f.Plan()
	}
	if n := len(f.chosen); n > before {
		t.Errorf("%d namespaces are remembered, %d at first", n, before)
	}
	for namespace, kinds := range f.chosen {
		for kind, all := range kinds {
			if !f.lives(all) {
				t.Errorf("subjects of %s %s are remembered", namespace, kind)
			}
		}
	}
}
