package check

import (
	"cmp"
	"slices"
)

// Verdict is what a check came to.
type Verdict int

// The verdicts, the worst last.
const (
	OK Verdict = iota
	NotLooked
	Warning
	Failure
)

func (v Verdict) String() string { return [...]string{"ok", "not looked at", "warning", "FAILURE"}[v] }

// MarshalText implements encoding.TextMarshaler.
func (v Verdict) MarshalText() ([]byte, error) {
	return []byte([...]string{"ok", "notLookedAt", "warning", "failure"}[v]), nil
}

// Result is what a check came to, with all that it found.
type Result struct {
	Check   string    `json:"check"`
	LooksAt string    `json:"looksAt"`
	Verdict Verdict   `json:"verdict"`
	Found   []Finding `json:"found"` // what is not as it should be
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	What    string  `json:"what"`
	Breaks  string  `json:"breaks,omitempty"`
	Mend    string  `json:"mend,omitempty"` // a command, or what to do where none can
}

// rule is one check.
type rule struct {
	name, looksAt string
	needs         []Part // of Facts; when one could not be looked at, neither could the check
	judge         func(*Facts) []Finding
}

var rules = slices.Concat(kernelRules, sysctlRules, linkRules, foreignRules, portRules, fileRules)

// Run returns the result of each check, always in the same order.
func Run(f *Facts) []Result {
	var all []Result
	for _, r := range rules {
		result := Result{Check: r.name, LooksAt: r.looksAt, Found: []Finding{}}
		for _, part := range r.needs {
			if err := f.Unknown[part]; err != nil {
				result.Found = append(result.Found, Finding{Verdict: NotLooked, What: err.Error()})
			}
		}
		if len(result.Found) == 0 {
			result.Found = append(result.Found, r.judge(f)...)
		}
		slices.SortStableFunc(result.Found, func(a, b Finding) int { return cmp.Compare(b.Verdict, a.Verdict) })
		if len(result.Found) > 0 {
			result.Verdict = result.Found[0].Verdict
		}
		all = append(all, result)
	}
	return all
}

// Worst returns the worst verdict of all.
func Worst(all []Result) Verdict {
	worst := OK
	for _, r := range all {
		worst = max(worst, r.Verdict)
	}
	return worst
}

func warn(what, breaks, mend string) Finding { return Finding{Warning, what, breaks, mend} }
func fail(what, breaks, mend string) Finding { return Finding{Failure, what, breaks, mend} }
