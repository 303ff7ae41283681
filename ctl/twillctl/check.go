package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/check"
	"github.com/twill-cni/twill/ctl/check/host"
	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/gauge"
)

// checkFlags say what twilld is told on the host, and which host is meant.
type checkFlags struct {
	options                host.Options
	backend, proxy, policy string
	health, metrics, page  string
	output                 string
	lab                    lab.Options
	node                   string
	ipv6                   bool
}

func newCheck(to streams) *cobra.Command {
	var flags checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "whether this host is fit for Twill, and what mends it",
		Long: `check looks at this host, or at a lab's node: kernel features, sysctls, MTUs, offloads,
leftovers of other networks, rules of others that drop packets, ports, network
configurations, plugins. For each thing that is not as it should be it says what that
breaks, and the command that mends it. It needs no twilld, changes nothing and runs no
other program. It needs root.

Say what twilld is, or will be, told: --backend, --proxy, --policy and so on. What Twill
has in the kernel already is known without. The exit code is 1 when something fails.`,
		Example: `  twillctl check --backend bgp --proxy nftables --policy on
  twillctl check --lab demo --lab-node node1
  twillctl check -o json | jq '.[] | select(.verdict == "failure")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := flags.look(cmd.Context())
			if err != nil {
				return err
			}
			results := check.Run(facts)
			if err := printChecks(to.out, results, flags.output); err != nil {
				return err
			}
			if check.Worst(results) == check.Failure {
				return errFailed
			}
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

func (f *checkFlags) add(cmd *cobra.Command) {
	flags, o := cmd.Flags(), &f.options
	flags.StringVar(&f.backend, "backend", "vxlan", "twilld's --backend: vxlan or bgp")
	flags.StringVar(&f.proxy, "proxy", "off", "twilld's --proxy: nftables or off")
	flags.StringVar(&f.policy, "policy", "off", "twilld's --policy: on or off")
	flags.StringVar(&o.Iface, "iface", "", "twilld's --iface (default: that of the default route)")
	flags.StringVar(&f.health, "health-address", "127.0.0.1:10270", "twilld's --health-address")
	flags.StringVar(&f.metrics, "metrics-address", "127.0.0.1:10270", "twilld's --metrics-address")
	flags.StringVar(&f.page, "page", "", "twilld's --page; empty: it serves none and measures nothing")
	flags.StringVar(&o.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "twilld's --cni-conf-dir")
	flags.StringVar(&o.PluginsDir, "cni-bin-dir", "/opt/cni/bin", "twilld's --cni-bin-dir")
	flags.StringVar(&o.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "twilld's --subnet-file")
	flags.Uint16Var(&o.VXLANPort, "vxlan-port", 8472, "Backend.Port of the network configuration")
	flags.Uint16Var(&o.BGPPort, "bgp-port", 179, "port of --bgp-config")
	flags.BoolVar(&f.ipv6, "ipv6", false, "pods have, or will have, IPv6 addresses, too")
	flags.IntVar(&o.Nodes, "nodes", 0, "number of the cluster's nodes, for the limits of tables")
	flags.StringVar(&f.lab.Name, "lab", "", "look at a node of the lab with this name instead")
	flags.StringVar(&f.lab.StateDir, "state-dir", "", "directory that holds the labs (default /run/twill-lab)")
	flags.StringVar(&f.node, "lab-node", "node1", "the lab's node")
	completeFlag(cmd, "lab", names(labNames(&f.lab.StateDir)))
	completeFlag(cmd, "lab-node", names(labNodes(&f.lab)))
	addFormat(cmd, &f.output)
}

// look looks at the host that is meant.
func (f *checkFlags) look(ctx context.Context) (facts *check.Facts, err error) {
	o := f.options
	for _, choice := range []struct {
		flag, value string
		all         []string
	}{{"backend", f.backend, []string{"vxlan", "bgp"}}, {"proxy", f.proxy, []string{"nftables", "off"}}, {"policy", f.policy, []string{"on", "off"}}} {
		if !slices.Contains(choice.all, choice.value) {
			return nil, fmt.Errorf("--%s %q: want %s", choice.flag, choice.value, strings.Join(choice.all, " or "))
		}
	}
	if o.Health, err = listenAddress(f.health); err != nil {
		return nil, fmt.Errorf("--health-address: %w", err)
	}
	if o.Metrics, err = listenAddress(f.metrics); err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	if o.Page, err = listenAddress(config.PageAddress(f.page)); err != nil {
		return nil, fmt.Errorf("--page: %w", err)
	}
	o.GaugePort = gauge.Port
	o.BGP, o.Proxy, o.Policy, o.IPv6, o.Version = f.backend == "bgp", f.proxy != "off", f.policy == "on", f.ipv6, host.Version()
	if f.lab.Name != "" {
		return f.lookAtNode(ctx, o)
	}
	o.Overlay, o.IPv4 = !o.BGP, true
	return host.Look(ctx, o), nil
}

// listenAddress reads an address as twilld does: without a host it is all of the host's; empty is none.
func listenAddress(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	name, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: want a number", port)
	}
	switch name {
	case "":
		return netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(number)), nil
	case "localhost":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(number)), nil
	}
	addr, err := netip.ParseAddr(name)
	return netip.AddrPortFrom(addr, uint16(number)), err
}

func (f *checkFlags) lookAtNode(ctx context.Context, o host.Options) (facts *check.Facts, err error) {
	l, err := lab.Open(f.lab)
	if err != nil {
		return nil, err
	}
	node, err := l.Node(f.node)
	if err != nil {
		return nil, err
	}
	o.BGP = node.Backend() == lab.BGP
	o.Overlay = !o.BGP
	o.IPv4, o.IPv6 = l.Family().V4(), l.Family().V6()
	o.Iface, o.ConfDir, o.PluginsDir, o.SubnetFile = node.Uplink(), node.CNIConfDir(), node.CNIBinDir(), node.SubnetFile()
	err = node.Do(func() error {
		facts = host.Look(ctx, o)
		return nil
	})
	return facts, err
}

func printChecks(w io.Writer, results []check.Result, output string) error {
	return printAs(w, output, results, func() error { return printCheckTable(w, results) })
}

func printCheckTable(w io.Writer, results []check.Result) error {
	if err := printTable(w, func(row func(cells ...any)) {
		row("CHECK", "RESULT", "LOOKS AT")
		for _, r := range results {
			row(r.Check, r.Verdict, r.LooksAt)
		}
	}); err != nil {
		return err
	}
	_, err := io.WriteString(w, findings(results))
	return err
}

// findings are a paragraph for each thing that was found, failures first.
func findings(results []check.Result) string {
	var text strings.Builder
	for _, verdict := range []check.Verdict{check.Failure, check.Warning, check.NotLooked} {
		for _, r := range results {
			for _, found := range r.Found {
				if found.Verdict != verdict {
					continue
				}
				fmt.Fprintf(&text, "\n%s: %s: %s\n", verdict, r.Check, found.What)
				for _, line := range []struct{ name, text string }{{"breaks", found.Breaks}, {"mend", found.Mend}} {
					if line.text != "" {
						fmt.Fprintf(&text, "  %-7s %s\n", line.name+":", line.text)
					}
				}
			}
		}
	}
	if text.Len() == 0 {
		return "\nnothing is wrong\n"
	}
	return text.String()
}
