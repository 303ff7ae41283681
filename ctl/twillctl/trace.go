package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/trace"
	"github.com/twill-cni/twill/store"
)

func newTrace(to streams) *cobra.Command {
	var from viewpoints
	var t tracer
	output := ""
	cmd := &cobra.Command{
		Use:   "trace FROM TO:PORT[/PROTOCOL]",
		Short: "follow a packet: each hop with what the kernel holds, and the first that fails with its mend",
		Long: `trace goes the way of a packet from the pod FROM to TO, which is a pod, a Service or an
address, and back. At each hop it says what the kernels of the nodes hold at this moment:
links, the endpoint that the service proxy leads to, what policies say, route,
neighbour, forwarding entry, underlay, MTU. What a node holds of the other one is compared with
what that says of itself. A probe from FROM's network namespace confirms it.

It reads the kernels itself and needs no twilld for that, so it works while twilld is dead; Services and
policies are asked of twilld. It changes nothing. The probe is real: a server at TO sees it.

On a node it looks at that node, and sees the other end only when that is there, too; with
--all-nodes, the twilld of each node of the Kubernetes cluster looks, and nothing is probed.

Exit code: 0 nothing is wrong, 1 a hop fails.`,
		Example: `  twillctl trace shop/web shop/api:8081
  twillctl trace shop/web kube-system/kube-dns:53/udp
  twillctl trace 10.244.1.2 10.244.2.3:8080 --lab demo
  twillctl trace shop/web shop/db:5432 --no-probe -o json`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeUpTo(2, from.podNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			if t.nodes, err = from.namespaces(); err != nil {
				return err
			}
			results, err := t.run(cmd.Context(), views, args[0], args[1])
			if err == nil {
				err = printAs(to.out, output, results, func() error { return printTraces(to.out, results) })
			}
			if err == nil && slices.ContainsFunc(results, func(r trace.Result) bool { return r.Failure != nil }) {
				err = errFailed
			}
			return err
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output)
	cmd.Flags().BoolVar(&t.noProbe, "no-probe", false, "send nothing")
	cmd.Flags().DurationVar(&t.patience, "wait", time.Second, "how long the probe waits for an answer")
	cmd.Flags().StringVar(&t.endpoint, "endpoint", "", "follow the way to this endpoint of the Service, `ADDRESS:PORT`")
	return cmd
}

// traceTarget is where a trace goes, as it was written.
type traceTarget struct {
	host     string
	port     uint16
	protocol store.Protocol
}

// parseTarget reads HOST:PORT[/PROTOCOL].
func parseTarget(text string) (traceTarget, error) {
	out := traceTarget{protocol: store.TCP}
	if at := strings.LastIndex(text, "/"); at > strings.LastIndex(text, ":") {
		protocols := map[string]store.Protocol{"tcp": store.TCP, "udp": store.UDP, "sctp": store.SCTP}
		p, ok := protocols[strings.ToLower(text[at+1:])]
		if !ok && strings.Contains(text, ":") {
			return out, fmt.Errorf("target %q: protocol %q: want tcp, udp or sctp", text, text[at+1:])
		}
		if ok {
			out.protocol, text = p, text[:at]
		}
	}
	at := strings.LastIndex(text, ":")
	if _, err := netip.ParseAddr(text); at < 0 || err == nil {
		return out, fmt.Errorf("target %q: want POD:PORT, SERVICE:PORT or ADDRESS:PORT, with an address of IPv6 in brackets", text)
	}
	number, err := strconv.ParseUint(text[at+1:], 10, 16)
	if err != nil || number == 0 {
		return out, fmt.Errorf("target %q: want a port from 1 to 65535 behind the colon", text)
	}
	out.host, out.port = strings.Trim(text[:at], "[]"), uint16(number)
	return out, nil
}

// run traces once for each family that both ends have.
func (t *tracer) run(ctx context.Context, views []viewpoint, a, b string) ([]trace.Result, error) {
	to, err := parseTarget(b)
	if err != nil {
		return nil, err
	}
	t.protocol = to.protocol
	if t.endpoint != "" {
		if t.chosen, err = netip.ParseAddrPort(t.endpoint); err != nil {
			return nil, fmt.Errorf("--endpoint: %w", err)
		}
	}
	if err := t.survey(ctx, views); err != nil {
		return nil, err
	}
	sources := t.podsCalled(a)
	if len(sources) == 0 {
		return nil, fmt.Errorf("%s is no pod of a node that is looked at; pods are those that twillctl trace finds in the records of %s", a, orWord(viewNames(views), "no node", ", "))
	}
	ways, err := t.ways(ctx, sources[0], to)
	if err != nil {
		return nil, err
	}
	var results []trace.Result
	for _, w := range ways {
		for _, source := range sources {
			if source.where.Address.Is4() != w.address.Is4() {
				continue
			}
			r, err := t.follow(ctx, source, w)
			if err != nil {
				return nil, err
			}
			results = append(results, r)
		}
	}
	if results == nil {
		return nil, errors.New(a + " and " + b + " have no address of the same family")
	}
	return results, nil
}

// namespaces returns the names of the network namespaces of a lab's nodes; none when what is looked at is this machine.
func (f *viewpoints) namespaces() (map[string]string, error) {
	if f.lab.Name == "" {
		return nil, nil
	}
	l, err := lab.Open(f.lab)
	if err != nil {
		return nil, err
	}
	return namespacesOf(l), nil
}

func namespacesOf(l *lab.Lab) map[string]string {
	names := map[string]string{}
	for _, n := range l.Nodes() {
		names[n.Name] = n.Netns().Name()
	}
	return names
}

// showTrace prints the way from the first of a lab's pods to the last.
func showTrace(ctx context.Context, l *lab.Lab, pods []*lab.Pod, to streams) error {
	fmt.Fprintln(to.out)
	t := tracer{patience: time.Second, nodes: namespacesOf(l)}
	results, err := t.run(ctx, viewsOf(l), pods[0].Name, pods[len(pods)-1].Name+":80")
	if err != nil {
		return err
	}
	if err := printTraces(to.out, results); err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(r trace.Result) bool { return r.Failure != nil }) {
		return errFailed
	}
	return nil
}

func viewNames(views []viewpoint) (out []string) {
	for _, v := range views {
		out = append(out, v.String())
	}
	return out
}

func printTraces(w io.Writer, all []trace.Result) error {
	for i, r := range all {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := printTrace(w, r); err != nil {
			return err
		}
	}
	return nil
}

func printTrace(w io.Writer, r trace.Result) error {
	by := ""
	if r.Service != "" {
		by = " by way of " + r.Service
	}
	if _, err := fmt.Fprintf(w, "%s -> %s%s\n", r.From, r.To, by); err != nil {
		return err
	}
	err := printTable(w, func(row func(cells ...any)) {
		row("NODE", "HOP", "STATE", "THE KERNEL HOLDS")
		for _, h := range r.Hops {
			what := h.What
			if h.Reply {
				what = "reply: " + what
			}
			row(h.Node, what, string(h.State), dash(h.Holds))
		}
	})
	if err != nil {
		return err
	}
	if r.Failure == nil {
		_, err = fmt.Fprintln(w, "\nnothing is wrong")
		return err
	}
	f := r.Failure
	_, err = fmt.Fprintf(w, "\n%s, %s: %s\n  mend: %s\n", f.Node, f.What, f.Reason, f.Mend)
	return err
}
