package policytest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// What is made here could come from the API, and its manifests mean the same.
func TestManifests(t *testing.T) {
	all := map[string]store.PolicyChanges{}
	for _, c := range Cases() {
		changes := c.Changes()
		changes.Namespaces = nil
		all[c.Kind+": "+c.Name] = changes
	}
	for seed := range uint64(30) {
		c := Generate(rand.New(rand.NewPCG(seed, 5)), testSize())
		all[fmt.Sprint("seed ", seed)] = c.Changes()
		for range 50 {
			c.Change()
		}
		all[fmt.Sprint("seed ", seed, ", changed")] = c.Changes()
	}
	for name, changes := range all {
		text, err := Manifests(changes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		documents, err := manifest.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		read, err := readDocuments(documents)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		changes.Pods, changes.Reset = nil, false
		options := cmp.Options{cmp.Comparer(equalAddr), cmp.Comparer(equalPrefix), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(changes, read, options); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func readDocuments(documents []manifest.Document) (store.PolicyChanges, error) {
	changes := newChanges()
	for _, d := range documents {
		switch d.Kind {
		case manifest.KindNamespace:
			changes.Namespaces[d.Name.Name] = manifest.FromNamespace(d.Namespace)
		case manifest.KindNetworkPolicy:
			p, err := manifest.FromNetworkPolicy(d.NetworkPolicy)
			if err != nil {
				return changes, err
			}
			changes.Policies[d.Name] = p
		case manifest.KindClusterNetworkPolicy:
			p, err := manifest.FromClusterNetworkPolicy(d.ClusterPolicy)
			if err != nil {
				return changes, err
			}
			changes.ClusterPolicies[d.Name.Name] = p
		}
	}
	return changes, nil
}
