package connectivity

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/probe"
)

// Cluster is where the test runs. Ask may be called concurrently.
type Cluster interface {
	// Ask asks from inside the pod or node of that name, and waits for as long as patience for an answer. The error says that it could not be asked.
	Ask(ctx context.Context, from string, q Question, patience time.Duration) (probe.Answer, error)
	// Enforce puts the policies of Objects in place; when they are in force is not awaited.
	Enforce(ctx context.Context) error
	// Command returns the command with which a person finds out why a case failed; empty where there is none.
	Command(c Case) string
}

// Options say how to run. Every field is required but Explain.
type Options struct {
	Patience time.Duration  // for each answer
	Settle   time.Duration  // from when the Services or the policies were stored until they are in force
	Together int            // questions at one time
	Progress func(Progress) // called by one goroutine at a time
	// Explain says why a case failed, where that can be found out, while all is as it was. It is called for once for each of a few pairs of ends.
	Explain func(ctx context.Context, c Case) string
}

// Progress says how far a test is.
type Progress struct {
	Kind        Kind // of the case that ended last
	Done, Total int
	Failed      int
}

// mostExplained is how many failures are looked into: of many, the others have the same cause.
const mostExplained = 5

// Run plans and runs the test. An error means that it could not be run, or that ctx ended; what failed is in the report.
func Run(ctx context.Context, cluster Cluster, topology *Topology, options Options) (*Report, error) {
	began := time.Now()
	cases, err := Plan(topology)
	if err != nil {
		return nil, err
	}
	r := &runner{cluster: cluster, options: options, total: len(cases), reached: map[control]bool{}, cut: map[pair]bool{}, explained: map[pair]bool{}}
	phases := inPhases(cases)
	for i, cases := range phases {
		if i == 2 && len(phases[2])+len(phases[3]) > 0 {
			if err := cluster.Enforce(ctx); err != nil {
				return nil, err
			}
		}
		if err := r.phase(ctx, cases); err != nil {
			return nil, err
		}
	}
	return newReport(topology, r.results, began), nil
}

// inPhases returns what is asked one after the other: what has to work at once, what settles, then, with policies, what they deny, and what they allow. What is denied
// comes first of these: once it is silent, the policies are in force, and what is allowed is allowed by them.
func inPhases(cases []Case) (phases [4][]Case) {
	for _, c := range cases {
		i := 0
		switch {
		case c.Kind == Denied:
			i = 2
		case c.Kind == Allowed:
			i = 3
		case c.Kind.settles():
			i = 1
		}
		phases[i] = append(phases[i], c)
	}
	return phases
}

// pair is two ends in one family.
type pair struct{ from, to, family string }

func pairOf(c Case) pair { return pair{c.From, c.To, c.Family()} }

// wayOf returns the ends between which a case's packets have to find a way, whatever was programmed: from behind a node's port, the node asks the pod.
func wayOf(c Case) pair {
	if c.Kind == NodePort {
		return pair{c.To, c.Want[0], c.Family()}
	}
	return pairOf(c)
}

// control is what tells whether a pair was reached before there were policies.
type control struct{ from, question string }

func controlOf(c Case) control { return control{c.From, c.Question.String()} }

type runner struct {
	cluster   Cluster
	options   Options
	total     int
	done      int
	results   []Result
	failed    int
	reached   map[control]bool
	cut       map[pair]bool // of which one does not reach the other at its own address, or asks it for names in vain: nothing is to settle there
	explained map[pair]bool
}

// phase runs cases, some at a time, and adds their results in the cases' order.
func (r *runner) phase(ctx context.Context, cases []Case) error {
	settled := time.Now().Add(r.options.Settle)
	results := make([]Result, len(cases))
	ended := make(chan int)
	g, asking := errgroup.WithContext(ctx)
	g.SetLimit(r.options.Together)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for i := range ended {
			r.tell(results[i])
		}
	}()
	for i, c := range cases {
		g.Go(func() (err error) {
			if results[i], err = r.one(asking, c, settled); err == nil {
				ended <- i
			}
			return err
		})
	}
	err := g.Wait()
	close(ended)
	<-told
	if err != nil {
		return err
	}
	for i := range results {
		r.explain(ctx, &results[i])
		switch c := results[i].Case; c.Kind {
		case PodToPod, Control, Outside:
			r.reached[controlOf(c)] = results[i].OK
			fallthrough
		case NodeToPod, PodToDNS:
			r.cut[pairOf(c)] = r.cut[pairOf(c)] || !results[i].OK
		}
	}
	r.results = append(r.results, results...)
	return ctx.Err()
}

// tell reports progress.
func (r *runner) tell(result Result) {
	if !result.OK {
		r.failed++
	}
	r.done++
	r.options.Progress(Progress{Kind: result.Case.Kind, Done: r.done, Total: r.total, Failed: r.failed})
}

// one runs a case, where it settles until it has the answer that it is to have or the settling time is over.
func (r *runner) one(ctx context.Context, c Case, settled time.Time) (Result, error) {
	if c.Kind == Denied && !r.reached[controlOf(c)] {
		return newResult(c, probe.Answer{Outcome: NotJudged, Detail: "the same pair was not reached before the policies, so that silence would prove nothing"}, 0), nil
	}
	for {
		asked := time.Now()
		answer, err := r.cluster.Ask(ctx, c.From, c.Question, r.options.Patience)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Result{}, err
		}
		result := newResult(c, answer, time.Since(asked))
		if result.OK || !c.Kind.settles() || r.cut[wayOf(c)] || time.Now().After(settled) {
			return result, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
}

// pause is how long a question waits that is asked again.
const pause = 50 * time.Millisecond

func (r *runner) explain(ctx context.Context, result *Result) {
	if result.OK {
		return
	}
	result.Command = r.cluster.Command(result.Case)
	of := pairOf(result.Case)
	if r.options.Explain != nil && result.Command != "" && len(r.explained) < mostExplained && !r.explained[of] && result.Outcome != NotJudged {
		r.explained[of] = true
		result.Why = r.options.Explain(ctx, result.Case)
	}
}
