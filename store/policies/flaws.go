package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twill-cni/twill/store"
)

// The first words of keys: rejects name an object by its resource, a slash and its name, as etcd's registry does.
const (
	policyFolder        = "networkpolicies/"
	clusterPolicyFolder = "clusternetworkpolicies/"
	namespaceFolder     = "namespaces/"
	podFolder           = "pods/"
)

// PolicyKey returns the key of a NetworkPolicy.
func PolicyKey(name store.ObjectName) string { return policyFolder + name.String() }

// ClusterPolicyKey returns the key of a ClusterNetworkPolicy.
func ClusterPolicyKey(name string) string { return clusterPolicyFolder + name }

func podKey(key store.PodKey) string { return podFolder + key.Node + "/" + key.Name.String() }

// flaws are the objects that are not understood, in full or in part, by key.
type flaws struct {
	now  map[string]error
	news bool // they are others than those that were taken last
}

// set says what is not understood of an object that was taken in, or is gone; empty: nothing.
func (f *flaws) set(key, flaw string) {
	switch old := f.now[key]; {
	case flaw == "" && old != nil:
		delete(f.now, key)
		f.news = true
	case flaw != "" && (old == nil || old.Error() != flaw):
		f.now[key] = errors.New(flaw)
		f.news = true
	}
}

// take returns them all, sorted by key.
func (f *flaws) take() []store.Reject {
	f.news = false
	var out []store.Reject
	for _, key := range slices.Sorted(maps.Keys(f.now)) {
		out = append(out, store.Reject{Key: key, Err: f.now[key]})
	}
	return out
}

// Reject tells of an object that cannot be read, in full or, when it was set just before, in part. It is among those that are flawed until it is set
// again.
func (t *Table) Reject(r store.Reject) {
	if t.idle(r.Key) {
		r.Err = fmt.Errorf("it has no effect, since it was never understood: %w", r.Err)
	}
	t.pending.Rejected = append(t.pending.Rejected, r)
	t.flaws.now[r.Key], t.flaws.news = r.Err, true
}

// idle reports whether the key is that of a policy of which nothing is in force.
func (t *Table) idle(key string) bool {
	if text, ok := strings.CutPrefix(key, policyFolder); ok {
		namespace, name, _ := strings.Cut(text, "/")
		return t.policies[store.ObjectName{Namespace: namespace, Name: name}] == nil
	}
	name, ok := strings.CutPrefix(key, clusterPolicyFolder)
	return ok && t.clusterWide[name] == nil
}
