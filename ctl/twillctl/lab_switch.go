package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/outage"
)

// calm is for how long the paths are watched after a node is ready: what breaks late belongs to its step.
const calm = time.Second

func newLabSwitch(to streams) *cobra.Command {
	options := lab.Options{}
	routing := lab.Routing{}
	watch := outage.Options{}
	output := ""
	cmd := &cobra.Command{
		Use:   "switch --backend vxlan|bgp",
		Short: "move a running cluster to another backend, node by node",
		Long: `switch stores the new network configuration, restarts one node's twilld after the
other with the new backend, and waits for each to be ready. All the while the first
pods of all nodes ping each other. For each step it prints how many requests were
lost, and for how long no packet got through on the path where that took longest.
It exits with 1 when a path does not work at the end.

Nodes of both kinds reach each other while BGP nodes have the overlay cross-subnet,
which is the default here. A switch from or to the overlay "never" takes two rounds.`,
		Example: `  twillctl lab switch --backend bgp
  twillctl lab switch --backend bgp --overlay never --reflectors 2
  twillctl lab switch --backend vxlan -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			table := func(s step) {
				if output == "table" {
					printStep(to.out, s)
				}
			}
			report, err := switchRouting(cmd.Context(), l, switching{routing: routing, watch: watch, each: table})
			if report != nil {
				err = errors.Join(err, printAs(to.out, output, report, func() error { return printGaps(to.out, report) }))
			}
			if err == nil && report.broken() {
				return errFailed
			}
			return err
		},
	}
	addName(cmd, &options)
	addFormat(cmd, &output)
	addRouting(cmd, &routing)
	cmd.Flags().StringVar(&routing.Backend, "backend", "", "the backend to move to: vxlan or bgp")
	cmd.Flags().DurationVar(&watch.Interval, "interval", 20*time.Millisecond, "between two echo requests on a path")
	cmd.Flags().DurationVar(&watch.Timeout, "wait", time.Second, "a reply that takes longer is lost")
	if err := cmd.MarkFlagRequired("backend"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// switching says how to switch and how to watch.
type switching struct {
	routing lab.Routing
	watch   outage.Options
	each    func(step) // called after each step
}

// switchReport is what happened to the pods while the lab was switched.
type switchReport struct {
	Lab   string    `json:"lab"`
	Steps []step    `json:"steps"`
	Paths []pathGap `json:"paths"` // over all steps
	last  []outage.Outage
}

// step is one node's move.
type step struct {
	Node    string  `json:"node"`
	Routing string  `json:"routing"`
	Done    int     `json:"done"`
	Total   int     `json:"total"`
	Seconds float64 `json:"seconds"` // until the daemon was ready
	Sent    int     `json:"sent"`
	Lost    int     `json:"lost"`
	GapMS   float64 `json:"gap_ms"`          // the longest of all paths
	Worst   string  `json:"worst,omitempty"` // the path that had it
}

type pathGap struct {
	From    string  `json:"from"`
	To      string  `json:"to"`
	Address string  `json:"address"`
	Sent    int     `json:"sent"`
	Lost    int     `json:"lost"`
	GapMS   float64 `json:"gap_ms"` // the longest of one step
	Error   string  `json:"error,omitempty"`
}

// switchRouting switches the lab under observation. The report is nil when nothing was watched.
func switchRouting(ctx context.Context, l *lab.Lab, s switching) (report *switchReport, err error) {
	if s.watch.Interval <= 0 || s.watch.Timeout <= 0 {
		return nil, errors.New("--interval and --wait must be more than 0")
	}
	watch, err := outage.Start(outage.Paths(l), s.watch)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, watch.Close()) }()
	report = &switchReport{Lab: l.Name(), Steps: []step{}, Paths: []pathGap{}}
	since := time.Now()
	return report, l.SwitchRouting(ctx, s.routing, func(done lab.Switched) error {
		ready := time.Now()
		if err := wait(ctx, calm); err != nil {
			return err
		}
		paths, until, err := watch.Window(ctx, since)
		if err != nil {
			return err
		}
		report.add(done, ready.Sub(since), paths)
		s.each(report.Steps[len(report.Steps)-1])
		since = until
		return nil
	})
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// add puts a step's paths to the report.
func (r *switchReport) add(done lab.Switched, took time.Duration, paths []outage.Outage) {
	s := step{Node: done.Node.Name, Routing: done.Routing.String(), Done: done.Done, Total: done.Total, Seconds: took.Seconds()}
	if len(r.Paths) == 0 {
		r.Paths = make([]pathGap, len(paths))
	}
	for i, p := range paths {
		gap := milliseconds(p.Gap)
		s.Sent, s.Lost = s.Sent+p.Sent, s.Lost+p.Lost
		if gap > s.GapMS {
			s.GapMS, s.Worst = gap, fmt.Sprintf("%s -> %s (%v)", p.From, p.To, p.Address)
		}
		total := &r.Paths[i]
		total.From, total.To, total.Address = p.From, p.To, p.Address.String()
		total.Sent, total.Lost, total.GapMS = total.Sent+p.Sent, total.Lost+p.Lost, max(total.GapMS, gap)
		if p.Err != nil {
			total.Error = p.Err.Error()
		}
	}
	r.Steps, r.last = append(r.Steps, s), paths
}

// broken reports whether a path lost everything in the last step.
func (r *switchReport) broken() bool {
	return slices.ContainsFunc(r.last, func(o outage.Outage) bool { return o.Sent > 0 && o.Lost == o.Sent })
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

func printStep(w io.Writer, s step) {
	fmt.Fprintf(w, "%d/%d  %s now has %s, ready after %.1f s: lost %d of %d", s.Done, s.Total, s.Node, s.Routing, s.Seconds, s.Lost, s.Sent)
	if s.Lost > 0 {
		fmt.Fprintf(w, ", longest gap %.0f ms on %s", s.GapMS, s.Worst)
	}
	fmt.Fprintln(w)
}

func printGaps(w io.Writer, r *switchReport) error {
	worst := 0.0
	for _, p := range r.Paths {
		worst = max(worst, p.GapMS)
	}
	fmt.Fprintln(w)
	err := printTable(w, func(row func(cells ...any)) {
		row("FROM", "TO", "ADDRESS", "SENT", "LOST", "LONGEST GAP", "LAST ERROR")
		for _, p := range r.Paths {
			row(p.From, p.To, p.Address, p.Sent, p.Lost, fmt.Sprintf("%.0f ms", p.GapMS), p.Error)
		}
	})
	fmt.Fprintf(w, "longest gap of all: %.0f ms\n", worst)
	return err
}
