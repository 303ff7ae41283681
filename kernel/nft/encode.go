package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

const (
	// Of include/uapi/linux/netfilter/nf_tables.h, where package unix lacks them.
	setConcat         = 0x80 // NFT_SET_CONCAT
	nftaChainUserData = 12   // NFTA_CHAIN_USERDATA
	nftaSetDescConcat = 2    // NFTA_SET_DESC_CONCAT
	nftaSetFieldLen   = 1    // NFTA_SET_FIELD_LEN
	nftaSetElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END

	nftaSetExpr        = 17 // NFTA_SET_EXPR
	nftaSetExpressions = 18 // NFTA_SET_EXPRESSIONS

	exprCounter = "counter"

	nftSetElemCatchAll = 2 // NFT_SET_ELEM_CATCHALL

	maxComment = 127 // bytes that fit user data's one-byte length beside nft's limit of 128 with the NUL

	// Types in the user data of sets, which only nft reads (libnftnl, include/udata.h).
	udataKeyByteOrder  = 0
	udataDataByteOrder = 1
	udataSetComment    = 7
	udataComment       = 0 // of rules, chains and elements

	byteOrderHost = 1
	byteOrderBig  = 2

	// Verdicts of include/uapi/linux/netfilter.h.
	nfDrop   = 0
	nfAccept = 1
)

var (
	hooks = map[string]uint32{
		"prerouting":  unix.NF_INET_PRE_ROUTING,
		"input":       unix.NF_INET_LOCAL_IN,
		"forward":     unix.NF_INET_FORWARD,
		"output":      unix.NF_INET_LOCAL_OUT,
		"postrouting": unix.NF_INET_POST_ROUTING,
	}

	errComment = errors.New("comment is longer than 127 bytes")
)

// encode turns a table into its image. An error names what the kernel could not have been told.
func encode(t kernel.Table) (*image, error) {
	if int(t.Family) >= len(families) {
		return nil, fmt.Errorf("table %s: unknown family %d", t.Name, t.Family)
	}
	scope := ruleScope{family: families[t.Family], intervals: make(map[string]bool)}
	img := &image{exists: true, sets: make(map[string]*set), chains: make(map[string]*chain)}
	for _, s := range t.Sets {
		if img.sets[s.Name] != nil {
			return nil, fmt.Errorf("table %s: set %s is given twice", t.Name, s.Name)
		}
		encoded, err := encodeSet(s)
		if err != nil {
			return nil, fmt.Errorf("table %s: set %s: %w", t.Name, s.Name, err)
		}
		img.sets[s.Name] = encoded
		scope.intervals[s.Name] = s.Interval
	}
	for _, c := range t.Chains {
		if img.chains[c.Name] != nil {
			return nil, fmt.Errorf("table %s: chain %s is given twice", t.Name, c.Name)
		}
		encoded, err := encodeChain(scope, c)
		if err != nil {
			return nil, fmt.Errorf("table %s: chain %s: %w", t.Name, c.Name, err)
		}
		img.chains[c.Name] = encoded
	}
	return img, nil
}

func encodeChain(scope ruleScope, c kernel.Chain) (*chain, error) {
	encoded := &chain{}
	if c.Hook != nil {
		hook, ok := hooks[c.Hook.Hook]
		if !ok {
			return nil, fmt.Errorf("unknown hook %q", c.Hook.Hook)
		}
		encoded.chainSpec = chainSpec{base: true, hook: hook, priority: int32(c.Hook.Priority), kind: c.Hook.Type, policy: nfAccept}
		if c.Hook.Drop {
			encoded.policy = nfDrop
		}
	}
	var err error
	if encoded.userData, err = comment(udataComment, c.Comment); err != nil {
		return nil, err
	}
	for i, r := range c.Rules {
		encodedRule, err := encodeRule(scope, r)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		encoded.rules = append(encoded.rules, encodedRule)
	}
	return encoded, nil
}

