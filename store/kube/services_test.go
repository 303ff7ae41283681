package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

func named(name string) *corev1.Service {
	s := storetest.TestService(name, 80)
	s.Namespace = "shop"
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.1", []string{"10.96.0.1"}
	return s
}

// told is what is told of Services: + for one that is there, - for one that is gone.
func told(c store.ServiceChanges) map[string]string {
	out := map[string]string{}
	for name, s := range c.Services {
		if out[name.Name] = "+"; s == nil {
			out[name.Name] = "-"
		}
	}
	return out
}

func TestAccumulator(t *testing.T) {
	a := newAccumulator()
	a.node(nil) // as run does
	services, others := a.add(a.service), a.add(a.serviceCIDR)
	must(t, services.Replace([]any{named("a"), named("b")}, "1"))
	if c, ok := a.take(); ok {
		t.Errorf("told before everything was listed: %v", c)
	}
	must(t, services.Add(named("c")))
	must(t, services.Delete(named("a")))
	must(t, others.Replace(nil, "1"))
	c, ok := a.take()
	if diff := cmp.Diff(map[string]string{"a": "-", "b": "+", "c": "+"}, told(c)); diff != "" || !ok || !c.Reset || c.Networks != nil {
		t.Error(ok, c.Reset, diff)
	}
	if _, ok := a.take(); ok {
		t.Error("told twice")
	}
	// The watch broke; what is missing from the new list is gone.
	must(t, services.Replace([]any{named("c"), named("d")}, "9"))
	c, _ = a.take()
	if diff := cmp.Diff(map[string]string{"b": "-", "c": "+", "d": "+"}, told(c)); diff != "" || c.Reset {
		t.Error(c.Reset, diff)
	}
	broken := named("c")
	broken.Spec.ClusterIPs = []string{"nonsense"}
	must(t, services.Update(broken))
	c, _ = a.take()
	if len(c.Services) != 0 || len(c.Rejected) != 1 || c.Rejected[0].Key != "shop/c" {
		t.Errorf("have %v, rejected %v", told(c), c.Rejected)
	}
	must(t, services.Replace([]any{broken}, "10")) // it is still there: its last good state stays
	c, _ = a.take()
	if diff := cmp.Diff(map[string]string{"d": "-"}, told(c)); diff != "" {
		t.Error(diff)
	}
	if err := services.Replace([]any{"no object"}, "11"); err == nil {
		t.Error("a string was taken for an object")
	}
}

func TestServiceCIDRs(t *testing.T) {
	a := newAccumulator()
	a.node(nil) // as run does
	cidrs := a.add(a.serviceCIDR)
	cidr := func(name string, networks ...string) *networkingv1.ServiceCIDR {
		c := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: networks}}
		c.Name = name
		return c
	}
	expect := func(want ...string) {
		t.Helper()
		c, _ := a.take()
		have := []string{}
		for _, p := range c.Networks {
			have = append(have, p.String())
		}
		if diff := cmp.Diff(append([]string{}, want...), have); diff != "" || c.Networks == nil {
			t.Error(diff)
		}
	}
	must(t, cidrs.Replace([]any{cidr("kubernetes", "10.96.0.0/16", "fd00:96::/112")}, "1"))
	expect("10.96.0.0/16", "fd00:96::/112")
	must(t, cidrs.Add(cidr("more", "10.97.0.0/16", "10.96.0.0/16")))
	expect("10.96.0.0/16", "10.97.0.0/16", "fd00:96::/112")
	must(t, cidrs.Update(cidr("kubernetes", "10.98.0.0/16")))
	expect("10.96.0.0/16", "10.97.0.0/16", "10.98.0.0/16")
	must(t, cidrs.Delete(cidr("more")))
	expect("10.98.0.0/16")
}
