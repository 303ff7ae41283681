package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/api"
)

func newBGP(to streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bgp",
		Short: "show a node's BGP sessions and routes",
		Long: `bgp asks the twilld of this node, or of a lab's node, what its BGP speaker knows. It
changes nothing. It needs root: the daemon's socket is root's.`,
		Example: `  twillctl bgp peers
  twillctl bgp explain 10.244.2.0/24 --lab-node node1`,
	}
	cmd.AddCommand(newBGPPeers(to), newBGPRoutes(to), newBGPExplain(to))
	return cmd
}

// daemonFlags say which daemon is asked.
type daemonFlags struct {
	runDir string
	node   string
	lab    lab.Options
	output string
}

func (f *daemonFlags) add(cmd *cobra.Command) {
	f.addTarget(cmd)
	addFormat(cmd, &f.output)
}

func (f *daemonFlags) addTarget(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.runDir, "run-dir", "/run/twill", "the daemon's --run-dir")
	cmd.Flags().StringVar(&f.node, "lab-node", "", "ask this node of a lab instead")
	addName(cmd, &f.lab)
	cmd.MarkFlagsMutuallyExclusive("run-dir", "lab-node")
	completeFlag(cmd, "lab-node", names(labNodes(&f.lab)))
}

func (f *daemonFlags) client() (*api.Client, error) {
	if f.node == "" {
		return api.NewClient(f.runDir), nil
	}
	l, err := lab.Open(f.lab)
	if err != nil {
		return nil, err
	}
	node, err := l.Node(f.node)
	if err != nil {
		return nil, err
	}
	return api.NewClient(node.RunDir()), nil
}

func newBGPPeers(to streams) *cobra.Command {
	var flags daemonFlags
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "list the sessions: state, prefixes, last error, BFD",
		Long: `peers lists the sessions, and below them what has none because it cannot be used: a
peer without a readable password, a node's lease or this node's record that is
wrong, and so on. With -o json it prints the sessions alone.`,
		Example: `  twillctl bgp peers
  twillctl bgp peers --lab-node node1
  twillctl bgp peers -o json | jq '.[] | select(.state != "Established")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			sessions, err := client.Sessions(cmd.Context())
			if err != nil {
				return err
			}
			leftOut, err := client.LeftOut(cmd.Context())
			if err != nil {
				return err
			}
			return printAs(to.out, flags.output, sessions, func() error {
				return errors.Join(printSessions(to.out, sessions, time.Now()), printLeftOut(to.out, leftOut))
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func printSessions(w io.Writer, sessions []bgp.SessionState, now time.Time) error {
	return printTable(w, func(row func(cells ...any)) {
		row("PEER", "ADDRESS", "AS", "STATE", "SINCE", "IN", "USED", "OUT", "FLAPS", "BFD", "LAST ERROR")
		for _, s := range sessions {
			state := s.State
			if s.Restarted {
				state += " (restarts)"
			}
			row(s.Name, s.Address, s.AS, state, age(s.Since, now), s.Received, s.Accepted, s.Announced, s.Flaps, dash(s.BFD), dash(s.LastError))
		}
	})
}

// printLeftOut prints what has no session, and why; nothing when nothing was left out.
func printLeftOut(w io.Writer, all []bgp.LeftOut) error {
	if len(all) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printTable(w, func(row func(cells ...any)) {
		row("LEFT OUT", "WHY")
		for _, l := range all {
			row(l.What, l.Why)
		}
	})
}

func age(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return now.Sub(since).Truncate(time.Second).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newBGPRoutes(to streams) *cobra.Command {
	var flags daemonFlags
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "list the routes that were chosen, and those that the kernel does not get",
		Example: `  twillctl bgp routes
  twillctl bgp routes -o json | jq '.[] | select(.refused)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			routes, err := client.Routes(cmd.Context())
			if err != nil {
				return err
			}
			return printAs(to.out, flags.output, routes, func() error { return printRoutes(to.out, routes) })
		},
	}
	flags.add(cmd)
	return cmd
}

func printRoutes(w io.Writer, routes []bgp.LearnedRoute) error {
	return printTable(w, func(row func(cells ...any)) {
		row("PREFIX", "NEXT HOPS", "REFUSED")
		for _, r := range routes {
			hops := joinAddrs(r.NextHops)
			if r.Local {
				hops = own(r.Origin)
			}
			row(r.Prefix, hops, dash(r.Refused))
		}
	})
}

