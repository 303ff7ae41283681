package attachments

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
)

// Who is released, of what may have happened to pod "a" while the daemon was away. Pod "b" lives all the time.
func TestWhoIsReleased(t *testing.T) {
	change := func(id string, f func(*Record)) func(*node) {
		return func(n *node) {
			r := n.records[owner(id)]
			f(&r)
			n.records[owner(id)] = r
		}
	}
	tests := map[string]struct {
		happens  []func(*node)
		released bool
	}{
		"nothing":                       {nil, false},
		"vanished":                      {[]func(*node){func(n *node) { n.vanish("a") }}, true},
		"namespace gone, link there":    {[]func(*node){func(n *node) { delete(n.netns, "/ns/a") }}, false},
		"link gone, namespace there":    {[]func(*node){func(n *node) { delete(n.links, "veth-a") }}, false},
		"another namespace at the path": {[]func(*node){func(n *node) { n.vanish("a"); n.netns["/ns/a"] = 77 }}, true},
		"the same with a link":          {[]func(*node){func(n *node) { n.netns["/ns/a"] = 77 }}, false},
		"its inode was never known":     {[]func(*node){func(n *node) { n.vanish("a"); n.netns["/ns/a"] = 77; delete(n.leases, owner("a")) }}, false},
		"record alone is left":          {[]func(*node){func(n *node) { n.vanish("a"); delete(n.leases, owner("a")) }}, true},
		"lease alone is left":           {[]func(*node){func(n *node) { n.vanish("a"); delete(n.records, owner("a")) }}, true},
		"lease alone, of a living one":  {[]func(*node){func(n *node) { delete(n.records, owner("a")) }}, false},
		"lease without a namespace": {[]func(*node){func(n *node) {
			n.vanish("a")
			delete(n.records, owner("a"))
			n.leases[owner("a")] = ipam.Lease{Owner: n.leases[owner("a")].Owner}
		}}, false},
		"ADD was killed":               {[]func(*node){func(n *node) { n.vanish("a") }, change("a", func(r *Record) { r.Complete = false })}, true},
		"ADD runs":                     {[]func(*node){func(n *node) { n.vanish("a") }, change("a", func(r *Record) { r.Complete, r.Adding = false, true })}, false},
		"another network":              {[]func(*node){func(n *node) { n.vanish("a"); delete(n.leases, owner("a")) }, change("a", func(r *Record) { r.Network = "other" })}, false},
		"damaged record, lease tells":  {[]func(*node){func(n *node) { n.vanish("a") }, change("a", func(r *Record) { r.Damage, r.Netns = errInjected, "" })}, true},
		"damaged record, nothing else": {[]func(*node){func(n *node) { n.vanish("a"); delete(n.leases, owner("a")) }, change("a", func(r *Record) { r.Damage, r.Netns = errInjected, "" })}, false},
		"shaper alone": {[]func(*node){func(n *node) {
			n.vanish("a")
			clear(n.leases)
			n.shapers["ifb-a"] = owner("a")
			delete(n.records, owner("a"))
		}}, true},
		"shaper and link without a record":  {[]func(*node){func(n *node) { n.shapers["ifb-a"] = owner("a"); delete(n.records, owner("a")) }}, false},
		"shaper of another network":         {[]func(*node){func(n *node) { n.vanish("a"); clear(n.leases); n.shapers["ifb-a"] = owner("a") }, change("a", func(r *Record) { r.Network = "other" })}, false},
		"vanished, with shaper":             {[]func(*node){func(n *node) { n.vanish("a"); n.shapers["ifb-a"] = owner("a") }}, true},
		"link without record and namespace": {[]func(*node){func(n *node) { delete(n.netns, "/ns/a"); clear(n.leases); delete(n.records, owner("a")) }}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode()
				n.add("a", "10.5.1.2/24")
				n.add("b", "10.5.1.3/24")
				for _, f := range tc.happens {
					f(n)
				}
				run(t, n)
				n.settle(delay - 2*time.Second)
				if len(n.released) > 0 {
					t.Errorf("%q released after less than the delay", n.released)
				}
				n.settle(5 * time.Second)
				want := []string(nil)
				if tc.released {
					want = []string{"a"}
				}
				if diff := cmp.Diff(want, n.released); diff != "" {
					t.Error(diff)
				}
				if tc.released && (n.observed.released != 1 || len(n.shapers) > 0) {
					t.Errorf("%d counted, shapers left: %v", n.observed.released, n.shapers)
				}
				looks := n.calls["leases"]
				n.settle(3 * time.Minute)
				if more := n.calls["leases"] - looks; more > 0 {
					t.Errorf("%d looks while nothing happens", more)
				}
			})
		})
	}
}

