package nft

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

// canonicalRule brings a rule's expressions (the content of NFTA_RULE_EXPRESSIONS) into a form in which a rule that was sent
// equals the same rule as the kernel lists it, and differs from any other:
//
//   - attributes are in order of their type, and attributes that hold others are taken apart by their meaning, since the
//     kernel lists some of them without NLA_F_NESTED
//   - a number that is zero is left out: zero and absent mean the same to the kernel, which lists many a default
//   - a counter's figures are left out, they are not part of what the rule does
//   - of NAT flags those are left out that the kernel sets by itself because an address and a port are given
func canonicalRule(expressions []byte) (string, error) {
	var out []byte
	for element, err := range nfnl.Each(expressions) {
		if err != nil {
			return "", err
		}
		e, err := nfnl.Parse(element.Value)
		if err != nil {
			return "", err
		}
		name := e[unix.NFTA_EXPR_NAME].String()
		out = appendString(out, name)
		if name == "counter" {
			continue
		}
		if out, err = appendAttrs(out, name, e[unix.NFTA_EXPR_DATA].Value); err != nil {
			return "", err
		}
	}
	return string(out), nil
}

// appendAttrs appends the attributes of one expression in canonical form.
func appendAttrs(out []byte, name string, b []byte) ([]byte, error) {
	var attrs []nfnl.Attr
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, a)
	}
	slices.SortStableFunc(attrs, func(x, y nfnl.Attr) int { return int(x.Type) - int(y.Type) })
	for _, a := range attrs {
		switch {
		case isData(name, a.Type):
			value, err := dataOf(a.Value)
			if err != nil {
				return nil, err
			}
			a.Value = value
		case name == "nat" && a.Type == unix.NFTA_NAT_FLAGS:
			const given = unix.NF_NAT_RANGE_MAP_IPS | unix.NF_NAT_RANGE_PROTO_SPECIFIED
			a.Value = binary.BigEndian.AppendUint32(nil, a.Uint32()&^given)
		}
		if !isData(name, a.Type) && isZero(a.Value) {
			continue
		}
		out = binary.BigEndian.AppendUint16(out, a.Type)
		out = appendString(out, string(a.Value))
	}
	return append(out, 0xff, 0xff), nil
}

// isZero reports whether an attribute is the number 0, of 8, 32 or 64 bits, or padding before one of 64 bits.
func isZero(value []byte) bool {
	switch len(value) {
	case 0, 1, 4, 8:
		return !slices.ContainsFunc(value, func(b byte) bool { return b != 0 })
	}
	return false
}

// isData reports whether an attribute holds struct-like data (NFTA_DATA_*).
func isData(name string, typ uint16) bool {
	switch name {
	case "cmp":
		return typ == unix.NFTA_CMP_DATA
	case "bitwise":
		return typ == unix.NFTA_BITWISE_MASK || typ == unix.NFTA_BITWISE_XOR
	case "immediate":
		return typ == unix.NFTA_IMMEDIATE_DATA
	}
	return false
}

// dataOf returns a value as 'v' and its bytes, a verdict as its letter, its code and its chain.
func dataOf(b []byte) ([]byte, error) {
	data, err := nfnl.Parse(b)
	if err != nil {
		return nil, err
	}
	verdict, isVerdict := data[unix.NFTA_DATA_VERDICT]
	if !isVerdict {
		return append([]byte{'v'}, data[unix.NFTA_DATA_VALUE].Value...), nil
	}
	code, chain, err := verdictOf(verdict)
	return append(binary.BigEndian.AppendUint32([]byte{'V'}, uint32(code)), chain...), err
}

// verdictOf reads NFTA_DATA_VERDICT.
func verdictOf(a nfnl.Attr) (code int32, chain string, err error) {
	v, err := nfnl.Parse(a.Value)
	if err != nil {
		return 0, "", err
	}
	return int32(v[unix.NFTA_VERDICT_CODE].Uint32()), v[unix.NFTA_VERDICT_CHAIN].String(), nil
}

func appendString(out []byte, s string) []byte {
	out = binary.BigEndian.AppendUint16(out, uint16(len(s)))
	return append(out, s...)
}
