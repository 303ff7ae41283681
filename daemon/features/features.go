package features

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/twill-cni/twill/kernel"
)

// Kernel tells what it can do, and changes nothing. What it cannot is a kernel.ErrUnsupported.
type Kernel interface {
	ProbeLink(kind string) error
	ProbeTable(t kernel.Table) error
	ProbeConntrack() error
}

// Needs are what the node's configuration asks of the kernel.
type Needs struct {
	IPv4, IPv6 bool
	VXLAN      bool
	Proxy      bool
	Policy     bool
}

var (
	nftables = kernel.Feature{Name: "nftables (family inet)", Module: "nf_tables", Option: "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"}

	ct         = kernel.Feature{Name: "connection tracking in nftables", Module: "nft_ct", Option: "CONFIG_NFT_CT"}
	nat        = kernel.Feature{Name: "address translation in nftables", Module: "nft_chain_nat", Option: "CONFIG_NF_NAT and CONFIG_NFT_NAT"}
	masquerade = kernel.Feature{Name: "masquerading in nftables", Module: "nft_masq", Option: "CONFIG_NFT_MASQ"}
	fibInet    = kernel.Feature{Name: "address types in nftables (expression fib)", Module: "nft_fib_inet", Option: "CONFIG_NFT_FIB_INET"}

	numgen    = kernel.Feature{Name: "random numbers in nftables (expression numgen)", Module: "nft_numgen", Option: "CONFIG_NFT_NUMGEN"}
	hash      = kernel.Feature{Name: "hashes in nftables (expression hash)", Module: "nft_hash", Option: "CONFIG_NFT_HASH"}
	limit     = kernel.Feature{Name: "limits in nftables (expression limit)", Module: "nft_limit", Option: "CONFIG_NFT_LIMIT"}
	nflog     = kernel.Feature{Name: "logging in nftables to programs (NFLOG)", Module: "nfnetlink_log", Option: "CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG"}
	counter   = kernel.Feature{Name: "counters in nftables", Module: "nft_counter", Option: "CONFIG_NFT_COUNTER"}
	mark      = kernel.Feature{Name: "marks of tracked connections", Option: "CONFIG_NF_CONNTRACK_MARK"}
	verdicts  = kernel.Feature{Name: "maps of verdicts in nftables", Option: sinceRanges}
	portRange = kernel.Feature{Name: "ranges of ports in sets of nftables (intervals in concatenations)", Option: sinceRanges}
	conntrack = kernel.Feature{Name: "connection tracking over netlink", Module: "nf_conntrack_netlink", Option: "CONFIG_NF_CT_NETLINK"}
)

// sinceRanges is for parts of nf_tables that a kernel cannot be built without, but for its age (nft_set_pipapo).
const sinceRanges = "CONFIG_NF_TABLES of Linux 5.6 or later"

// ofFamily are features that the kernel has for IPv4 and for IPv6.
func ofFamily(f kernel.TableFamily) (table, fib, reject kernel.Feature) {
	v, number := "IPv4", "4"
	if f == kernel.FamilyIPv6 {
		v, number = "IPv6", "6"
	}
	return kernel.Feature{Name: "nftables (" + v + ")", Option: "CONFIG_NF_TABLES_IPV" + number},
		kernel.Feature{Name: "address types in nftables (expression fib, " + v + ")", Module: "nft_fib_ipv" + number, Option: "CONFIG_NFT_FIB_IPV" + number},
		kernel.Feature{Name: "rejecting in nftables (" + v + ")", Module: "nft_reject_ipv" + number, Option: "CONFIG_NFT_REJECT_IPV" + number}
}