func encodeSet(s kernel.Set) (*set, error) {
	if err := checkSet(s); err != nil {
		return nil, err
	}
	encoded := &set{foreign: s.Foreign || s.Dynamic || s.Bulk, bulk: s.Bulk, ahead: s.Ahead, elements: make(map[elementKey]elementValue, len(s.Elements))}
	spec := &encoded.setSpec
	spec.size = s.Size
	spec.keyType, spec.keyLen = concatenation(s.Key)
	if s.Interval {
		spec.flags |= unix.NFT_SET_INTERVAL
	}
	if s.Dynamic {
		spec.flags |= unix.NFT_SET_EVAL
	}
	if s.Timeout {
		spec.flags |= unix.NFT_SET_TIMEOUT
	}
	if s.Counted {
		spec.expr = exprCounter
	}
	if s.Interval && len(s.Key) > 1 {
		spec.flags |= setConcat
		for _, t := range s.Key {
			spec.fields += string([]byte{byte(types[t].size)})
		}
	}
	user := udata(udataKeyByteOrder, nativeUint32(byteOrder(s.Key, s.Interval)))
	if len(s.Value) > 0 {
		spec.flags |= unix.NFT_SET_MAP
		if s.Value[0] == kernel.TypeVerdict {
			spec.dataType = unix.NFT_DATA_VERDICT
		} else {
			spec.dataType, spec.dataLen = concatenation(s.Value)
		}
		user += udata(udataDataByteOrder, nativeUint32(byteOrder(s.Value, false)))
	}
	setComment, err := comment(udataSetComment, s.Comment)
	if err != nil {
		return nil, err
	}
	spec.userData = user + setComment + typeOf(s)
	for i, e := range s.Elements {
		key, value, err := encodeElement(s, e)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i+1, err)
		}
		if old, twice := encoded.elements[key]; twice && old != value {
			return nil, fmt.Errorf("element %d: its key is given twice with different values", i+1)
		}
		encoded.elements[key] = value
	}
	return encoded, nil
}

// checkSet refuses what the kernel would refuse with no word about it, or take for something else.
func checkSet(s kernel.Set) error {
	verdicts := slices.Equal(s.Value, []kernel.Type{kernel.TypeVerdict})
	switch {
	case s.Interval && slices.Contains(s.Key, kernel.TypeIfname):
		return errors.New("ranges of interface names have no order in the kernel")
	case s.Dynamic && (s.Size == 0 || s.Interval || verdicts):
		return errors.New("a set that packets change has a size, no ranges and no verdicts")
	case s.Bulk && (s.Interval || verdicts || s.Dynamic || s.Foreign || len(s.Elements) > 0):
		return errors.New("a bulk set has one writer, who gives it its elements elsewhere: keys without ranges, values without verdicts")
	}
	return nil
}

func encodeElement(s kernel.Set, e kernel.Element) (elementKey, elementValue, error) {
	var key elementKey
	var value elementValue
	from, to, err := encodeKey(s, e.Key)
	if err != nil {
		return key, value, fmt.Errorf("key: %w", err)
	}
	if e.KeyEnd != nil {
		if _, to, err = encodeKey(s, e.KeyEnd); err != nil {
			return key, value, fmt.Errorf("end of key: %w", err)
		}
	}
	if from > to {
		return key, value, errors.New("key is a range that ends before it starts")
	}
	if from != to && !s.Interval {
		return key, value, errors.New("key is a range, and the set holds none")
	}
	key = elementKey{from, to}
	if value.comment, err = comment(udataComment, e.Comment); err != nil {
		return key, value, err
	}
	if !slices.Equal(s.Value, []kernel.Type{kernel.TypeVerdict}) {
		value.data, _, err = encodeData(s.Value, e.Value)
		if err != nil {
			err = fmt.Errorf("value: %w", err)
		}
		return key, value, err
	}
	if len(e.Value) != 1 || e.Value[0].Verdict == nil {
		return key, value, errors.New("value: want one verdict")
	}
	value.verdict, err = verdictCode(*e.Value[0].Verdict)
	value.chain = e.Value[0].Verdict.Chain
	return key, value, err
}

// udata encodes one item of user data: type, length, value.
func udata(typ byte, value string) string { return string([]byte{typ, byte(len(value))}) + value }

// comment encodes a comment as user data, none as nothing.
func comment(typ byte, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if len(text) > maxComment {
		return "", errComment
	}
	return udata(typ, text+"\x00"), nil
}

// commentOf reads a comment back.
func commentOf(userData string, typ byte) string {
	for len(userData) >= 2 {
		size := min(int(userData[1]), len(userData)-2)
		if userData[0] == typ {
			return nfnl.Attr{Value: []byte(userData[2 : 2+size])}.String()
		}
		userData = userData[2+size:]
	}
	return ""
}
