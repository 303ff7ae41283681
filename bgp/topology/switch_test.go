package topology

import (
	"fmt"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
)

const (
	plain     = ``
	oneForAll = `nodes: [{match: {names: [n0]}, reflector: {}}]`
	twoForAll = `nodes: [{match: {names: [n0, n1]}, reflector: {}}]`
	perRack   = `
nodes:
- {match: {names: [n0, n2]}, reflector: {serves: {labels: {rack: r0}}}}
- {match: {names: [n1, n3]}, reflector: {serves: {labels: {rack: r1}}}}
`
	forOneRack = `nodes: [{match: {names: [n0]}, reflector: {serves: {labels: {rack: r0}}}}]`
)

// reload gives all living nodes a new configuration, one after the other while time passes.
func (w *world) reload(what, text string) {
	w.t.Helper()
	for _, i := range w.rand.Perm(len(w.nodes)) {
		if w.nodes[i].dead {
			continue
		}
		w.configure(w.nodes[i], text)
		w.tick()
		if cut := w.cut(); len(cut) > 0 {
			w.t.Fatalf("%s: no route while the configuration is read: %v", what, cut)
		}
	}
	w.rest(what)
}

// Every pair keeps a route at all times while reflectors come, change and go, and no session is reset for it.
func TestSwitching(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { testSwitching(t, seed) })
	}
}

func testSwitching(t *testing.T, seed uint64) {
	const n = 12
	all := func(*sim) int { return n - 1 }
	clients := func(reflectors int) func(*sim) int {
		return func(s *sim) int {
			if s.i < reflectors {
				return n - 1
			}
			return reflectors
		}
	}
	rack := func(s *sim) int {
		if s.i < 4 {
			return 3 + n/2 - 2 // the other reflectors, and the clients of its rack
		}
		return 2
	}
	half := func(s *sim) int {
		switch {
		case s.i == 0 || s.i%2 == 1:
			return n - 1
		}
		return 1 + n/2 // the reflector, and the nodes that it does not serve
	}
	w := newRandomWorld(t, n, plain, seed)
	w.settle()
	for _, step := range []struct {
		name, config string
		sessions     func(*sim) int
	}{
		{"mesh", plain, all},
		{"two reflectors", twoForAll, clients(2)},
		{"mesh again", plain, all},
		{"one reflector", oneForAll, clients(1)},
		{"a reflector more", twoForAll, clients(2)},
		{"by racks", perRack, rack},
		{"one rack", forOneRack, half},
		{"by racks again", perRack, rack},
		{"two for all", twoForAll, clients(2)},
		{"mesh at last", plain, all},
	} {
		w.reload(step.name, step.config)
		w.wantSessions(step.name, step.sessions)
	}
	if w.drops > 0 {
		t.Errorf("%d sessions were reset", w.drops)
	}
}

func TestTheMeshIsBackBeforeTheRoutesOfDeadReflectorsGo(t *testing.T) {
	const n = 8
	w := newWorld(t, n, twoForAll)
	w.settle()
	w.rest("start")
	w.nodes[0].dead = true
	w.rest("one is dead")
	w.wantSessions("one is dead", func(s *sim) int {
		if s.i == 1 {
			return n - 2
		}
		return 1
	})
	w.nodes[1].dead = true
	for range 2 * keep / tick {
		w.tick()
		if cut := w.cut(); len(cut) > 0 {
			t.Fatalf("no route: %v", cut)
		}
	}
	w.wantSessions("both are dead", func(*sim) int { return n - 3 })

	w.start(w.nodes[1], twoForAll, bgp.LeaseData{})
	w.rest("one is back")
	w.nodes[1].young = false
	w.rest("one is back for a while")
	w.wantSessions("one is back", func(s *sim) int {
		if s.i == 1 {
			return n - 2
		}
		return 1
	})
}

// Reflectors that live do not help a node that cannot reach them: the others take up sessions with it.
func TestANodeThatAloneLosesItsReflectors(t *testing.T) {
	const n = 8
	w := newWorld(t, n, twoForAll)
	w.settle()
	w.cuts[between(5, 0)], w.cuts[between(5, 1)] = true, true
	for range 2 * keep / tick {
		w.tick()
		for _, pair := range w.cut() {
			if pair != "n5-n0" && pair != "n5-n1" && pair != "n0-n5" && pair != "n1-n5" { // these cannot
				t.Fatalf("no route: %v", pair)
			}
		}
	}
	w.wantSessions("alone", func(s *sim) int {
		switch s.i {
		case 0, 1:
			return n - 2
		case 5:
			return n - 3
		}
		return 3
	})
	clear(w.cuts)
	for range patience {
		w.tick()
	}
	w.wantSessions("healed", func(s *sim) int {
		if s.i < 2 {
			return n - 1
		}
		return 2
	})
}

// A reflector that restarts for a few seconds makes nobody build a mesh.
func TestARestartOfTheReflectorIsNotItsDeath(t *testing.T) {
	const n = 6
	w := newWorld(t, n, oneForAll)
	w.settle()
	w.nodes[0].dead = true
	for range 5 * time.Second / tick {
		w.tick()
		w.wantSessions("while it restarts", func(*sim) int { return 0 })
	}
	w.start(w.nodes[0], oneForAll, bgp.LeaseData{})
	for range patience {
		w.tick()
		if len(w.since) > n-1 {
			t.Fatalf("%d sessions", len(w.since))
		}
	}
	w.wantSessions("after it", func(s *sim) int {
		if s.i == 0 {
			return n - 1
		}
		return 1
	})
}

// A node that restarts remembers whom it heard: neither it nor the others take up sessions that are not needed.
func TestARestartOfAClientTakesUpNoMesh(t *testing.T) {
	const n = 6
	w := newWorld(t, n, twoForAll)
	w.settle()
	s := w.nodes[4]
	s.dead = true
	for range 4 {
		w.tick()
	}
	w.start(s, twoForAll, s.planner.publish)
	for range patience {
		w.tick()
		if p := len(s.plan.Instance.Peers); p > 2 {
			t.Fatalf("it wants %d sessions", p)
		}
		if s.lease == nil || len(w.since) > 2*n-3 {
			t.Fatalf("%d sessions", len(w.since))
		}
	}
	s.young = false
	w.rest("after it")

	// A memory of reflectors that are gone does not last.
	w.nodes[0].dead, w.nodes[1].dead, s.dead = true, true, true
	w.start(s, twoForAll, s.planner.publish)
	for range 4 * patience {
		w.tick()
	}
	s.young = false
	w.rest("without reflectors")
}

func TestMeshOffHasNoMeshWithoutReflectors(t *testing.T) {
	w := newWorld(t, 5, "mesh: off")
	w.settle()
	w.wantSessions("no reflector", func(*sim) int { return 0 })
	for _, s := range w.nodes {
		w.configure(s, "mesh: off\n"+oneForAll)
	}
	w.settle()
	w.wantSessions("one reflector", func(s *sim) int {
		if s.i == 0 {
			return 4
		}
		return 1
	})
	for _, s := range w.nodes {
		w.configure(s, "mesh: on\n"+oneForAll)
	}
	w.settle()
	w.wantSessions("mesh: on", func(*sim) int { return 4 })
}