// Check returns nil when the kernel has all that is needed. Else the error joins a kernel.LackError for each feature that it lacks, and what kept
// it from answering: fs.ErrPermission when the process has no right to change the network.
func Check(k Kernel, needs Needs) error {
	var errs []error
	ask := func(f kernel.Feature, err error) bool {
		if lacks(err) {
			err = &kernel.LackError{Feature: f, Err: err}
		}
		errs = append(errs, err)
		return err == nil
	}
	for _, kind := range links(needs) {
		err := k.ProbeLink(kind.Module)
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("twilld may not change this host's network: it needs the capability NET_ADMIN there: %w", err)
		}
		ask(kind, err)
	}
	for _, family := range tables(needs) {
		// What the kernel takes back costs it some milliseconds each time (nf_tables_abort waits for readers), so all is asked at once.
		parts := parts(family.of, needs)
		err := k.ProbeTable(together(parts))
		if !lacks(err) {
			ask(family.feature, err)
			continue
		}
		if !ask(family.feature, k.ProbeTable(table(family.of))) {
			continue // what is in such a table cannot be told
		}
		told := false
		for _, part := range parts {
			told = !ask(part.feature, k.ProbeTable(part.table)) || told
		}
		if !told {
			ask(family.feature, err)
		}
	}
	if needs.Proxy || needs.Policy {
		ask(conntrack, k.ProbeConntrack())
	}
	return errors.Join(errs...)
}

// lacks reports whether the error says that the kernel lacks something. What is asked for is always the same, and right, so a kernel that finds it invalid is
// from before there was such a thing.
func lacks(err error) bool {
	return errors.Is(err, kernel.ErrUnsupported) || errors.Is(err, syscall.EINVAL)
}

// links are named by their modules, as the kinds of links are.
func links(needs Needs) []kernel.Feature {
	all := []kernel.Feature{
		{Name: "bridges", Module: "bridge", Option: "CONFIG_BRIDGE"},
		{Name: "veth devices", Module: "veth", Option: "CONFIG_VETH"},
	}
	if needs.VXLAN {
		all = append(all, kernel.Feature{Name: "VXLAN devices", Module: "vxlan", Option: "CONFIG_VXLAN"})
	}
	return all
}

type family struct {
	of      kernel.TableFamily
	feature kernel.Feature
}

func tables(needs Needs) []family {
	all := []family{{kernel.FamilyInet, nftables}}
	for _, of := range []kernel.TableFamily{kernel.FamilyIPv4, kernel.FamilyIPv6} {
		if needs.Proxy && (of == kernel.FamilyIPv4 && needs.IPv4 || of == kernel.FamilyIPv6 && needs.IPv6) {
			feature, _, _ := ofFamily(of)
			all = append(all, family{of, feature})
		}
	}
	return all
}

// part is a feature with a table that uses it.
type part struct {
	feature kernel.Feature
	table   kernel.Table
}

// parts are what is used in tables of a family: inet for all pods and for policies, the others for the service proxy.
func parts(of kernel.TableFamily, needs Needs) []part {
	port := []kernel.Operand{kernel.FieldDport}
	dnat := kernel.DNAT{Fields: port, Map: targets}
	tcp := kernel.Compare{Field: kernel.FieldL4Proto, Value: kernel.Datum{Number: 6}}
	tracked := kernel.Compare{Field: kernel.FieldCTStatus, Mask: 1, Value: kernel.Datum{Number: 1}}
	local := kernel.Compare{Field: kernel.FieldFIBDaddrType, Value: kernel.Datum{Number: 2}}
	choose := func(o kernel.Operand) kernel.Expr { return kernel.Lookup{Fields: []kernel.Operand{o}, Set: numbers} }
	if of == kernel.FamilyInet {
		all := []part{
			{ct, table(of, tracked)},
			{nat, natTable(of, "prerouting", tcp, dnat)},
			{masquerade, natTable(of, "postrouting", kernel.Masquerade{})},
			{fibInet, table(of, local)},
		}
		if needs.Policy {
			all = append(all, policyParts()...)
		}
		return all
	}
	_, fib, reject := ofFamily(of)
	v6 := of == kernel.FamilyIPv6
	source := kernel.FieldIPSaddr
	if v6 {
		source = kernel.FieldIP6Saddr
	}
	dnat.V6 = v6
	return []part{
		{ct, table(of, tracked)},
		{nat, natTable(of, "prerouting", tcp, dnat)},
		{masquerade, natTable(of, "postrouting", kernel.Masquerade{})},
		{fib, table(of, local)},
		{reject, table(of, kernel.Reject{})},
		{numgen, table(of, choose(kernel.Numgen{Random: true, Modulus: 2}))},
		{hash, table(of, choose(kernel.Hash{Fields: []kernel.Field{source}, Modulus: 2, Seed: 1}))},
	}
}

