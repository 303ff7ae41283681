package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
)

func newLabPods(to streams) *cobra.Command {
	options := lab.Options{}
	output := ""
	cmd := &cobra.Command{
		Use:     "pods",
		Short:   "list the pods and their addresses",
		Example: "  twillctl lab pods\n  twillctl lab pods --name a -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			return printAs(to.out, output, podList(l), func() error { return printPods(to.out, l) })
		},
	}
	addName(cmd, &options)
	addFormat(cmd, &output)
	return cmd
}

// podItem is a pod as it is printed.
type podItem struct {
	Name      string       `json:"name"`
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"`
	Namespace string       `json:"namespace"`
}

func podList(l *lab.Lab) []podItem {
	items := []podItem{}
	for _, p := range l.Pods() {
		items = append(items, podItem{Name: p.Name, Node: p.Node.Name, Addresses: p.Addrs(), Namespace: p.Netns().Path()})
	}
	return items
}

func printPods(w io.Writer, l *lab.Lab) error {
	return printTable(w, func(row func(cells ...any)) {
		row("POD", "NODE", "ADDRESSES", "NAMESPACE")
		for _, p := range podList(l) {
			row(p.Name, p.Node, joinAddrs(p.Addresses), p.Namespace)
		}
	})
}

func joinAddrs[A fmt.Stringer](addrs []A) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

func printTable(w io.Writer, fill func(row func(cells ...any))) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fill(func(cells ...any) {
		format := strings.TrimSuffix(strings.Repeat("%v\t", len(cells)), "\t") + "\n"
		fmt.Fprintf(table, format, cells...) // errors are kept until Flush
	})
	return table.Flush()
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
