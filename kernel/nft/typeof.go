package nft

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// nft has a name for most types, but none for a plain number: it describes a set that has one by expressions of its parts' types (`typeof
// ip daddr . numgen inc mod 2`), which it keeps in the set's user data. Without them it could list such a set, and not read its own listing.
// Numbers are nft's (include/expression.h, include/proto.h); the kernel never looks at them.
const (
	udataKeyTypeOf  = 3 // NFTNL_UDATA_SET_KEY_TYPEOF
	udataDataTypeOf = 4 // NFTNL_UDATA_SET_DATA_TYPEOF

	exprPayload = 7
	exprMeta    = 9
	exprConcat  = 13
	exprNumgen  = 23

	protoTransport = 11
	protoIPv4      = 12
	protoIPv6      = 13
)

// typeOf returns user data that describes key and value, for a set that needs it.
func typeOf(s kernel.Set) string {
	if !slices.Contains(s.Key, kernel.TypeNumber) && !slices.Contains(s.Value, kernel.TypeNumber) {
		return ""
	}
	user := udata(udataKeyTypeOf, typeOfParts(s.Key))
	if len(s.Value) > 0 && s.Value[0] != kernel.TypeVerdict {
		user += udata(udataDataTypeOf, typeOfParts(s.Value))
	}
	return user
}

func typeOfParts(parts []kernel.Type) string {
	if len(parts) == 1 {
		return typeOfPart(parts[0])
	}
	list := ""
	for i, t := range parts {
		list += udata(byte(i), typeOfPart(t))
	}
	return typeOfExpr(exprConcat, list)
}

func typeOfPart(t kernel.Type) string {
	switch t {
	case kernel.TypeIPv4Addr:
		return typeOfExpr(exprPayload, numbers(protoIPv4, 12)) // daddr
	case kernel.TypeIPv6Addr:
		return typeOfExpr(exprPayload, numbers(protoIPv6, 9)) // daddr
	case kernel.TypeInetService:
		return typeOfExpr(exprPayload, numbers(protoTransport, 2)) // dport
	case kernel.TypeInetProto:
		return typeOfExpr(exprMeta, numbers(unix.NFT_META_L4PROTO))
	case kernel.TypeMark:
		return typeOfExpr(exprMeta, numbers(unix.NFT_META_MARK))
	case kernel.TypePriority:
		return typeOfExpr(exprMeta, numbers(unix.NFT_META_PRIORITY))
	case kernel.TypeIfname:
		return typeOfExpr(exprMeta, numbers(unix.NFT_META_IIFNAME))
	}
	return typeOfExpr(exprNumgen, numbers(unix.NFT_NG_INCREMENTAL, 2, 0)) // modulus 2
}

func typeOfExpr(kind uint32, data string) string {
	return udata(0, nativeUint32(kind)) + udata(1, data)
}

// numbers encodes what describes one expression.
func numbers(values ...uint32) string {
	out := ""
	for i, v := range values {
		out += udata(byte(i), nativeUint32(v))
	}
	return out
}
