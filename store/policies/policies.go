package policies

import (
	"maps"
	"reflect"

	"github.com/twill-cni/twill/store"
)

// Table keeps policies, Namespaces and pods. It is for one goroutine at a time. The zero Table is not usable; see New.
type Table struct {
	policies    map[store.ObjectName]*store.NetworkPolicy
	clusterWide map[string]*store.ClusterNetworkPolicy
	namespaces  map[string]*store.Namespace // with those that are implied
	pods        map[store.PodKey]*store.Pod

	implies bool
	stored  map[string]*store.Namespace // without those that are implied; nil unless there may be such
	members map[string]int              // how many pods and policies are in a namespace; nil likewise

	flaws flaws

	told    bool
	pending store.PolicyChanges
}

// New returns a table that knows nothing. implied says that a Namespace without a record is there as long as a pod or a policy is in it.
func New(implied bool) *Table {
	t := &Table{
		policies: map[store.ObjectName]*store.NetworkPolicy{}, clusterWide: map[string]*store.ClusterNetworkPolicy{},
		namespaces: map[string]*store.Namespace{}, pods: map[store.PodKey]*store.Pod{}, implies: implied,
		flaws: flaws{now: map[string]error{}},
	}
	if implied {
		t.stored, t.members = map[string]*store.Namespace{}, map[string]int{}
	}
	t.clear()
	return t
}

func (t *Table) clear() {
	t.pending = store.PolicyChanges{
		Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: map[string]*store.ClusterNetworkPolicy{},
		Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{},
	}
}

// SetPolicy says what the NetworkPolicy with that name is now; nil when it is gone.
func (t *Table) SetPolicy(name store.ObjectName, p *store.NetworkPolicy) {
	t.count(name.Namespace, t.policies[name] != nil, p != nil)
	if p == nil {
		t.flaws.set(PolicyKey(name), "")
	} else {
		t.flaws.set(PolicyKey(name), p.Flaw)
	}
	set(t, t.policies, t.pending.Policies, change[store.ObjectName, store.NetworkPolicy]{name, p, equal[store.NetworkPolicy]})
}

// SetClusterPolicy says what the ClusterNetworkPolicy with that name is now; nil when it is gone.
func (t *Table) SetClusterPolicy(name string, p *store.ClusterNetworkPolicy) {
	if p == nil {
		t.flaws.set(ClusterPolicyKey(name), "")
	} else {
		t.flaws.set(ClusterPolicyKey(name), p.Flaw)
	}
	set(t, t.clusterWide, t.pending.ClusterPolicies, change[string, store.ClusterNetworkPolicy]{name, p, equal[store.ClusterNetworkPolicy]})
}

// SetNamespace says what the Namespace with that name is now; nil when it is gone.
func (t *Table) SetNamespace(name string, n *store.Namespace) {
	t.flaws.set(namespaceFolder+name, "")
	if t.implies {
		if n == nil {
			delete(t.stored, name)
		} else {
			t.stored[name] = n
		}
		if n == nil && t.members[name] > 0 {
			n = implied(name)
		}
	}
	t.setNamespace(name, n)
}

func (t *Table) setNamespace(name string, n *store.Namespace) {
	same := func(a, b *store.Namespace) bool { return maps.Equal(a.Labels, b.Labels) }
	set(t, t.namespaces, t.pending.Namespaces, change[string, store.Namespace]{name, n, same})
}

func implied(name string) *store.Namespace {
	return &store.Namespace{Name: name, Labels: map[string]string{store.NamespaceNameLabel: name}}
}

// SetPod says what the pod with that key is now; nil when it is gone.
func (t *Table) SetPod(key store.PodKey, p *store.Pod) {
	t.count(key.Name.Namespace, t.pods[key] != nil, p != nil)
	if len(t.flaws.now) > 0 {
		t.flaws.set(podKey(key), "")
	}
	set(t, t.pods, t.pending.Pods, change[store.PodKey, store.Pod]{key, p, (*store.Pod).Equal})
}

// Pod returns the pod with that key, nil when there is none.
func (t *Table) Pod(key store.PodKey) *store.Pod { return t.pods[key] }

// count follows how many objects are in a namespace.
func (t *Table) count(namespace string, before, now bool) {
	if !t.implies || before == now {
		return
	}
	if now {
		t.members[namespace]++
	} else if t.members[namespace]--; t.members[namespace] == 0 {
		delete(t.members, namespace)
	}
	switch n := t.members[namespace]; {
	case t.stored[namespace] != nil:
	case n == 1 && now:
		t.setNamespace(namespace, implied(namespace))
	case n == 0:
		t.setNamespace(namespace, nil)
	}
}

func equal[V any](a, b *V) bool { return reflect.DeepEqual(a, b) }

// change is what an object is now.
type change[K comparable, V any] struct {
	key   K
	now   *V // nil: gone
	equal func(a, b *V) bool
}

// set takes a change into what is known and, unless it says nothing new, into what is to be told.
func set[K comparable, V any](t *Table, known, pending map[K]*V, c change[K, V]) {
	switch old := known[c.key]; {
	case old == nil && c.now == nil || old != nil && c.now != nil && c.equal(old, c.now):
	case c.now != nil:
		known[c.key], pending[c.key] = c.now, c.now
	default:
		delete(known, c.key)
		if pending[c.key] = nil; !t.told { // nobody has heard of it
			delete(pending, c.key)
		}
	}
}

// Take returns what is new since it was called last, and whether that is anything. The first time that is a reset, even when nothing is known.
func (t *Table) Take() (c store.PolicyChanges, ok bool) {
	c = t.pending
	if t.told && len(c.Policies)+len(c.ClusterPolicies)+len(c.Namespaces)+len(c.Pods)+len(c.Rejected) == 0 && !t.flaws.news {
		return store.PolicyChanges{}, false
	}
	c.Reset, c.Flawed = !t.told, t.flaws.take()
	t.told = true
	t.clear()
	return c, true
}