// What a second ADD of the same id leaves is not what was seen dead: it starts anew.
func TestReusedID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24")
		n.vanish("a")
		k := run(t, n)
		n.settle(delay / 2)
		n.add("a", "10.5.1.9/24") // and this one is lost too, between two looks
		n.vanish("a")
		n.settle(delay)
		if len(n.released) > 0 {
			t.Errorf("%q released by what was seen of an earlier one", n.released)
		}
		n.settle(delay)
		if diff := cmp.Diff([]string{"a"}, n.released); diff != "" {
			t.Error(diff)
		}
		n.add("a", "10.5.1.4/24")
		k.Observe(gone("veth-x"))
		n.settle(3 * delay)
		if len(n.released) != 1 {
			t.Error("a living one was released")
		}
	})
}

// An ADD that comes at the last moment, between the look and the freeze, is seen by the look that follows the freeze.
func TestADDAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		for _, id := range []string{"a", "b"} {
			n.add(id, "10.5.1.2/24")
			n.vanish(id)
		}
		n.onRelease = func() { n.onRelease = nil } // a is released
		n.busy = true
		run(t, n)
		n.settle(delay + 10*time.Second)
		if len(n.released) > 0 {
			t.Errorf("%q released while ADDs run", n.released)
		}
		n.add("b", "10.5.1.7/24")
		n.busy = false
		n.settle(2 * time.Second)
		if diff := cmp.Diff([]string{"a"}, n.released); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLinkEventLeadsToRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		n.add("a", "10.5.1.2/24")
		k := run(t, n)
		looks := n.calls["leases"]
		n.settle(time.Minute)
		n.vanish("a")
		for range 1000 { // a burst of DELs
			k.Observe(gone("veth-a"))
		}
		n.settle(delay + delay/settlePart + time.Second)
		if diff := cmp.Diff([]string{"a"}, n.released); diff != "" {
			t.Error(diff)
		}
		if n.calls["leases"]-looks > 4 {
			t.Errorf("%d looks for one burst", n.calls["leases"]-looks)
		}
	})
}

// Each call may fail, for a while: what has to be done is done in the end, and only that.
func TestFailures(t *testing.T) {
	for _, what := range []string{"records", "leases", "links", "shapers", "freeze", "release", "unshape", "revise", "localnet", "allow", "flush", "up", "link"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode()
				n.add("a", "10.5.1.2/24", 8080)
				n.add("b", "10.5.1.3/24", 8081)
				n.vanish("a")
				n.shapers["ifb-a"] = owner("a")
				clear(n.table)
				down := n.links["veth-b"]
				down.Up = false
				n.links["veth-b"] = down
				n.fail[what] = 3
				run(t, n)
				n.settle(2 * delay)
				if diff := cmp.Diff([]string{"a"}, slices.Compact(n.released)); diff != "" {
					t.Error(diff)
				}
				if len(n.shapers) > 0 || !n.links["veth-b"].Up {
					t.Errorf("shapers %v, links %v", n.shapers, n.links)
				}
				if _, there := n.table["ports4"]; !there {
					t.Errorf("no ports: %q", lines(n.table))
				}
			})
		})
	}
}

func TestManyDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		for i := range 5 * releaseAtOnce {
			id := string(rune('A'+i/26)) + string(rune('a'+i%26))
			n.add(id, "10.5.1.2/24")
			n.vanish(id)
		}
		run(t, n)
		n.settle(delay)
		if len(n.released) != 5*releaseAtOnce || len(n.leases) > 0 {
			t.Errorf("%d released, %d leases left", len(n.released), len(n.leases))
		}
	})
}

func TestLedger(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0) }
	dead := func(print string) map[kernel.PodOwner]suspect {
		return map[kernel.PodOwner]suspect{owner("a"): {print: print}}
	}
	l := ledger{}
	for i, look := range []struct {
		second int
		dead   map[kernel.PodOwner]suspect
		due    bool
		next   int // seconds; 0 for none
	}{
		{0, dead("x"), false, 30},
		{29, dead("x"), false, 30},
		{30, dead("x"), true, 0},
		{31, nil, false, 0}, // it lives
		{32, dead("x"), false, 62},
		{61, dead("y"), false, 91}, // another one
		{91, dead("y"), true, 0},
		{95, dead("y"), true, 0}, // the release has failed
	} {
		due, next := l.see(at(look.second), look.dead, delay)
		if (len(due) == 1) != look.due {
			t.Errorf("look %d: due %v", i, due)
		}
		if want := at(look.next); look.next != 0 && !next.Equal(want) || look.next == 0 && !next.IsZero() {
			t.Errorf("look %d: next %v", i, next)
		}
	}
}