// own says that the node announces a prefix itself, and why.
func own(origin bgp.Origin) string {
	if origin == "" {
		return "(this node)"
	}
	return fmt.Sprintf("(this node: %s)", origin)
}

func newBGPExplain(to streams) *cobra.Command {
	var flags daemonFlags
	cmd := &cobra.Command{
		Use:   "explain PREFIX",
		Short: "show what each peer says of a prefix and what each peer is told, and why not",
		Long: `explain lists every announcement of a prefix that this node has heard, with its
attributes and, where it is not used, the reason; and to which peers this node
announces the prefix, or why it does not.`,
		Example: `  twillctl bgp explain 10.244.2.0/24`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := netip.ParsePrefix(args[0])
			if err != nil {
				return err
			}
			client, err := flags.client()
			if err != nil {
				return err
			}
			e, err := explain(cmd.Context(), client, prefix.Masked())
			if err != nil {
				return err
			}
			return printAs(to.out, flags.output, e, func() error { return e.print(to.out) })
		},
	}
	flags.add(cmd)
	return cmd
}

// explanation is all that a node knows of one prefix.
type explanation struct {
	Route     *bgp.LearnedRoute `json:"route,omitempty"` // absent: nothing was chosen
	Heard     []heard           `json:"heard"`
	Announced []heard           `json:"announced"`
}

// heard is what one peer said, or was told.
type heard struct {
	Peer string `json:"peer"`
	bgp.Path
}

func explain(ctx context.Context, client *api.Client, prefix netip.Prefix) (*explanation, error) {
	routes, err := client.Routes(ctx)
	if err != nil {
		return nil, err
	}
	e := &explanation{Heard: []heard{}, Announced: []heard{}}
	for _, r := range routes {
		if r.Prefix == prefix {
			e.Route = &r
		}
	}
	sessions, err := client.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		for _, ask := range []struct {
			query bgp.PathQuery
			to    *[]heard
		}{{bgp.PathQuery{Prefix: prefix, Peer: s.Address}, &e.Heard}, {bgp.PathQuery{Prefix: prefix, To: s.Address}, &e.Announced}} {
			paths, err := client.Paths(ctx, ask.query)
			if err != nil {
				return nil, fmt.Errorf("peer %s: %w", s.Name, err)
			}
			for _, p := range paths {
				*ask.to = append(*ask.to, heard{s.Name, p})
			}
		}
	}
	return e, nil
}

func (e *explanation) print(w io.Writer) error {
	verdict := "nothing was chosen"
	switch {
	case e.Route == nil:
	case e.Route.Local:
		verdict = "this node's own"
		if e.Route.Origin != "" {
			verdict += ", origin: " + string(e.Route.Origin)
		}
	case e.Route.Refused != "":
		verdict = "chosen, but refused: " + e.Route.Refused
	default:
		verdict = "by way of " + joinAddrs(e.Route.NextHops)
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", verdict); err != nil {
		return err
	}
	return printTable(w, func(row func(cells ...any)) {
		row("", "PEER", "NEXT HOP", "AS PATH", "PREF", "MED", "COMMUNITIES", "REMARK")
		for _, part := range []struct {
			name string
			rows []heard
		}{{"heard from", e.Heard}, {"announced to", e.Announced}} {
			for _, h := range part.rows {
				row(part.name, h.Peer, h.NextHop, strings.Trim(fmt.Sprint(h.ASPath), "[]"), h.LocalPref, h.MED, communities(h.Path), remark(h.Path))
			}
		}
	})
}

func communities(p bgp.Path) string {
	var all []string
	for _, c := range p.Communities {
		all = append(all, c.String())
	}
	for _, c := range p.LargeCommunities {
		all = append(all, c.String())
	}
	return dash(strings.Join(all, " "))
}

func remark(p bgp.Path) string {
	var all []string
	if p.Best {
		all = append(all, "best")
	}
	if p.Stale {
		all = append(all, "stale")
	}
	if p.Rejected != "" {
		all = append(all, p.Rejected)
	}
	return dash(strings.Join(all, ", "))
}
