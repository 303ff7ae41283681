package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
)

func newNode(to streams) *cobra.Command {
	var from viewpoints
	var output string
	cmd := &cobra.Command{
		Use:   "node [NAME]",
		Short: "the nodes as the datastore has them; what the kernel holds for one of them",
		Long: `node asks the twilld of this node, or of a lab's or a cluster's nodes, for the nodes that
the datastore has: subnets, public addresses, backend, when the lease expires. A node's
lease in etcd does not bear its name; a node without pods, which routes with VXLAN, has
none here unless it is asked itself.

With the name of a node (or one of its subnets or addresses) it compares what the kernel
should hold for that node - routes, neighbours, forwarding entries, BGP sessions - with
what it does hold. With --lab or --all-nodes every node is asked.

It changes nothing. It needs root, since the daemon's socket is root's; with --all-nodes,
a kubeconfig that may list and exec into the daemon's pods instead. The exit code is 1
when a node does not answer, or does not hold what it should.`,
		Example: `  twillctl node
  twillctl node -o wide --lab demo
  twillctl node node2
  twillctl node 10.244.2.0/24 --all-nodes -o json | jq '.[] | select(.why)'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeFirst(from.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return showHeld(cmd.Context(), to.out, views, args[0], output)
			}
			listing, err := listNodes(cmd.Context(), views, store.WithExpiries)
			if err != nil {
				return err
			}
			return printAs(to.out, output, listing, func() error { return printNodes(to.out, listing.Nodes, output == "wide", time.Now()) })
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output, "wide")
	return cmd
}

// listNodes asks the first node that answers, and the others for their names where the datastore does not tell them.
func listNodes(ctx context.Context, views []viewpoint, what store.NodeDetail) (api.NodeListing, error) {
	listing, err := firstListing(ctx, views, what)
	if err != nil {
		return api.NodeListing{}, err
	}
	if len(views) > 1 && hasUnnamed(listing.Nodes) {
		nameThem(ctx, views, listing.Nodes)
	}
	slices.SortStableFunc(listing.Nodes, byName)
	return listing, nil
}

// firstListing is what the first node says that answers.
func firstListing(ctx context.Context, views []viewpoint, what store.NodeDetail) (api.NodeListing, error) {
	var errs []error
	for _, v := range views {
		listing, err := askNodes(ctx, v, what)
		if err == nil {
			return listing, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", v, err))
	}
	return api.NodeListing{}, errors.Join(errs...)
}

// byName sorts nodes by name, those without one last.
func byName(a, b api.ClusterNode) int {
	if (a.Name == "") != (b.Name == "") {
		return strings.Compare(b.Name, a.Name)
	}
	return strings.Compare(a.Name, b.Name)
}

func askNodes(ctx context.Context, v viewpoint, what store.NodeDetail) (api.NodeListing, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return v.client.Nodes(ctx, what)
}

func hasUnnamed(nodes []api.ClusterNode) bool {
	for _, n := range nodes {
		if n.Name == "" {
			return true
		}
	}
	return false
}

// nameThem names the nodes whose daemons say that these are their subnets.
func nameThem(ctx context.Context, views []viewpoint, nodes []api.ClusterNode) {
	answers, errs := askAll(ctx, views, func(ctx context.Context, v viewpoint) (api.NodeStatus, error) { return v.client.Status(ctx) })
	holders := map[netip.Prefix]string{}
	for i, s := range answers {
		if errs[i] != nil {
			continue
		}
		for _, p := range s.Subnets {
			holders[p] = s.Node
		}
	}
	for i := range nodes {
		for _, p := range nodes[i].Subnets {
			if nodes[i].Name == "" {
				nodes[i].Name = holders[p]
			}
		}
	}
}

func printNodes(w io.Writer, nodes []api.ClusterNode, wide bool, now time.Time) error {
	return printTable(w, func(row func(cells ...any)) {
		head := []any{"NODE", "SUBNETS", "ADDRESSES", "BACKEND", "EXPIRES IN", "ZONE", "AGE"}
		if wide {
			head = append(head, "VTEP MAC", "AS", "ROUTER ID", "REMARK")
		}
		row(head...)
		for _, n := range nodes {
			cells := []any{dash(n.Name), dash(joinPrefixes(n.Subnets)), dash(joinAddrs(n.Addresses)), dash(n.Backend), until(n.Expires, now), dash(n.Zone), age(n.Created, now)}
			if wide {
				as, router := "-", "-"
				if n.AS != 0 {
					as, router = fmt.Sprint(n.AS), n.RouterID.String()
				}
				cells = append(cells, dash(strings.Join(n.VTEPMACs, ",")), as, router, dash(n.Error))
			} else if n.Error != "" {
				cells[3] = "UNUSABLE"
			}
			row(cells...)
		}
	})
}

func joinPrefixes(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ",")
}

// until is how long it is until then; "-" when that is never, or not known.
func until(then, now time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return max(then.Sub(now), 0).Round(time.Second).String()
}

// heldBy is what one node's kernel holds for another, as it is printed.
type heldBy struct {
	On            string `json:"on"`
	Error         string `json:"error,omitempty"`
	*api.NodeHeld `json:",omitempty"`
}

func showHeld(ctx context.Context, w io.Writer, views []viewpoint, name, output string) error {
	known := lookUp(ctx, views, name)
	if len(known.Subnets) > 0 {
		name = known.Subnets[0].String() // which every node knows by heart; for a name each may have to ask the datastore
	}
	answers, errs := askAll(ctx, views, func(ctx context.Context, v viewpoint) (api.NodeHeld, error) { return v.client.Held(ctx, name) })
	all := make([]heldBy, len(views))
	var verdict error
	for i, v := range views {
		all[i] = heldBy{On: v.String()}
		if errs[i] != nil {
			all[i].Error, verdict = errs[i].Error(), errFailed
			continue
		}
		n := &answers[i].Node
		n.Name, n.Zone = cmp.Or(n.Name, known.Name), cmp.Or(n.Zone, known.Zone)
		if n.Created.IsZero() {
			n.Created = known.Created
		}
		all[i].NodeHeld = &answers[i]
		if !answers[i].Good() {
			verdict = errFailed
		}
	}
	return errors.Join(printAs(w, output, all, func() error { return printHeld(w, all, time.Now()) }), verdict)
}

// lookUp looks a node up where many are to be asked for it; none: they have to find it themselves.
func lookUp(ctx context.Context, views []viewpoint, name string) api.ClusterNode {
	if len(views) < 2 {
		return api.ClusterNode{}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	listing, err := listNodes(ctx, views, store.WithNames)
	if err != nil {
		return api.ClusterNode{} // whatever it is, the nodes will say so
	}
	if at := slices.IndexFunc(listing.Nodes, func(n api.ClusterNode) bool { return n.Is(name) }); at >= 0 {
		return listing.Nodes[at]
	}
	return api.ClusterNode{}
}

func printHeld(w io.Writer, all []heldBy, now time.Time) error {
	if at := slices.IndexFunc(all, func(h heldBy) bool { return h.NodeHeld != nil }); at >= 0 { // they all have the node from one datastore
		if err := errors.Join(printNodes(w, []api.ClusterNode{all[at].Node}, true, now), printLine(w)); err != nil {
			return err
		}
	}
	return printTable(w, func(row func(cells ...any)) {
		row("ON", "KIND", "VERDICT", "SHOULD BE", "IS")
		for _, h := range all {
			switch {
			case h.NodeHeld == nil:
				row(h.On, "-", "NO ANSWER", "-", h.Error)
				continue
			case h.Node.Self:
				row(h.On, "-", "-", "-", h.Why)
			case h.Why != "":
				row(h.On, "-", "NOTHING", "-", h.Why)
			}
			for _, o := range h.Objects {
				row(h.On, o.Kind, verdictCell(o.Verdict), dash(o.Should), isCell(o))
			}
			for _, s := range h.Sessions {
				row(h.On, "bgp", s.State, "-", fmt.Sprintf("%s AS %d, since %s, %d prefixes in, %d used", s.Address, s.AS, age(s.Since, now), s.Received, s.Accepted))
			}
		}
	})
}

// verdictCell shouts what is not well.
func verdictCell(v api.HeldVerdict) string {
	if v == api.HeldWell {
		return string(v)
	}
	return strings.ToUpper(string(v))
}

// isCell does not repeat what is as it should be.
func isCell(o api.HeldObject) string {
	if o.Verdict == api.HeldWell {
		return "the same"
	}
	return dash(o.Is)
}

func printLine(w io.Writer) error {
	_, err := fmt.Fprintln(w)
	return err
}
