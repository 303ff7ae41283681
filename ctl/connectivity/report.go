package connectivity

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/twill-cni/twill/ctl/probe"
)

// NotJudged is the outcome of a denied case whose control failed. It was not asked, and counts as failed.
const NotJudged probe.Outcome = "not judged"

// Result is what became of a case.
type Result struct {
	Case    Case
	OK      bool
	Outcome probe.Outcome
	Detail  string
	Took    time.Duration // of the last time that it was asked
	Why     string        // where a failure was looked into: what is wrong, and what mends it
	Command string        // with which a person looks into a failure
}

func newResult(c Case, a probe.Answer, took time.Duration) Result {
	r := Result{Case: c, OK: a.Outcome == c.Expect, Outcome: a.Outcome, Detail: a.Detail, Took: took}
	if a.Outcome == probe.Reached && c.Expect != probe.Reached {
		r.Detail += ", and policies deny it"
	}
	return r
}

// MarshalJSON makes one flat object of it.
func (r Result) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Kind     Kind          `json:"kind"`
		From     string        `json:"from"`
		To       string        `json:"to"`
		Family   string        `json:"family"`
		Question string        `json:"question"`
		Expect   probe.Outcome `json:"expect"`
		Outcome  probe.Outcome `json:"outcome"`
		OK       bool          `json:"ok"`
		Detail   string        `json:"detail,omitempty"`
		TookMS   float64       `json:"took_ms"`
		Why      string        `json:"why,omitempty"`
		Command  string        `json:"command,omitempty"`
	}{r.Case.Kind, r.Case.From, r.Case.To, r.Case.Family(), r.Case.Question.String(), r.Case.Expect, r.Outcome, r.OK, r.Detail,
		float64(r.Took.Round(time.Microsecond)) / float64(time.Millisecond), r.Why, r.Command})
}

// NotRun is a part that was left out, and why.
type NotRun struct {
	Part Part   `json:"part"`
	Why  string `json:"why"`
}

// Report is what Run found.
type Report struct {
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Total   int       `json:"total"`
	Failed  int       `json:"failed"`
	NotRun  []NotRun  `json:"notRun"`
	Results []Result  `json:"results"`
}

// OK reports whether something was asked and all is as it is to be.
func (r *Report) OK() bool { return r.Total > 0 && r.Failed == 0 }

func newReport(t *Topology, results []Result, began time.Time) *Report {
	r := &Report{Began: began.UTC().Round(0), Seconds: time.Since(began).Round(time.Millisecond).Seconds(), Total: len(results), NotRun: []NotRun{}, Results: results}
	for _, one := range results {
		if !one.OK {
			r.Failed++
		}
	}
	for part, why := range t.Parts {
		if why != "" {
			r.NotRun = append(r.NotRun, NotRun{part, why})
		}
	}
	slices.SortFunc(r.NotRun, func(a, b NotRun) int { return cmp.Compare(a.Part, b.Part) })
	return r
}

// of returns the results of a kind.
func (r *Report) of(kind Kind) []Result {
	var out []Result
	for _, one := range r.Results {
		if one.Case.Kind == kind {
			out = append(out, one)
		}
	}
	return out
}
