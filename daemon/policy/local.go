package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/store"
)

// localPods are the pods that are attached to the node, by the records of the CNI plugin. A pod is one of them from when its ADD has written its
// addresses to when its DEL begins; so are its addresses closed before anybody else can have them.
type localPods struct {
	network, node string
	own           bool // the records have the pods' labels, too

	local   []filter.Local // sorted
	addrs   map[kernel.PodOwner][]netip.Addr
	told    bool // local is known
	current bool // it is that of the last records
	pods    map[store.PodKey]*store.Pod
	before  map[kernel.PodOwner]attachments.Record // records as they were before they were damaged
}

func newLocalPods(network, node string, own bool) *localPods {
	return &localPods{network: network, node: node, own: own, pods: map[store.PodKey]*store.Pod{}, before: map[kernel.PodOwner]attachments.Record{}}
}

// forget has the next records told anew.
func (l *localPods) forget() {
	l.local, l.told, l.current, l.pods = nil, false, false, map[store.PodKey]*store.Pod{}
}

// amend puts the records' pods into the place of those that the source tells of this node: there they are later, and only when their ADD is complete.
func (l *localPods) amend(c *store.PolicyChanges) {
	if !l.own {
		return
	}
	maps.DeleteFunc(c.Pods, func(key store.PodKey, _ *store.Pod) bool { return key.Node == l.node })
	if c.Reset {
		if c.Pods == nil {
			c.Pods = map[store.PodKey]*store.Pod{}
		}
		maps.Copy(c.Pods, l.pods)
	}
}

// set takes the records, and whose ADD is known to run. It returns changes of pods that the records tell of, and whether local is another one.
func (l *localPods) set(records []attachments.Record, adding map[kernel.PodOwner]bool) (own map[store.PodKey]*store.Pod, changed bool) {
	records = l.attached(records, adding)
	l.addrs = map[kernel.PodOwner][]netip.Addr{}
	for _, r := range records {
		l.addrs[r.Owner()] = addrsOf(r)
	}
	local := l.named(records)
	if l.own {
		local, own = l.labelled(records)
	}
	changed = !l.told || !slices.EqualFunc(l.local, local, sameLocal)
	l.local, l.told = local, true
	return own, changed
}

// attached returns the records of pods that have addresses. A damaged record stands for what it was before.
func (l *localPods) attached(records []attachments.Record, adding map[kernel.PodOwner]bool) []attachments.Record {
	var out []attachments.Record
	now := map[kernel.PodOwner]attachments.Record{}
	for _, r := range records {
		if r.Network != l.network {
			continue
		}
		if before, ok := l.before[r.Owner()]; r.Damage != nil && ok {
			before.Complete, before.Adding = r.Complete, r.Adding
			r = before
		}
		if r.Damage != nil || len(r.Addresses) == 0 || !r.Complete && !r.Adding && !adding[r.Owner()] {
			continue
		}
		now[r.Owner()] = r
		out = append(out, r)
	}
	l.before = now
	return out
}

// named are the pods by the names that Kubernetes gave to them. One whose sandbox was made anew may be there twice.
func (l *localPods) named(records []attachments.Record) []filter.Local {
	out := make([]filter.Local, 0, len(records))
	for _, r := range records {
		namespace, name, _ := strings.Cut(r.Pod, "/")
		key := store.PodKey{Node: l.node, Name: store.ObjectName{Namespace: namespace, Name: name}}
		out = append(out, filter.Local{Key: key, UID: r.PodUID, Addrs: addrsOf(r)})
	}
	slices.SortFunc(out, compareLocals)
	return out
}

// labelled are the pods by the names under which the node publishes them, and what is different about them.
func (l *localPods) labelled(records []attachments.Record) ([]filter.Local, map[store.PodKey]*store.Pod) {
	for i := range records { // of an ADD that runs: its pod is not published yet
		records[i].Complete = true
	}
	var out []filter.Local
	now, changes := map[store.PodKey]*store.Pod{}, map[store.PodKey]*store.Pod{}
	for _, p := range attachments.Pods(records, l.network, l.node) {
		out = append(out, filter.Local{Key: p.Key(), Addrs: p.Addrs})
		now[p.Key()] = p
		if !p.Equal(l.pods[p.Key()]) {
			changes[p.Key()] = p
		}
	}
	for key := range l.pods {
		if now[key] == nil {
			changes[key] = nil
		}
	}
	l.pods = now
	slices.SortFunc(out, compareLocals)
	return out, changes
}

func addrsOf(r attachments.Record) []netip.Addr {
	out := make([]netip.Addr, 0, len(r.Addresses))
	for _, a := range r.Addresses {
		out = append(out, a.Addr().Unmap())
	}
	return out
}

func compareLocals(a, b filter.Local) int {
	return cmp.Or(a.Key.Name.Compare(b.Key.Name), strings.Compare(a.UID, b.UID), slices.CompareFunc(a.Addrs, b.Addrs, netip.Addr.Compare))
}

func sameLocal(a, b filter.Local) bool { return compareLocals(a, b) == 0 }

// holder returns the pod that has the address; ok is false when none has it, or two pods have.
func (l *localPods) holder(addr netip.Addr) (holder filter.Local, ok bool) {
	for _, local := range l.local {
		if !slices.Contains(local.Addrs, addr) {
			continue
		}
		if ok && (holder.Key != local.Key || holder.UID != local.UID) {
			return filter.Local{}, false
		}
		holder, ok = local, true
	}
	return holder, ok
}
