package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/store"
)

// exitUnclear is the exit code of "policy test" when the looks disagree, or when it could not be found out.
const exitUnclear = 2

func newPolicyTest(to streams) *cobra.Command {
	var from viewpoints
	var t trial
	output := ""
	cmd := &cobra.Command{
		Use:   "test FROM TO:PORT",
		Short: "find out whether a connection is allowed: by the policies, by the kernel, and by trying it",
		Long: `test looks three times at a connection from FROM to TO, which are pods or addresses, and
says whether it is allowed and by which policies:

  policies   what the policies mean, as the datastore has told the nodes' twilld
  kernel     what a packet finds in the nftables of the nodes at both ends
  probe      a connection, a datagram or an echo request from FROM's network namespace

It says what it could not look at: away from a lab it runs on one node, sees the kernel of
that node alone, and probes only from pods of that node. The probe is real: a server at TO sees it.
TO is asked behind the service proxy: name an endpoint and its own port, not a Service.

Pods of two families are tested with each. Exit code: 0 allowed, 1 denied, 2 when what was looked at does not
agree, or could not be found out.`,
		Example: `  twillctl policy test shop/web shop/api:8081
  twillctl policy test shop/web 10.244.2.3:53 --protocol udp
  twillctl policy test 192.0.2.1 [fd00:244:0:1::2]:8080 --lab demo
  twillctl policy test shop/web shop/api --protocol icmp --no-probe -o json`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeUpTo(2, from.podNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			results, err := t.run(cmd.Context(), &from, args[0], args[1])
			if err != nil {
				return &exitError{exitUnclear, err}
			}
			err = printAs(to.out, output, results, func() error { return printTrials(to.out, results) })
			if err != nil {
				return &exitError{exitUnclear, err}
			}
			return exitOf(results)
		},
	}
	from.add(cmd)
	addFormat(cmd, &output)
	checkFormat := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := checkFormat(cmd, args); err != nil {
			return &exitError{exitUnclear, err}
		}
		return nil
	}
	cmd.Flags().StringVar(&t.protocol, "protocol", "tcp", "tcp, udp, sctp (which is not probed) or icmp")
	cmd.Flags().BoolVar(&t.noProbe, "no-probe", false, "send nothing")
	cmd.Flags().DurationVar(&t.patience, "wait", 2*time.Second, "how long the probe waits for an answer")
	return cmd
}

// exitError is an error that ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exitOf is nil when every connection is allowed.
func exitOf(all []trialResult) error {
	var err error
	for _, r := range all {
		switch {
		case len(r.Disagreements) > 0 || r.Result == unclear:
			return &exitError{exitUnclear, errFailed}
		case r.Result == denied:
			err = errFailed
		}
	}
	return err
}

// trial is what "policy test" does, but for the ends.
type trial struct {
	protocol string
	noProbe  bool
	patience time.Duration
}

// trialEnd is an end of a connection.
type trialEnd struct {
	Pod     string     `json:"pod,omitempty"` // empty: no pod that is known
	Node    string     `json:"node,omitempty"`
	Address netip.Addr `json:"address"`
}

func (e trialEnd) String() string {
	switch {
	case e.Pod == "":
		return e.Address.String()
	case e.Node == "":
		return fmt.Sprintf("%s (%s)", e.Pod, e.Address)
	}
	return fmt.Sprintf("%s (%s, %s)", e.Pod, e.Address, e.Node)
}

// run tests a connection for each family that both ends have.
func (t *trial) run(ctx context.Context, from *viewpoints, a, b string) ([]trialResult, error) {
	views, err := from.open(ctx)
	if err != nil {
		return nil, err
	}
	protocol, err := t.number()
	if err != nil {
		return nil, err
	}
	b, port, err := t.splitPort(b)
	if err != nil {
		return nil, err
	}
	sources, err := t.addresses(ctx, views, a)
	if err != nil {
		return nil, err
	}
	targets, err := t.addresses(ctx, views, b)
	if err != nil {
		return nil, err
	}
	var results []trialResult
	for _, src := range sources {
		for _, dst := range targets {
			if src.Is4() != dst.Is4() {
				continue
			}
			flow := trialFlow{Src: src, Dst: dst, Protocol: protocol, Port: port}
			if protocol == probe.ICMP && src.Is6() {
				flow.Protocol = probe.ICMPv6
			}
			r, err := t.look(ctx, views, flow)
			if err != nil {
				return nil, err
			}
			results = append(results, r)
		}
	}
	if results == nil {
		return nil, fmt.Errorf("%s has %s and %s has %s: no family in common", a, orWord(texts(sources), "no address", ", "), b, orWord(texts(targets), "no address", ", "))
	}
	return results, nil
}

func texts(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func (t *trial) number() (store.Protocol, error) {
	protocols := map[string]store.Protocol{"tcp": store.TCP, "udp": store.UDP, "sctp": store.SCTP, "icmp": probe.ICMP}
	p, ok := protocols[strings.ToLower(t.protocol)]
	if !ok {
		return 0, fmt.Errorf("--protocol %q: want tcp, udp, sctp or icmp", t.protocol)
	}
	return p, nil
}

// splitPort takes the port off the target, which ICMP has none of.
func (t *trial) splitPort(target string) (host string, port uint16, err error) {
	if strings.EqualFold(t.protocol, "icmp") {
		return strings.Trim(target, "[]"), 0, nil
	}
	at := strings.LastIndex(target, ":")
	if _, err := netip.ParseAddr(target); at < 0 || err == nil {
		return "", 0, fmt.Errorf("target %q: want POD:PORT or ADDRESS:PORT, with an address of IPv6 in brackets", target)
	}
	number, err := strconv.ParseUint(target[at+1:], 10, 16)
	if err != nil || number == 0 {
		return "", 0, fmt.Errorf("target %q: want a port from 1 to 65535 at the end", target)
	}
	return strings.Trim(target[:at], "[]"), uint16(number), nil
}

// addresses returns those of a pod, or the address that the text is.
func (t *trial) addresses(ctx context.Context, views []viewpoint, text string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	name, err := podArg(text)
	if err != nil {
		return nil, err
	}
	pod, err := find(ctx, views, name)
	return pod.Addresses, err
}

func printTrials(w io.Writer, all []trialResult) error {
	for i, r := range all {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := r.print(w); err != nil {
			return err
		}
	}
	return nil
}

func (r trialResult) print(w io.Writer) error {
	what := r.Protocol
	if r.Port != 0 {
		what += fmt.Sprintf(" %d", r.Port)
	}
	if _, err := fmt.Fprintf(w, "%s -> %s, %s\n", r.From, r.To, what); err != nil {
		return err
	}
	err := printTable(w, func(row func(cells ...any)) {
		for _, l := range []struct {
			name string
			look trialLook
		}{{"policies", r.Policies}, {"kernel", r.Kernel}, {"probe", r.Probe}} {
			for i, detail := range l.look.Details {
				if i == 0 {
					row("  "+l.name, l.look.Result, detail)
				} else {
					row("", "", detail)
				}
			}
		}
	})
	_, last := fmt.Fprintln(w, r.Conclusion)
	return errors.Join(err, last)
}
