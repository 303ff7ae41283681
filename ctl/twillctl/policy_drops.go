package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/daemon/api"
)

// dropsEvery is how often --follow asks.
const dropsEvery = time.Second

func newPolicyDrops(to streams) *cobra.Command {
	var from viewpoints
	var follow bool
	output := ""
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "list the last packets that policies refused",
		Long: `drops lists the last packets that the policies of a node refused, the oldest first, as
far as its twilld has heard of them since it started: it keeps the last 1,000, and of very many packets
the kernel tells of some. The metric twill_policy_drops_total counts them all.

Who POD and PEER were and why, is what was known when the packet came. Packets of connections that a change of policy
has cut are counted but not told of.`,
		Example: `  twillctl policy drops
  twillctl policy drops --follow
  twillctl policy drops --lab demo -o json | jq 'select(.pod == "shop/api")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			var show interface{ print([]nodeDrop) error } = &dropTable{w: to.out}
			if document, ok := printers[output]; ok {
				show = dropDocuments{to.out, document}
			}
			return showDrops(cmd.Context(), views, follow, show)
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, until it is interrupted")
	return cmd
}

// nodeDrop is a drop on a node.
type nodeDrop struct {
	Node string `json:"node,omitempty"`
	api.Drop
}

// showDrops prints what the daemons tell, and with follow what is new from then on.
func showDrops(ctx context.Context, from []viewpoint, follow bool, to interface{ print([]nodeDrop) error }) error {
	last := make([]time.Time, len(from))
	tick := time.NewTicker(dropsEvery)
	defer tick.Stop()
	for {
		var all []nodeDrop
		for i, v := range from {
			drops, err := v.client.Drops(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", v, err)
			}
			for _, d := range since(drops, last[i]) {
				all = append(all, nodeDrop{v.node, d})
				last[i] = d.Time
			}
		}
		slices.SortStableFunc(all, func(a, b nodeDrop) int { return a.Time.Compare(b.Time) })
		if err := to.print(all); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// since returns the drops after a time; they are in the order of their times.
func since(drops []api.Drop, last time.Time) []api.Drop {
	for i, d := range drops {
		if d.Time.After(last) {
			return drops[i:]
		}
	}
	return nil
}

// dropDocuments prints JSON or YAML, one document a drop.
type dropDocuments struct {
	w        io.Writer
	document func(io.Writer, any) error
}

func (p dropDocuments) print(all []nodeDrop) error {
	for _, d := range all {
		if err := p.document(p.w, d); err != nil {
			return err
		}
	}
	return nil
}

// dropTable prints lines, those that come together in columns.
type dropTable struct {
	w      io.Writer
	headed bool
}

func (t *dropTable) print(all []nodeDrop) error {
	if t.headed && len(all) == 0 {
		return nil
	}
	return printTable(t.w, func(row func(cells ...any)) {
		if !t.headed {
			row("TIME", "NODE", "DIRECTION", "POD", "PEER", "PROTOCOL", "REASON")
			t.headed = true
		}
		for _, d := range all {
			protocol := d.Protocol
			if d.Port != 0 {
				protocol += fmt.Sprintf(" %d", d.Port)
			}
			row(d.Time.Local().Format("15:04:05.000"), dash(d.Node), d.Direction, named(d.Pod, d.PodAddress), named(d.Peer, d.PeerAddress), protocol, dash(d.Reason))
		}
	})
}

// named is a pod with its address, or the address alone.
func named(pod string, addr fmt.Stringer) string {
	if pod == "" {
		return addr.String()
	}
	return fmt.Sprintf("%s (%s)", pod, addr)
}
