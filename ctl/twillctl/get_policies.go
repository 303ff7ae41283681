package main

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-cni/twill/store/manifest"
)

func (l *listing) networkPolicies(t *table, all []*networkingv1.NetworkPolicy) {
	t.header = []any{"NAME", "POD-SELECTOR", "TYPES", "AGE"}
	for _, p := range all {
		if !l.wanted(p.Namespace, p.Name) {
			continue
		}
		var types []string
		for _, pt := range p.Spec.PolicyTypes {
			types = append(types, string(pt))
		}
		row := []any{p.Name, selectorText(&p.Spec.PodSelector), dash(strings.Join(types, ",")), age(p.CreationTimestamp.Time, l.now)}
		t.add(p.Name, p, l.inNamespace(p.Namespace, row))
	}
}

func (l *listing) clusterPolicies(t *table, all []*manifest.ClusterNetworkPolicy) {
	t.header = []any{"NAME", "TIER", "PRIORITY", "AGE"}
	if l.wide() {
		t.header = []any{"NAME", "TIER", "PRIORITY", "SUBJECT", "AGE"}
	}
	for _, p := range all {
		if !l.named(p.Name) {
			continue
		}
		row := []any{p.Name, p.Spec.Tier, "-"}
		if n := p.Spec.Priority; n != nil {
			row[2] = *n
		}
		if l.wide() {
			row = append(row, subjectText(p.Spec.Subject))
		}
		t.add(p.Name, p, append(row, age(p.CreationTimestamp.Time, l.now)))
	}
}

func (l *listing) namespaces(t *table, all []*corev1.Namespace) {
	t.header = []any{"NAME", "AGE", "LABELS"}
	for _, ns := range all {
		if l.named(ns.Name) {
			t.add(ns.Name, ns, []any{ns.Name, age(ns.CreationTimestamp.Time, l.now), dash(pairs(ns.Labels))})
		}
	}
}

// named reports whether an object that is in no namespace is asked for.
func (l *listing) named(name string) bool {
	return len(l.names) == 0 || slices.Contains(l.names, name)
}

// selectorText puts a selector as kubectl does.
func selectorText(s *metav1.LabelSelector) string {
	return metav1.FormatLabelSelector(s)
}

func subjectText(s manifest.ClusterPolicySubject) string {
	switch {
	case s.Namespaces != nil:
		return "namespaces " + selectorText(s.Namespaces)
	case s.Pods != nil && s.Pods.NamespaceSelector != nil:
		return "pods " + selectorText(s.Pods.PodSelector) + " in namespaces " + selectorText(s.Pods.NamespaceSelector)
	case s.Pods != nil:
		return "pods " + selectorText(s.Pods.PodSelector)
	}
	return "-"
}
