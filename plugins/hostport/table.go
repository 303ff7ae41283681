package hostport

import (
	"net/netip"

	"github.com/twill-cni/twill/kernel"
)

// TableName is the name of the nftables table, of family inet.
const TableName = kernel.TablePrefix + "hostports"

// The sets that are for both IP versions.
const (
	setBridges = "bridges" // the bridges that pods with host ports hang on
	setTurn    = "turn"    // pairs of equal bridges: a packet leaves by the bridge that it came by
)

// version is what the table has once for each IP version.
type version struct {
	nfproto   uint32
	addr      kernel.Type
	saddr     kernel.Field
	daddr     kernel.Field
	addrPorts string // node address, protocol and port -> pod address and port
	ports     string // protocol and port -> pod address and port
	self      string // pairs of equal pod addresses: a pod reaches itself
}

var versions = [...]version{
	{2, kernel.TypeIPv4Addr, kernel.FieldIPSaddr, kernel.FieldIPDaddr, "addr_ports4", "ports4", "self4"},
	{10, kernel.TypeIPv6Addr, kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, "addr_ports6", "ports6", "self6"},
}

// Mark is the bit of the packet mark that says "a host port led here" between the table's own chains, for the first packet of
// a connection. It must be a bit that nobody else acts upon: 0x2000 is the reference portmap's, whose rules outlive it and masquerade
// what has the bit; 0x4000 and 0x8000 are kube-proxy's; from 0x10000 on they are Calico's, Weave's and Tailscale's; 0x0f00 is Cilium's.
const Mark = 0x1000

const (
	statusDNAT = 0x20 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
	typeLocal  = 2    // RTN_LOCAL, linux/rtnetlink.h

	// nf_tables priorities as nft names them.
	priorityRaw    = -300
	priorityDNAT   = -100
	prioritySource = 100
)

// Table is the table without elements. All sets are filled by the plugin alone, so a reconciler that holds the table must leave
// their elements as they are.
func Table() kernel.Table {
	t := kernel.Table{Family: kernel.FamilyInet, Name: TableName}
	for _, v := range versions {
		port := []kernel.Type{kernel.TypeInetProto, kernel.TypeInetService}
		value := []kernel.Type{v.addr, kernel.TypeInetService}
		t.Sets = append(t.Sets,
			kernel.Set{Name: v.addrPorts, Key: append([]kernel.Type{v.addr}, port...), Value: value, Foreign: true},
			kernel.Set{Name: v.ports, Key: port, Value: value, Foreign: true},
			kernel.Set{Name: v.self, Key: []kernel.Type{v.addr, v.addr}, Foreign: true})
	}
	t.Sets = append(t.Sets,
		kernel.Set{Name: setBridges, Key: []kernel.Type{kernel.TypeIfname}, Foreign: true},
		kernel.Set{Name: setTurn, Key: []kernel.Type{kernel.TypeIfname, kernel.TypeIfname}, Foreign: true})
	t.Chains = []kernel.Chain{guard(), ports(), entry("prerouting"), entry("output"), postrouting()}
	return t
}

// loopback is IPv4's. There is no way to lead ::1 to a pod: Linux has no route_localnet for IPv6.
var (
	loopback     = netip.MustParsePrefix("127.0.0.0/8")
	loopbackIPv6 = netip.MustParsePrefix("::1/128")
)

// guard keeps pods from the node's loopback addresses, which route_localnet on the bridge would open to them (CVE-2020-8558).
// Answers to connections by way of localhost pass: here they still bear the address that they were masqueraded with.
func guard() kernel.Chain {
	c := kernel.Chain{Name: "guard", Hook: &kernel.Hook{Type: "filter", Hook: "prerouting", Priority: priorityRaw}}
	for _, f := range []kernel.Field{kernel.FieldIPDaddr, kernel.FieldIPSaddr} {
		c.Rules = append(c.Rules, kernel.Rule{Comment: "no pod reaches or plays localhost", Exprs: []kernel.Expr{
			kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIIFName}, Set: setBridges},
			kernel.Compare{Field: f, Value: kernel.Datum{Prefix: loopback}},
			kernel.Verdict{Kind: kernel.Drop},
		}})
	}
	return c
}

