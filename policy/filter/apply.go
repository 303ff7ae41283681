package filter

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Apply takes over what is new. What is in it is not changed, and is not to be changed by others any more.
func (f *Filter) Apply(changes store.PolicyChanges) {
	if changes.Reset {
		changes = f.sinceReset(changes)
	}
	for name, n := range changes.Namespaces {
		f.setNamespace(name, n)
	}
	for key, p := range changes.Pods {
		f.setPod(key, p)
	}
	for name, p := range changes.Policies {
		own := f.policies[name.Namespace]
		if own == nil {
			own = map[string]*store.NetworkPolicy{}
			f.policies[name.Namespace] = own
		}
		put(own, name.Name, p)
		if len(own) == 0 {
			delete(f.policies, name.Namespace)
		}
		f.localsIn[name.Namespace] = true
	}
	for name, p := range changes.ClusterPolicies {
		put(f.cluster, name, p)
		f.allLocals = true
	}
}

func put[K comparable, V any](m map[K]*V, key K, v *V) {
	if v == nil {
		delete(m, key)
	} else {
		m[key] = v
	}
}

// sinceReset turns a reset into changes: what is not in it is gone.
func (f *Filter) sinceReset(all store.PolicyChanges) store.PolicyChanges {
	changes := store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{}}
	for namespace, own := range f.policies {
		for name := range own {
			changes.Policies[store.ObjectName{Namespace: namespace, Name: name}] = nil
		}
	}
	maps.Copy(changes.Policies, all.Policies)
	changes.ClusterPolicies = gone(f.cluster, all.ClusterPolicies, func(*store.ClusterNetworkPolicy) bool { return true })
	changes.Namespaces = gone(f.namespaces, all.Namespaces, func(n *namespace) bool { return n.object != nil })
	changes.Pods = gone(f.pods, all.Pods, func(*pod) bool { return true })
	return changes
}

// gone returns all, with nil for each key of known that is not there.
func gone[K comparable, V, W any](known map[K]*V, all map[K]*W, counts func(*V) bool) map[K]*W {
	out := make(map[K]*W, len(all))
	for key, v := range known {
		if counts(v) {
			out[key] = nil
		}
	}
	maps.Copy(out, all)
	return out
}

func (f *Filter) namespace(name string) *namespace {
	n := f.namespaces[name]
	if n == nil {
		n = &namespace{name: name, pods: map[*pod]bool{}}
		f.namespaces[name] = n
	}
	return n
}

func (f *Filter) setNamespace(name string, object *store.Namespace) {
	n := f.namespace(name)
	old := n.labels()
	n.object = object
	if !maps.Equal(old, n.labels()) {
		f.touch(n)
		f.localsIn[name] = true
	}
	f.forget(n)
}

// forget removes a namespace of which nobody speaks.
func (f *Filter) forget(n *namespace) {
	if n.object == nil && len(n.pods) == 0 {
		delete(f.namespaces, n.name)
		delete(f.chosen, n.name)
	}
}

func (f *Filter) setPod(key store.PodKey, object *store.Pod) {
	p := f.pods[key]
	switch {
	case p == nil && object == nil, p != nil && object != nil && p.object.Equal(object):
		return
	case p == nil:
		p = &pod{object: &store.Pod{}, namespace: f.namespace(key.Name.Namespace)}
		f.pods[key] = p
		p.namespace.pods[p] = true
		f.dirtyPods[p] = true
	}
	old := p.object
	if object == nil {
		delete(f.pods, key)
		delete(p.namespace.pods, p)
		delete(f.dirtyPods, p)
		f.forget(p.namespace)
		object = &store.Pod{}
	}
	p.object = object
	if !maps.Equal(old.Labels, object.Labels) || !slices.Equal(old.Ports, object.Ports) {
		if f.pods[key] == p {
			f.dirtyPods[p] = true
		}
	}
	f.claim(p, old.Addrs, false)
	f.claim(p, object.Addrs, true)
	for _, l := range f.localsOf[key] {
		f.dirtyLocals[l] = true
	}
}

// claim notes that a pod has addresses, or has them no more.
func (f *Filter) claim(p *pod, addrs []netip.Addr, has bool) {
	for _, addr := range addrs {
		a := f.address(addr.Unmap())
		a.pods = slices.DeleteFunc(a.pods, func(o *pod) bool { return o == p })
		if has {
			a.pods = append(a.pods, p)
		}
	}
}

// address returns the record of an address, and marks it.
func (f *Filter) address(addr netip.Addr) *address {
	a := f.addrs[addr]
	if a == nil {
		a = &address{addr: addr}
		f.addrs[addr] = a
	}
	f.dirtyAddrs[a] = true
	return a
}

// SetLocal sets the pods of this node: all of them, in any order. An address that two of them have is closed.
func (f *Filter) SetLocal(all []Local) {
	old, oldAddrs := f.locals, f.localAddrs
	f.locals, f.localsOf, f.localAddrs = map[localID]*local{}, map[store.PodKey][]*local{}, map[netip.Addr]*local{}
	for _, told := range all {
		id := localID{told.Key, told.UID}
		l := f.locals[id]
		if l == nil {
			if l = old[id]; l == nil {
				l = &local{localID: id}
				f.dirtyLocals[l] = true
			}
			l.addrs = nil
			f.locals[id] = l
			f.localsOf[told.Key] = append(f.localsOf[told.Key], l)
		}
		for _, addr := range told.Addrs {
			addr = addr.Unmap()
			if other, taken := f.localAddrs[addr]; !taken {
				f.localAddrs[addr] = l
			} else if other != l {
				f.localAddrs[addr] = nil
			}
			l.addrs = append(l.addrs, addr)
		}
	}
	for id, l := range old {
		if f.locals[id] == nil {
			delete(f.dirtyLocals, l)
			f.goneLocals = append(f.goneLocals, l)
		}
	}
	for addr, l := range oldAddrs {
		now, there := f.localAddrs[addr]
		if !there || now != l {
			f.moved(addr)
		}
		if there && (now == nil) != (l == nil) { // a second pod claims it, or does so no more: the first one is still there
			f.step.pressing = true
		}
	}
	for addr, l := range f.localAddrs {
		if before, there := oldAddrs[addr]; !there || before != l {
			f.moved(addr)
		}
	}
}

// moved marks an address of this node that is somebody else's now.
func (f *Filter) moved(addr netip.Addr) {
	f.address(addr)
	f.step.locals = true
}
