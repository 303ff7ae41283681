package dnat

import (
	"fmt"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

func TestSplitKeepsFrontendsWhole(t *testing.T) {
	f := families()[0]
	table := New(f.config)
	names := []string{"10.1.1.2:1", "10.1.1.3:1", "10.1.1.4:1"}
	for i := range 10 {
		table.Set(changes(svc(fmt.Sprint(i), f.frontend(fmt.Sprintf("10.96.0.%d:80", i), names...))))
	}
	var all []Change
	for i := range 10 {
		all = append(all, changes(svc(fmt.Sprint(i), f.frontend(fmt.Sprintf("10.96.0.%d:80", i), "10.1.1.7:1", "10.1.1.8:1", "10.1.1.9:1", "10.1.1.2:1", "10.1.1.3:1")))...)
	}
	u := table.Set(all)
	total, largest := 0, 0
	steps := map[string]int{} // transaction of each frontend's number
	for n, part := range Split(u.Elements, 20) {
		largest, total = max(largest, size(part)), total+size(part)
		for _, c := range part {
			for _, e := range c.Add {
				if c.Set == setServices {
					steps[e.Key] = n
				}
			}
		}
	}
	if total != size(u.Elements) || largest > 20 {
		t.Errorf("%d elements in transactions of at most %d, want %d of at most 20", total, largest, size(u.Elements))
	}
	for n, part := range Split(u.Elements, 20) {
		for _, c := range part {
			for _, key := range c.Remove {
				if c.Set == setEndpoints && steps[key[:12]] != n {
					t.Errorf("a slot is replaced in transaction %d, its frontend's plan in %d", n, steps[key[:12]])
				}
			}
		}
	}
	if Split(nil, 10) != nil || len(Split([]kernel.SetChange{{Set: setSlots, Remove: []string{"a"}}}, 10)) != 1 {
		t.Error("few changes are one transaction, none is none")
	}
}

// Nobody is refused at an address whose frontends are still to come.
func TestSplitRefusesLast(t *testing.T) {
	f := families()[0]
	table := New(f.config)
	var all []Change
	for i := range 20 {
		s := svc(fmt.Sprint(i), f.frontend(fmt.Sprintf("10.96.0.%d:80", i), "10.1.1.2:1", "10.1.1.3:1"))
		all = append(all, changes(s)...)
	}
	u := table.Set(all)
	frontends, addresses := 0, 0
	for _, part := range Split(u.Elements, 10) {
		for _, c := range part {
			switch c.Set {
			case setServices:
				frontends += len(c.Add)
			case setClusterIPs:
				addresses += len(c.Add)
				if frontends < 20 {
					t.Fatalf("%d addresses are refused when %d of 20 frontends are there", len(c.Add), frontends)
				}
			}
		}
	}
	if frontends != 20 || addresses != 20 {
		t.Errorf("%d frontends and %d addresses", frontends, addresses)
	}
}
