package policy

import (
	"flag"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/twill-cni/twill/policy/policytest"
)

// seed is that of whatever is random in a run; 0: the clock's.
var seed = flag.Uint64("seed", 0, "seed of what is random; 0: another one each time")

// only selects cases of the truth table by what they are called.
var only = flag.String("case", "", "regular expression: only cases with such names")

// newRandom returns random numbers, and says how to have the same ones again.
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", s)
	return rand.New(rand.NewPCG(s, 1))
}

// TestTruthTable asks, for each of the cases of policytest, whether packets do what the case says.
func TestTruthTable(t *testing.T) {
	for _, backend := range []string{"vxlan", "bgp"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			pattern := regexp.MustCompile(*only)
			cases := slices.DeleteFunc(policytest.Cases(), func(c policytest.Case) bool { return !pattern.MatchString(c.Kind + ": " + c.Name) })
			if testing.Short() {
				cases = some(newRandom(t), cases, 40)
			}
			r := newRig(t, rigOptions{backend: backend, nodes: 3})
			pods := map[string]*pod{}
			for _, p := range r.addPods(t, policytest.Pods()) {
				pods[p.name] = p
			}
			probes, begin := 0, time.Now()
			var took []time.Duration
			for _, c := range cases {
				began := time.Now()
				r.apply(t, c.Changes())
				took = append(took, time.Since(began))
				all := caseExpectations(c, pods)
				probes += len(all)
				if failed := wrong(all); failed != nil {
					t.Errorf("%s: %s: %d of %d wrong: %q", c.Kind, c.Name, len(failed), len(all), failed[:min(len(failed), 5)])
					r.dump(t)
				}
				if t.Context().Err() != nil {
					return
				}
			}
			slices.Sort(took)
			t.Logf("%d cases, %d connections in %v; from a change to all nodes' enforcing it: median %v, longest %v", len(cases), probes,
				time.Since(begin).Round(time.Second), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		})
	}
}

// some returns n of the cases, of every kind some.
func some(random *rand.Rand, cases []policytest.Case, n int) []policytest.Case {
	byKind := map[string][]policytest.Case{}
	var kinds []string
	for _, c := range cases {
		if byKind[c.Kind] == nil {
			kinds = append(kinds, c.Kind)
		}
		byKind[c.Kind] = append(byKind[c.Kind], c)
	}
	var chosen []policytest.Case
	for _, kind := range kinds {
		list := byKind[kind]
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		chosen = append(chosen, list[:min(len(list), (n+len(kinds)-1)/len(kinds))]...)
	}
	return chosen
}

// caseExpectations are the questions that the case answers.
func caseExpectations(c policytest.Case, pods map[string]*pod) []expected {
	var all []expected
	for _, check := range c.Checks() {
		src, dst := pods[check.Src], pods[check.Dst]
		for _, addr := range dst.record.Addrs {
			if c.Family.Has(addr) {
				all = append(all, expected{question: question{src.prober, addr, check.Service}, allowed: check.Allowed, why: "(" + check.Dst + ")"})
			}
		}
	}
	return all
}