// policyParts are what the table of policies is made of; see package gate.
func policyParts() []part {
	const of = kernel.FamilyInet
	number, set := []kernel.Operand{kernel.Numgen{Modulus: 1}}, []kernel.Operand{kernel.Numgen{Modulus: 1}, kernel.FieldL4Proto, kernel.FieldDport}
	with := func(s kernel.Set, e kernel.Expr) kernel.Table {
		t := table(of, e)
		t.Sets = append(t.Sets, s)
		return t
	}
	return []part{
		{numgen, with(kernel.Set{Name: priorities, Key: []kernel.Type{kernel.TypeNumber}, Value: []kernel.Type{kernel.TypePriority}},
			kernel.SetPriority{Fields: number, Map: priorities})},
		{limit, table(of, kernel.Limit{Rate: 1, Burst: 1})},
		{nflog, table(of, kernel.Log{Group: 1, Length: 1})},
		{mark, table(of, kernel.Compare{Field: kernel.FieldCTMark, Mask: 1, Value: kernel.Datum{Number: 1}})},
		{counter, table(of, kernel.Counter{})},
		{portRange, with(kernel.Set{Name: ranges, Key: []kernel.Type{kernel.TypeNumber, kernel.TypeInetProto, kernel.TypeInetService}, Interval: true},
			kernel.Lookup{Fields: set, Set: ranges})},
		{verdicts, with(kernel.Set{Name: chains, Key: []kernel.Type{kernel.TypeNumber}, Value: []kernel.Type{kernel.TypeVerdict}}, kernel.VerdictMap{Fields: number, Map: chains})},
	}
}

// together returns a table with all of the parts.
func together(parts []part) kernel.Table {
	whole := parts[0].table
	whole.Sets, whole.Chains = nil, nil
	for _, p := range parts {
		for _, s := range p.table.Sets {
			if !slices.ContainsFunc(whole.Sets, func(o kernel.Set) bool { return o.Name == s.Name }) {
				whole.Sets = append(whole.Sets, s)
			}
		}
		for _, c := range p.table.Chains {
			c.Name = fmt.Sprint(c.Name, len(whole.Chains))
			whole.Chains = append(whole.Chains, c)
		}
	}
	return whole
}

// The sets of a table that is tried.
const (
	targets    = "targets"
	numbers    = "numbers"
	priorities = "priorities"
	ranges     = "ranges"
	chains     = "chains"
)

// table returns one with a chain that filters, with one rule; without expressions there is no chain.
func table(of kernel.TableFamily, exprs ...kernel.Expr) kernel.Table {
	t := kernel.Table{Family: of, Name: kernel.TablePrefix + "probe"}
	if len(exprs) > 0 {
		t.Sets = []kernel.Set{{Name: numbers, Key: []kernel.Type{kernel.TypeNumber}}}
		t.Chains = []kernel.Chain{chain("filter", "input", exprs)}
	}
	return t
}

func natTable(of kernel.TableFamily, hook string, exprs ...kernel.Expr) kernel.Table {
	t := table(of)
	addr := kernel.TypeIPv4Addr
	if of == kernel.FamilyIPv6 {
		addr = kernel.TypeIPv6Addr
	}
	t.Sets = []kernel.Set{{Name: targets, Key: []kernel.Type{kernel.TypeInetService}, Value: []kernel.Type{addr, kernel.TypeInetService}}}
	t.Chains = []kernel.Chain{chain("nat", hook, exprs)}
	return t
}

func chain(typ, hook string, exprs []kernel.Expr) kernel.Chain {
	return kernel.Chain{Name: hook, Hook: &kernel.Hook{Type: typ, Hook: hook}, Rules: []kernel.Rule{{Exprs: exprs}}}
}
