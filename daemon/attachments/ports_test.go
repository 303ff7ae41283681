package attachments

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
)

func records(n *node) []Record {
	var out []Record
	for _, id := range []string{"a", "b", "c"} {
		if r, ok := n.records[owner(id)]; ok {
			out = append(out, r)
		}
	}
	return out
}

// portsOf returns the elements of the map of ports for all addresses.
func portsOf(e hostport.Elements) []string {
	out := []string{}
	for _, e := range e["ports4"] {
		out = append(out, fmt.Sprintf("%d %s", e.Key[1].Number, e.Value[0].Addr))
	}
	slices.Sort(out)
	return out
}

func element(port uint32, to string) kernel.Element {
	n := newNode()
	r := n.add("x", to+"/24", uint16(port))
	elements, _ := podOf(r).Ports()
	return elements["ports4"][0]
}

func TestPlanPorts(t *testing.T) {
	both := []string{"8080 10.5.1.2", "8081 10.5.1.3"}
	set := func(n *node, id string, f func(*Record)) {
		r := n.records[owner(id)]
		f(&r)
		n.records[owner(id)] = r
	}
	tests := map[string]struct {
		injure            func(*node)
		want              []string
		restored, removed int
		waiting, disputed bool
	}{
		"as it should be": {func(*node) {}, both, 0, 0, false, false},
		"all gone":        {func(n *node) { clear(n.table) }, both, 6, 0, false, false},
		"one gone":        {func(n *node) { n.table["ports4"] = n.table["ports4"][:1] }, both, 1, 0, false, false},
		"one too many":    {func(n *node) { n.table["ports4"] = append(n.table["ports4"], element(99, "10.5.1.2")) }, both, 0, 1, false, false},
		"leads elsewhere": {func(n *node) { n.table["ports4"][0] = element(8080, "10.5.1.77") }, both, 1, 1, false, false},
		"self of nobody": {func(n *node) {
			n.table["self4"] = append(n.table["self4"], kernel.Element{Key: element(1, "10.9.9.9").Value[:1]})
		}, both, 0, 1, false, false},
		"ADD runs, not there yet": {func(n *node) { clear(n.table); set(n, "b", func(r *Record) { r.Complete, r.Adding = false, true }) }, both[:1], 4, 0, true, false},
		"ADD runs, there":         {func(n *node) { set(n, "b", func(r *Record) { r.Complete, r.Adding = false, true }) }, both, 0, 0, true, false},
		"DEL runs, removed": {func(n *node) {
			n.table["ports4"] = n.table["ports4"][:1]
			set(n, "b", func(r *Record) { r.Complete = false })
		}, both[:1], 0, 0, false, false},
		"DEL runs, there":          {func(n *node) { set(n, "b", func(r *Record) { r.Complete = false }) }, both, 0, 0, false, false},
		"record gone":              {func(n *node) { delete(n.records, owner("b")) }, both[:1], 0, 2, false, false},
		"record damaged":           {func(n *node) { n.records[owner("b")] = Record{Complete: true, Damage: errInjected} }, both, 0, 0, false, false},
		"record without addresses": {func(n *node) { set(n, "b", func(r *Record) { r.Addresses, r.Complete, r.Adding = nil, false, true }) }, both[:1], 0, 2, false, false},
		"bridges stay":             {func(n *node) { clear(n.records) }, []string{}, 0, 4, false, false},
		"two want one, one has it": {func(n *node) {
			r := n.add("c", "10.5.1.4/24")
			r.PortMappings = n.records[owner("a")].PortMappings
			n.records[owner("c")] = r
		}, both, 1, 0, false, true},
		"two want one, neither has": {func(n *node) {
			r := n.add("c", "10.5.1.4/24")
			r.PortMappings = n.records[owner("a")].PortMappings
			n.records[owner("c")] = r
			clear(n.table)
		}, both, 7, 0, false, true},
		"another network's pod":       {func(n *node) { set(n, "b", func(r *Record) { r.Network = "other" }); clear(n.table) }, both, 6, 0, false, false},
		"nothing there, nobody wants": {func(n *node) { clear(n.table); clear(n.records) }, []string{}, 0, 0, false, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode()
			n.add("a", "10.5.1.2/24", 8080)
			n.add("b", "10.5.1.3/24", 8081)
			tc.injure(n)
			p := planPorts(n.table, records(n), nil)
			if diff := cmp.Diff(tc.want, portsOf(p.want)); diff != "" {
				t.Error(diff)
			}
			got := []any{p.restored, p.removed, p.waiting, len(p.disputed) > 0}
			if diff := cmp.Diff([]any{tc.restored, tc.removed, tc.waiting, tc.disputed}, got); diff != "" {
				t.Error(diff)
			}
			again := planPorts(p.want, records(n), nil)
			if again.restored+again.removed > 0 {
				t.Errorf("not at rest: %+v", again)
			}
			shuffled := p.want.With(nil)
			for _, list := range shuffled {
				rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			}
			if other := planPorts(shuffled, records(n), nil); !same(p.want, other.want) {
				t.Error("the order of elements makes a difference")
			}
		})
	}
}

