package nft

import (
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// tableID identifies a table in the kernel.
type tableID struct {
	family uint8 // NFPROTO_*
	name   string
}

// image is what one table holds in the form in which netlink carries it. There are two sources of an image, encode (what is
// desired) and read (what the kernel lists), and a table is as desired exactly when the two images are equal.
type image struct {
	exists bool
	flags  uint32 // NFTA_TABLE_FLAGS; of ours 0, dormant for instance is not
	sets   map[string]*set
	chains map[string]*chain
}

// set is a set or a map.
type set struct {
	setSpec
	foreign  bool // its elements are nobody's business but their writer's
	bulk     bool // its elements are written with ChangeElements; foreign is true, too
	ahead    bool // see kernel.Set
	elements map[elementKey]elementValue
}

// setSpec is everything about a set but its elements.
type setSpec struct {
	flags    uint32 // NFT_SET_*
	keyType  uint32 // nft's number of the data type; concatenations have 6 bits for each part
	keyLen   uint32
	dataType uint32
	dataLen  uint32 // 0 for verdicts
	size     uint32
	fields   string // sizes of a concatenation's parts, one byte each, when they are ranges
	expr     string // name of the expression that elements bear; ours have "counter" or none
	userData string // what nft stores for its listing: byte order and comment
}

// sameShape reports whether a set of spec s can stand for one of spec o. A comment alone does not count: it cannot be changed on a
// set that is there, and is not worth making it again.
func (s setSpec) sameShape(o setSpec) bool {
	s.userData = o.userData
	return s == o
}

// compatible reports whether a set of spec s can take the elements of one of spec o. Elements that have a time to live are not
// taken along. What elements have counted is not, either: they begin anew.
func (s setSpec) compatible(o setSpec) bool {
	s.size, s.expr = o.size, o.expr
	return s.flags&unix.NFT_SET_TIMEOUT == 0 && s.sameShape(o)
}

// elementKey is the range [from, to] in network form, both ends inclusive. The zero value is the element for every key that no other
// element is for, which nft writes as `*`: never one of ours, but somebody may have added it.
type elementKey struct{ from, to string }

func (k elementKey) catchAll() bool { return k == elementKey{} }

// elementValue is what an element maps to: data, or a verdict with its chain.
type elementValue struct {
	data    string
	verdict int32 // NFT_JUMP, NF_ACCEPT...; counts in a verdict map only
	chain   string
	comment string
}

// chain is a chain with its rules in order.
type chain struct {
	chainSpec
	rules []rule
}

// chainSpec is everything about a chain but its rules. Hook and what follows it count for a base chain only.
type chainSpec struct {
	base     bool
	hook     uint32
	priority int32
	kind     string
	policy   uint32
	userData string // comment
}

// sameHook reports whether the one can be changed into the other while it is hooked into the packet path.
func (c chainSpec) sameHook(o chainSpec) bool {
	c.policy, c.userData = o.policy, o.userData
	return c == o
}

// rule is one rule. canonical and userData decide whether two rules are equal; raw is what is sent.
type rule struct {
	raw       []byte // NFTA_RULE_EXPRESSIONS
	canonical string
	userData  string // comment
}

func (r rule) equal(o rule) bool { return r.canonical == o.canonical && r.userData == o.userData }

// families maps the vocabulary to NFPROTO_*.
var families = [...]uint8{
	kernel.FamilyInet:   unix.NFPROTO_INET,
	kernel.FamilyIPv4:   unix.NFPROTO_IPV4,
	kernel.FamilyIPv6:   unix.NFPROTO_IPV6,
	kernel.FamilyBridge: unix.NFPROTO_BRIDGE,
}
