package kernel

import (
	"net/netip"
	"time"
)

// TablePrefix starts the name of every nftables table that is ours. There is one table per module, since the kernel
// validates and locks table by table.
const TablePrefix = "twill-"

// Table is an nftables table: a small skeleton of chains and rules, and sets and maps that hold the data. What changes often
// belongs into set elements, which cost one message each; a change of the skeleton rewrites the table in one transaction.
type Table struct {
	Family TableFamily
	Name   string
	Sets   []Set
	Chains []Chain
}

// TableFamily is the address family of a table (NFPROTO_*).
type TableFamily uint8

// The families in use.
const (
	FamilyInet TableFamily = iota
	FamilyIPv4
	FamilyIPv6
	FamilyBridge
)

// Type is the data type of one field of a set's key or value, as `nft` names it.
type Type uint8

// The data types in use.
const (
	TypeIPv4Addr    Type = iota // ipv4_addr
	TypeIPv6Addr                // ipv6_addr
	TypeInetProto               // inet_proto
	TypeInetService             // inet_service, a port
	TypeMark                    // mark
	TypeIfname                  // ifname
	TypeVerdict                 // verdict, as the value of a verdict map
	TypePriority                // classid, what `meta priority` is
	TypeNumber                  // what a Numgen or a Hash makes; nft lists such a set by `typeof`
)

// Set is a set, or a map when Value is not empty.
type Set struct {
	Name     string
	Key      []Type // more than one is a concatenation
	Value    []Type // of a map; more than one is a concatenation, TypeVerdict stands alone
	Interval bool   // elements may be ranges and prefixes; they must not overlap
	Size     uint32 // the largest number of elements; 0 for no limit
	Comment  string // shown by `nft list`; at most 127 bytes
	Elements []Element

	// Foreign elements are written by another program or by the packet path; the reconciler makes the set and
	// leaves what is in it.
	Foreign bool

	// Bulk elements are many, and written with BulkTables.ChangeElements by the one who syncs the table. The reconciler makes the set and leaves
	// what is in it; unlike with Foreign, a change by somebody else is reported. Such a set has no ranges, no verdicts and no Elements.
	Bulk bool

	// Ahead: new elements come before all else, in a transaction of their own, since packets meet them later than the rules and elements of a transaction
	// that they come with. Nothing is to lead to one before; and none is to have the key of one that goes, or a part of its range.
	Ahead bool

	// Dynamic sets are changed by rules (Update, Delete). They are Foreign, and need a Size.
	Dynamic bool
	// Timeout: elements may have a time after which they go.
	Timeout bool
	// Counted: each element counts the packets that look it up, and their bytes.
	Counted bool
}

// Element is one element of a set or map. Key and Value hold one datum for each type of the set.
type Element struct {
	Key     []Datum
	KeyEnd  []Datum // inclusive end of a range; nil for a single value, or when a Prefix in Key says it
	Value   []Datum
	Comment string // shown by `nft list`; at most 127 bytes
}

// Datum is a value of a key, a map or a comparison; exactly one field is meant, by the Type it stands for.
type Datum struct {
	Addr    netip.Addr   // TypeIPv4Addr, TypeIPv6Addr
	Prefix  netip.Prefix // an interval given as a prefix, for either address type
	Number  uint32       // TypeInetProto, TypeInetService, TypeMark, TypePriority, TypeNumber
	Name    string       // TypeIfname
	Verdict *Verdict     // TypeVerdict
}

// Chain is a base chain when Hook is set, else a regular chain. A Name that is a word of nft's own (drop, reject, random) works, but nft
// cannot read back what it lists of it.
type Chain struct {
	Name    string
	Hook    *Hook
	Comment string // shown by `nft list`; at most 127 bytes
	Rules   []Rule
}

// Hook says where a base chain is attached.
type Hook struct {
	Type     string // "filter", "nat", "route"
	Hook     string // "prerouting", "input", "forward", "output", "postrouting"
	Priority int    // for example -100 for dstnat, 100 for srcnat
	Drop     bool   // policy drop instead of accept
}

// Rule is a list of expressions that are evaluated left to right until one does not match.
type Rule struct {
	Exprs   []Expr
	Comment string // shown by `nft list`; at most 127 bytes
}

// Field is a property of the packet that can be compared, looked up and concatenated.
type Field uint8

// The fields in use, as `nft` writes them.
const (
	FieldNFProto      Field = iota // meta nfproto; Number is 2 (IPv4) or 10 (IPv6)
	FieldL4Proto                   // meta l4proto
	FieldIIFName                   // iifname
	FieldOIFName                   // oifname
	FieldMark                      // meta mark
	FieldIPSaddr                   // ip saddr
	FieldIPDaddr                   // ip daddr
	FieldIP6Saddr                  // ip6 saddr
	FieldIP6Daddr                  // ip6 daddr
	FieldSport                     // th sport
	FieldDport                     // th dport
	FieldCTStatus                  // ct status, a bit mask (IPS_*)
	FieldCTState                   // ct state, a bit mask
	FieldCTDirection               // ct direction; 0 original, 1 reply
	FieldCTMark                    // ct mark
	FieldFIBDaddrType              // fib daddr type; Number is RTN_*, 2 for local
	FieldFIBSaddrType              // fib saddr type
	FieldPriority                  // meta priority
	FieldICMPv6Type                // icmpv6 type
)