func TestGuardIsPutBack(t *testing.T) {
	p := planPorts(hostport.Elements{}, nil, []string{"cni0"})
	if diff := cmp.Diff(lines(hostport.Pod{Bridge: "cni0"}.Shared()), lines(p.want)); diff != "" {
		t.Error(diff)
	}
	if p := planPorts(hostport.Elements{}, nil, nil); p.want != nil {
		t.Errorf("a table is made for nobody: %v", p.want)
	}
}

// A table that somebody clears is whole again after moments; a pod whose ADD ran meanwhile gets its ports back when it is complete.
func TestPortsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24", 8080)
		k := run(t, n)
		if n.observed.elements > 0 {
			t.Errorf("%d elements repaired of a table that is whole", n.observed.elements)
		}
		b := n.add("b", "10.5.1.3/24", 8081)
		b.Complete, b.Adding = false, true
		n.records[owner("b")] = b
		clear(n.table)
		k.Observe(tableChanged)
		n.settle(100 * time.Millisecond)
		if diff := cmp.Diff([]string{"8080 10.5.1.2"}, portsOf(n.table)); diff != "" {
			t.Error(diff)
		}
		b.Complete, b.Adding = true, false
		n.records[owner("b")] = b
		n.settle(time.Second)
		if diff := cmp.Diff([]string{"8080 10.5.1.2", "8081 10.5.1.3"}, portsOf(n.table)); diff != "" {
			t.Error(diff)
		}
		if !n.localnet["cni0"] {
			t.Error("localhost does not lead to the pods")
		}
		n.localnet["cni0"] = false // the bridge was made again
		k.Observe(kernel.Event{Kind: kernel.KindLink, Link: "cni0", Intact: true})
		n.settle(time.Millisecond)
		if !n.localnet["cni0"] {
			t.Error("localhost does not lead to the pods of the new bridge")
		}
		looks := n.calls["revise"]
		n.settle(4 * time.Minute)
		if more := n.calls["revise"] - looks; more > 0 {
			t.Errorf("%d looks while nothing happens", more)
		}
	})
}

// Somebody removed the records, or the daemon was given another run directory: pods that live keep their ports.
func TestPortsOfPodsWithoutRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24", 8080)
		n.add("b", "10.5.1.3/24", 8081)
		delete(n.records, owner("a"))
		k := run(t, n)
		if diff := cmp.Diff([]string{"8080 10.5.1.2", "8081 10.5.1.3"}, portsOf(n.table)); diff != "" {
			t.Error(diff)
		}
		n.vanish("a") // now nobody can want them
		k.Observe(tableChanged)
		n.settle(time.Second)
		if diff := cmp.Diff([]string{"8081 10.5.1.3"}, portsOf(n.table)); diff != "" {
			t.Error(diff)
		}
	})
}

// A port that is put back while its pod's DEL runs, and has been looked for by it before, is removed again.
func TestPortsAgainstDEL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24", 8080)
		k := run(t, n)
		clear(n.table) // damage
		k.Observe(tableChanged)
		n.settle(100 * time.Millisecond) // put back, although the DEL has looked
		n.vanish("a")
		delete(n.records, owner("a"))
		n.settle(time.Second)
		if got := portsOf(n.table); len(got) > 0 {
			t.Errorf("left behind: %q", got)
		}
	})
}

// A thousand notifications cost a few looks.
func TestNotificationsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24", 8080)
		k := run(t, n)
		looks := n.calls["revise"]
		for range 1000 {
			k.Observe(tableChanged)
			n.settle(time.Millisecond)
		}
		if more := n.calls["revise"] - looks; more > 6 {
			t.Errorf("%d looks in a second", more)
		}
		k.Observe(kernel.Event{Kind: kernel.KindTable, Table: "twill-masquerade"})
		k.Observe(kernel.Event{Kind: kernel.KindRoute})
		n.settle(time.Minute)
		if more := n.calls["revise"] - looks; more > 7 {
			t.Errorf("%d looks for what is no business of ours", more)
		}
	})
}

func TestLinks(t *testing.T) {
	tests := map[string]struct {
		injure func(*node)
		up     bool
	}{
		"set down": {func(*node) {}, true},
		"ADD runs": {func(n *node) {
			r := n.records[owner("a")]
			r.Complete, r.Adding = false, true
			n.records[owner("a")] = r
		}, false},
		"no record":             {func(n *node) { clear(n.records) }, false},
		"another owner's":       {func(n *node) { l := n.links["veth-a"]; l.Owner = owner("z"); n.links["veth-a"] = l }, false},
		"not the recorded link": {func(n *node) { r := n.records[owner("a")]; r.HostLink = "veth-z"; n.records[owner("a")] = r }, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode()
				n.add("a", "10.5.1.2/24")
				k := run(t, n)
				l := n.links["veth-a"]
				l.Up = false
				n.links["veth-a"] = l
				tc.injure(n)
				l = n.links["veth-a"]
				k.Observe(kernel.Event{Kind: kernel.KindLink, Link: "veth-a", Pod: true, Intact: true})
				n.settle(time.Second)
				if n.links["veth-a"].Up != tc.up || (n.observed.links == 1) != tc.up {
					t.Errorf("up is %t, %d repairs counted", n.links["veth-a"].Up, n.observed.links)
				}
				n.links["veth-a"] = l
				k.Observe(kernel.Event{Lost: true})
				n.settle(time.Second)
				if n.links["veth-a"].Up != tc.up {
					t.Errorf("after lost events: up is %t", n.links["veth-a"].Up)
				}
			})
		})
	}
}
