package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

const registry = lab.EtcdPrefix + "/registry/"

// opsPerTxn is how many operations etcd takes in one transaction, with room for the sentinel's.
const opsPerTxn = 100

// write stores the changes, which are all that there is to be from now on, and the sentinel's policy last. It returns that policy's name.
func (r *rig) write(t testing.TB, changes store.PolicyChanges) string {
	t.Helper()
	r.steps++
	name := store.ObjectName{Namespace: "sentinel", Name: fmt.Sprintf("step-%d", r.steps)}
	wanted := contents(t, changes)
	maps.Copy(wanted, contents(t, store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{
		name: {Name: name, IsolatesIngress: true},
	}}))
	var ops []clientv3.Op
	for _, key := range slices.Sorted(maps.Keys(r.stored)) {
		if _, stays := wanted[key]; !stays {
			ops = append(ops, clientv3.OpDelete(registry+key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		if wanted[key] != r.stored[key] && !strings.HasSuffix(key, name.String()) {
			ops = append(ops, clientv3.OpPut(registry+key, wanted[key]))
		}
	}
	last := "networkpolicies/" + name.String()
	ops = append(ops, clientv3.OpPut(registry+last, wanted[last]))
	for part := range slices.Chunk(ops, opsPerTxn) {
		_, err := r.etcd.Txn(t.Context()).Then(part...).Commit()
		must(t, err)
	}
	r.stored = wanted
	return name.String()
}

// contents returns the keys below the registry and their values that twillctl apply makes of the changes' manifests.
func contents(t testing.TB, changes store.PolicyChanges) map[string]string {
	t.Helper()
	changes.Policies = maps.Clone(changes.Policies)
	// The API has no policy without directions: an empty list stands for the default.
	maps.DeleteFunc(changes.Policies, func(_ store.ObjectName, p *store.NetworkPolicy) bool { return !p.IsolatesIngress && !p.IsolatesEgress })
	text, err := policytest.Manifests(changes)
	must(t, err)
	documents, err := manifest.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	all := map[string]string{}
	for _, d := range documents {
		key, object := "", any(nil)
		switch d.Kind {
		case manifest.KindNamespace:
			key, object = "namespaces/"+d.Name.Name, d.Namespace
		case manifest.KindNetworkPolicy:
			key, object = "networkpolicies/"+d.Name.String(), d.NetworkPolicy
		case manifest.KindClusterNetworkPolicy:
			key, object = "clusternetworkpolicies/"+d.Name.Name, d.ClusterPolicy
		default:
			t.Fatalf("%s is of a kind that policies do not have", d.Kind)
		}
		value, err := manifest.Encode(object)
		must(t, err)
		all[key] = string(value)
	}
	return all
}

// changesOf are namespaces and policies.
func changesOf(namespaces []*store.Namespace, policies ...*store.NetworkPolicy) store.PolicyChanges {
	changes := store.PolicyChanges{Namespaces: map[string]*store.Namespace{}, Policies: map[store.ObjectName]*store.NetworkPolicy{},
		ClusterPolicies: map[string]*store.ClusterNetworkPolicy{}}
	for _, n := range namespaces {
		changes.Namespaces[n.Name] = n
	}
	for _, p := range policies {
		changes.Policies[p.Name] = p
	}
	return changes
}

// named is a policy about all pods of a namespace with a label app of that value; all, when the value is empty.
func named(namespace, name, app string) *store.NetworkPolicy {
	p := &store.NetworkPolicy{Name: store.ObjectName{Namespace: namespace, Name: name}}
	if app != "" {
		p.Pods = labelled("app", app)
	}
	return p
}

func labelled(key, value string) store.Selector {
	return store.NewSelector(store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
}

// closes is a policy that leaves pods nothing open but what rules allow.
func closes(p *store.NetworkPolicy, ingress, egress bool) *store.NetworkPolicy {
	p.IsolatesIngress, p.IsolatesEgress = ingress, egress
	return p
}