// Operand is a part of a concatenation: a Field, a Numgen or a Hash.
type Operand interface{ isOperand() }

// Numgen is a number from Offset to Offset+Modulus-1: by chance, or counting up with each packet that meets the rule.
type Numgen struct {
	Random          bool
	Modulus, Offset uint32
}

// Hash is the Jenkins hash of fields, modulo Modulus, plus Offset. Two rules with equal fields and seed hash alike. A Seed of 0 stands for one
// that the kernel draws.
type Hash struct {
	Fields                []Field
	Modulus, Seed, Offset uint32
}

func (Field) isOperand()  {}
func (Numgen) isOperand() {}
func (Hash) isOperand()   {}

// Expr is one expression of a rule: one of the types below.
type Expr interface{ isExpr() }

// Compare matches when the field, masked with Mask unless that is 0, equals (or with Not: does not equal) Value. An address field
// may be compared with a Prefix. A field of one IP version implies that the packet is of that version, also with Not: a rule
// in a table of family inet that compares an IPv4 address matches no IPv6 packet.
type Compare struct {
	Field Field
	Mask  uint32
	Not   bool
	Value Datum
}

// Lookup matches when the concatenation of Fields is (or with Not: is not) in the set.
type Lookup struct {
	Fields []Operand
	Set    string
	Not    bool
}

// VerdictMap ends the rule with the verdict that the map holds for the concatenation of Fields, if any.
type VerdictMap struct {
	Fields []Operand
	Map    string
}

// Verdict ends the evaluation or moves it to another chain.
type Verdict struct {
	Kind  VerdictKind
	Chain string // of Jump and Goto
}

// VerdictKind is a verdict's name as `nft` writes it.
type VerdictKind string

// The verdicts in use.
const (
	Accept VerdictKind = "accept"
	Drop   VerdictKind = "drop"
	Return VerdictKind = "return"
	Jump   VerdictKind = "jump"
	Goto   VerdictKind = "goto"
)

// Masquerade gives the packet's connection the address of the outgoing link as its source.
type Masquerade struct {
	FullyRandom bool // NF_NAT_RANGE_PROTO_RANDOM_FULLY: no port collisions of parallel connections in conntrack
}

// DNAT sends the connection to the address and port that the map holds for the concatenation of Fields; a packet
// without an element in the map does not match. The map's value is an address and a port of family V6 or IPv4.
type DNAT struct {
	Fields []Operand
	Map    string
	V6     bool
}

// SetMark sets the packet's mark to (mark &^ Mask) | Value.
type SetMark struct{ Mask, Value uint32 }

// SetPriority sets the packet's priority (skb->priority): to what Map holds for the concatenation of Fields, in which case a packet without an
// element does not match; without Map, to the one of Fields that there is; without either, to 0. Within a chain it serves as a variable. In
// the forward path the kernel sets the priority anew after prerouting (ip_forward).
type SetPriority struct {
	Fields []Operand
	Map    string
}

// Update puts an element into a Dynamic set from the packet path, or renews the timeout of the one that is there and leaves its value. A
// packet for which the set has no room does not match.
type Update struct {
	Set     string
	Key     []Operand
	Value   []Operand // of a map
	Timeout time.Duration
}

// Delete removes an element from a Dynamic set in the packet path. Value is not looked at, but the kernel wants one of a map.
type Delete struct {
	Set   string
	Key   []Operand
	Value []Operand
}

// Reject drops the packet and tells the sender: ICMP port unreachable; or with Reset, which stands behind a Compare of the protocol with TCP's, a
// reset. A sender on this host heeds a reset at once, the ICMP error often only when it sends the second time.
type Reject struct{ Reset bool }

// Counter counts packets and bytes; its figures are no part of what is desired.
type Counter struct{}

// Limit matches as long as packets come no faster than Rate a second, after a Burst of so many.
type Limit struct{ Rate, Burst uint32 }

// Log copies the packet's first Length bytes to whoever listens to the NFLOG group, and goes on.
type Log struct {
	Group  uint16
	Prefix string // at most 127 bytes
	Length uint32 // 0: all
}

func (Compare) isExpr()     {}
func (Lookup) isExpr()      {}
func (VerdictMap) isExpr()  {}
func (Verdict) isExpr()     {}
func (Masquerade) isExpr()  {}
func (DNAT) isExpr()        {}
func (SetMark) isExpr()     {}
func (SetPriority) isExpr() {}
func (Update) isExpr()      {}
func (Delete) isExpr()      {}
func (Reject) isExpr()      {}
func (Counter) isExpr()     {}
func (Limit) isExpr()       {}
func (Log) isExpr()         {}