// entry sends connections to an address of the node through the maps. What arrives for 127.0.0.0/8 does not come from the node: the
// kernel drops it, but only after this hook, so it must not be led anywhere.
func entry(hook string) kernel.Chain {
	c := kernel.Chain{Name: hook, Hook: &kernel.Hook{Type: "nat", Hook: hook, Priority: priorityDNAT}}
	unled := func(comment string, f kernel.Field, p netip.Prefix) {
		c.Rules = append(c.Rules, kernel.Rule{Comment: comment, Exprs: []kernel.Expr{
			kernel.Compare{Field: f, Value: kernel.Datum{Prefix: p}},
			kernel.Verdict{Kind: kernel.Return},
		}})
	}
	unled("cannot be led elsewhere", kernel.FieldIP6Daddr, loopbackIPv6)
	if hook == "prerouting" {
		unled("localhost is the node's alone", kernel.FieldIPDaddr, loopback)
	}
	c.Rules = append(c.Rules, kernel.Rule{Exprs: []kernel.Expr{
		kernel.Compare{Field: kernel.FieldFIBDaddrType, Value: kernel.Datum{Number: typeLocal}},
		kernel.Verdict{Kind: kernel.Jump, Chain: "ports"},
	}})
	return c
}

// ports looks the port up: first for the one address of the node, then for all. The mark stays only on packets that a map led
// somewhere, since DNAT ends the evaluation.
func ports() kernel.Chain {
	port := []kernel.Operand{kernel.FieldL4Proto, kernel.FieldDport}
	rules := []kernel.Rule{{Exprs: []kernel.Expr{kernel.SetMark{Mask: Mark, Value: Mark}}}}
	for _, v := range versions {
		rules = append(rules,
			kernel.Rule{Exprs: []kernel.Expr{kernel.DNAT{Fields: append([]kernel.Operand{v.daddr}, port...), Map: v.addrPorts, V6: v.nfproto == 10}}},
			kernel.Rule{Exprs: []kernel.Expr{
				kernel.Compare{Field: kernel.FieldNFProto, Value: kernel.Datum{Number: v.nfproto}},
				kernel.DNAT{Fields: port, Map: v.ports, V6: v.nfproto == 10},
			}})
	}
	rules = append(rules, kernel.Rule{Exprs: []kernel.Expr{kernel.SetMark{Mask: Mark}}})
	return kernel.Chain{Name: "ports", Rules: rules}
}

// postrouting gives the node's address to connections whose answers would not come back through the node otherwise, or could not
// be told from the pod's own packets.
func postrouting() kernel.Chain {
	dnatted := kernel.Compare{Field: kernel.FieldCTStatus, Mask: statusDNAT, Value: kernel.Datum{Number: statusDNAT}}
	c := kernel.Chain{Name: "postrouting", Hook: &kernel.Hook{Type: "nat", Hook: "postrouting", Priority: prioritySource}}
	rule := func(comment string, exprs ...kernel.Expr) {
		c.Rules = append(c.Rules, kernel.Rule{Comment: comment, Exprs: append(exprs, kernel.Masquerade{})})
	}
	for _, v := range versions {
		rule("a pod to its own host port", dnatted, kernel.Lookup{Fields: []kernel.Operand{v.saddr, v.daddr}, Set: v.self})
	}
	rule("a pod to another one's on the same bridge", dnatted,
		kernel.Compare{Field: kernel.FieldMark, Mask: Mark, Value: kernel.Datum{Number: Mark}},
		kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIIFName, kernel.FieldOIFName}, Set: setTurn})
	rule("the node by way of localhost", dnatted,
		kernel.Compare{Field: kernel.FieldIPSaddr, Value: kernel.Datum{Prefix: loopback}},
		kernel.Lookup{Fields: []kernel.Operand{kernel.FieldOIFName}, Set: setBridges})
	return c
}
