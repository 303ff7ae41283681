package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/status"
	"github.com/twill-cni/twill/daemon/api"
)

func newStatus(to streams) *cobra.Command {
	var from viewpoints
	var output string
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "how nodes are, and what to do next",
		Long: `status asks the twilld of this node, or those of all nodes of a cluster or a lab, how it
is: its daemon, the datastore, what is programmed, BGP sessions, Services, policies,
addresses, tracked connections. Below the table there is a line for each thing
that is wrong, the worst first, with what to do about it. It changes nothing. It
needs root, since the daemon's socket is root's; with --all-nodes, a kubeconfig that may
list and exec into the daemon's pods instead.

OBJECTS are links, routes, neighbours and forwarding entries, how many of those that
should be there are in the kernel; REPAIRED counts changes that put right what another
program had changed. SYNC, SERVICES and POLICIES are the age of the last good sync; an
idle node has one every five to six minutes.

The exit code is 1 when something is broken.`,
		Example: `  twillctl status
  twillctl status --all-nodes -o wide
  twillctl status --lab demo --watch
  twillctl status -o json | jq '.findings[0]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every <= 0 {
				return fmt.Errorf("--interval %s: want a time that passes, such as 2s", every)
			}
			look := func() (statusReport, error) {
				views, err := from.open(cmd.Context())
				if err != nil {
					return statusReport{}, err
				}
				return lookAround(cmd.Context(), views), nil
			}
			if watch {
				return watchStatus(cmd.Context(), to.out, look, every)
			}
			report, err := look()
			if err != nil {
				return err
			}
			return errors.Join(report.print(to.out, output), report.verdict())
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output, "wide")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again and again, until it is interrupted")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "how often --watch looks")
	cmd.MarkFlagsMutuallyExclusive("watch", "output")
	return cmd
}

// watchStatus looks and prints until ctx ends.
func watchStatus(ctx context.Context, w io.Writer, look func() (statusReport, error), every time.Duration) error {
	for {
		report, err := look()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if _, err := fmt.Fprint(w, clearScreen(w)); err != nil {
			return err
		}
		if err := report.print(w, "table"); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// showStatus is the end of the demo: how its nodes are, whatever that is.
func showStatus(ctx context.Context, l *lab.Lab, to streams) error {
	if _, err := fmt.Fprintln(to.out); err != nil {
		return err
	}
	return lookAround(ctx, viewsOf(l)).print(to.out, "table")
}

// statusReport is what is printed.
type statusReport struct {
	At       time.Time        `json:"at"`
	Nodes    []statusNode     `json:"nodes"`
	Findings []status.Finding `json:"findings"`
}

type statusNode struct {
	Name   string          `json:"name"`
	Error  string          `json:"error,omitempty"`
	Status *api.NodeStatus `json:"status,omitempty"`
}

// lookAround asks all nodes.
func lookAround(ctx context.Context, views []viewpoint) statusReport {
	answers, errs := askAll(ctx, views, func(ctx context.Context, v viewpoint) (api.NodeStatus, error) { return v.client.Status(ctx) })
	nodes := make([]status.Node, len(views))
	for i, v := range views {
		nodes[i] = status.Node{Name: v.String(), Status: answers[i], Err: errs[i]}
		if errs[i] == nil && v.node == "" {
			nodes[i].Name = answers[i].Node
		}
	}
	now := time.Now()
	report := statusReport{At: now, Nodes: []statusNode{}, Findings: append([]status.Finding{}, status.Judge(nodes, now)...)}
	for _, n := range nodes {
		item := statusNode{Name: n.Name}
		if n.Err != nil {
			item.Error = n.Err.Error()
		} else {
			item.Status = &n.Status
		}
		report.Nodes = append(report.Nodes, item)
	}
	return report
}

// verdict is errFailed when something is broken.
func (r statusReport) verdict() error {
	if broken(r.Findings) {
		return errFailed
	}
	return nil
}

func (r statusReport) print(w io.Writer, output string) error {
	return printAs(w, output, r, func() error { return errors.Join(r.printNodes(w, output == "wide"), printFindings(w, r.Findings)) })
}

func (r statusReport) printNodes(w io.Writer, wide bool) error {
	return printTable(w, func(row func(cells ...any)) {
		head := []any{"NODE", "READY", "BACKEND", "DATASTORE", "PEERS", "OBJECTS", "REPAIRED", "SYNC", "BGP", "SERVICES", "POLICIES", "PODS", "ADDRESSES", "CONNTRACK", "MTU"}
		if wide {
			head = append(head, "SUBNETS", "UPLINK", "UP", "VERSION")
		}
		row(head...)
		for _, n := range r.Nodes {
			if n.Status == nil {
				row(n.Name, "NO ANSWER")
				continue
			}
			row(cellsOf(n, r.At, wide)...)
		}
	})
}

func cellsOf(n statusNode, now time.Time, wide bool) []any {
	s := n.Status
	ready, datastore, bgp := "yes", s.Datastore.Kind, "-"
	if len(s.NotReady) > 0 {
		ready = "NO"
	}
	if s.Datastore.Error != "" {
		datastore += " AWAY"
	}
	if s.BGP != nil {
		bgp = fmt.Sprintf("%d/%d", s.BGP.Established, s.BGP.Sessions)
	}
	cells := []any{n.Name, ready, s.Backend, datastore, s.Peers.Peers, fmt.Sprintf("%d/%d", s.Peers.Programmed, s.Peers.Desired), s.Peers.Repaired,
		age(s.Peers.LastSync, now), bgp, loopCell(s.Services, now), loopCell(s.Policies, now), s.Pods, addressesCell(s.Addresses),
		fmt.Sprintf("%d/%d", s.Conntrack.Used, s.Conntrack.Max), s.PodMTU}
	if !wide {
		return cells
	}
	var subnets []string
	for _, p := range s.Subnets {
		subnets = append(subnets, p.String())
	}
	return append(cells, dash(strings.Join(subnets, ",")), fmt.Sprintf("%s (%d)", dash(s.Uplink), s.UplinkMTU), age(s.Started, now), s.Version)
}

func loopCell(l *api.LoopStatus, now time.Time) string {
	switch {
	case l == nil:
		return "off"
	case l.Error != "":
		return "FAILS"
	}
	return age(l.LastSync, now)
}

// addressesCell shows the fullest range.
func addressesCell(all []api.RangeUse) string {
	if len(all) == 0 {
		return "-"
	}
	share := func(r api.RangeUse) float64 { return float64(r.Used) / float64(max(r.Size, 1)) }
	fullest := slices.MaxFunc(all, func(a, b api.RangeUse) int { return cmp.Compare(share(a), share(b)) })
	return fmt.Sprintf("%d/%d", fullest.Used, fullest.Size)
}

// printFindings prints a line each, in red what is broken, and in yellow what is not as bad.
func printFindings(w io.Writer, findings []status.Finding) error {
	colours := map[status.Severity]string{status.Broken: "\x1b[31m", status.Degraded: "\x1b[33m"}
	if !isTerminal(w) {
		colours = nil
	}
	var lines strings.Builder
	if len(findings) == 0 {
		lines.WriteString("\nnothing is wrong\n")
	} else {
		lines.WriteString("\n")
	}
	for _, f := range findings {
		colour, end := colours[f.Severity], ""
		if colour != "" {
			end = "\x1b[0m"
		}
		fmt.Fprintf(&lines, "%s%s%s\n", colour, f, end)
	}
	_, err := io.WriteString(w, lines.String())
	return err
}

// clearScreen is what --watch prints before each look.
func clearScreen(w io.Writer) string {
	if isTerminal(w) {
		return "\x1b[H\x1b[2J"
	}
	return time.Now().Format(time.TimeOnly) + "\n"
}
