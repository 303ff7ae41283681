package nft

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// field is where a packet's property comes from.
type field struct {
	load     expr.Any // without its register
	size     int      // bytes
	host     bool     // in host byte order
	version  uint32   // NFPROTO_* of the packets that have it; 0 for all
	protocol uint8    // IPPROTO_* of the packets that have it; 0 for all
	addr     bool     // compared with an address or prefix
	name     bool     // compared with an interface name
}

var fields = [...]field{
	kernel.FieldNFProto:      {load: &expr.Meta{Key: expr.MetaKeyNFPROTO}, size: 1},
	kernel.FieldL4Proto:      {load: &expr.Meta{Key: expr.MetaKeyL4PROTO}, size: 1},
	kernel.FieldIIFName:      {load: &expr.Meta{Key: expr.MetaKeyIIFNAME}, size: unix.IFNAMSIZ, name: true},
	kernel.FieldOIFName:      {load: &expr.Meta{Key: expr.MetaKeyOIFNAME}, size: unix.IFNAMSIZ, name: true},
	kernel.FieldMark:         {load: &expr.Meta{Key: expr.MetaKeyMARK}, size: 4, host: true},
	kernel.FieldIPSaddr:      {load: network(12, 4), size: 4, version: unix.NFPROTO_IPV4, addr: true},
	kernel.FieldIPDaddr:      {load: network(16, 4), size: 4, version: unix.NFPROTO_IPV4, addr: true},
	kernel.FieldIP6Saddr:     {load: network(8, 16), size: 16, version: unix.NFPROTO_IPV6, addr: true},
	kernel.FieldIP6Daddr:     {load: network(24, 16), size: 16, version: unix.NFPROTO_IPV6, addr: true},
	kernel.FieldSport:        {load: transport(0, 2), size: 2},
	kernel.FieldDport:        {load: transport(2, 2), size: 2},
	kernel.FieldCTStatus:     {load: &expr.Ct{Key: expr.CtKeySTATUS}, size: 4, host: true},
	kernel.FieldCTState:      {load: &expr.Ct{Key: expr.CtKeySTATE}, size: 4, host: true},
	kernel.FieldCTDirection:  {load: &expr.Ct{Key: expr.CtKeyDIRECTION}, size: 1},
	kernel.FieldCTMark:       {load: &expr.Ct{Key: expr.CtKeyMARK}, size: 4, host: true},
	kernel.FieldFIBDaddrType: {load: &expr.Fib{FlagDADDR: true, ResultADDRTYPE: true}, size: 4, host: true},
	kernel.FieldFIBSaddrType: {load: &expr.Fib{FlagSADDR: true, ResultADDRTYPE: true}, size: 4, host: true},
	kernel.FieldPriority:     {load: &expr.Meta{Key: expr.MetaKeyPRIORITY}, size: 4, host: true},
	kernel.FieldICMPv6Type:   {load: transport(0, 1), size: 1, version: unix.NFPROTO_IPV6, protocol: unix.IPPROTO_ICMPV6},
}

func fieldOf(name kernel.Field) (field, error) {
	if int(name) >= len(fields) {
		return field{}, fmt.Errorf("unknown field %d", name)
	}
	return fields[name], nil
}

func network(offset, size uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

func transport(offset, size uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
}

// ruleScope is what a rule has to know of its table.
type ruleScope struct {
	family    uint8
	intervals map[string]bool // names of sets with ranges, whose keys are in network byte order
}

// ruleEncoder collects the kernel's expressions of one rule.
type ruleEncoder struct {
	ruleScope
	version  uint32 // IP version that the rule has already narrowed packets to
	protocol uint8  // likewise
	exprs    []expr.Any
}

func encodeRule(scope ruleScope, r kernel.Rule) (rule, error) {
	e := &ruleEncoder{ruleScope: scope}
	switch scope.family {
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		e.version = uint32(scope.family)
	}
	for i, x := range r.Exprs {
		if err := e.expr(x); err != nil {
			return rule{}, fmt.Errorf("expression %d: %w", i+1, err)
		}
	}
	var list nfnl.Attrs
	for _, x := range e.exprs {
		b, err := expr.Marshal(scope.family, x)
		if err != nil {
			return rule{}, fmt.Errorf("encode %T: %w", x, err)
		}
		list.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	}
	canonical, err := canonicalRule(list)
	if err != nil {
		return rule{}, err
	}
	userData, err := comment(udataComment, r.Comment)
	return rule{raw: list, canonical: canonical, userData: userData}, err
}

func (e *ruleEncoder) add(x ...expr.Any) { e.exprs = append(e.exprs, x...) }

func (e *ruleEncoder) expr(x kernel.Expr) error {
	switch x := x.(type) {
	case kernel.Compare:
		return e.compare(x)
	case kernel.Lookup:
		return e.lookup(x.Fields, &expr.Lookup{SetName: x.Set, Invert: x.Not})
	case kernel.VerdictMap:
		return e.lookup(x.Fields, &expr.Lookup{SetName: x.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
	case kernel.DNAT:
		return e.dnat(x)
	case kernel.Verdict:
		code, err := verdictCode(x)
		e.add(&expr.Verdict{Kind: expr.VerdictKind(code), Chain: x.Chain})
		return err
	case kernel.Masquerade:
		e.add(&expr.Masq{FullyRandom: x.FullyRandom})
	case kernel.SetMark:
		e.setMark(x)
	case kernel.SetPriority:
		return e.setPriority(x)
	case kernel.Update:
		return e.changeSet(change{dynsetUpdate, x.Set, x.Key, x.Value, x.Timeout})
	case kernel.Delete:
		return e.changeSet(change{dynsetDelete, x.Set, x.Key, x.Value, 0})
	case kernel.Reject:
		e.reject(x)
	case kernel.Counter:
		e.add(&expr.Counter{})
	case kernel.Limit:
		return e.limit(x)
	case kernel.Log:
		return e.log(x)
	default:
		return fmt.Errorf("unknown expression %T", x)
	}
	return nil
}

// compare emits what nft emits for the same comparison, so that nft recognises it and prints it well.
func (e *ruleEncoder) compare(c kernel.Compare) error {
	f, err := fieldOf(c.Field)
	if err != nil {
		return err
	}
	value, last, err := f.encode(c.Value)
	if err != nil {
		return err
	}
	mask := nativeUint32(c.Mask)
	switch {
	case f.addr:
		mask = prefixMask(value, last)
	case c.Mask != 0 && (f.size != 4 || !f.host):
		return errors.New("only marks, connection states and the like can be masked")
	}
	e.narrowToField(f)
	e.load(f, 0)
	op := expr.CmpOpEq
	if c.Not {
		op = expr.CmpOpNeq
	}
	zero := make([]byte, f.size)
	if f.addr && value != last || !f.addr && c.Mask != 0 {
		e.add(&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(f.size), Mask: []byte(mask), Xor: zero})
	}
	if !f.addr && bits.OnesCount32(c.Mask) == 1 && c.Value.Number == c.Mask {
		// "bit is set" as `nft` writes it: ct status dnat, ct state new.
		value, op = string(zero), expr.CmpOpNeq
		if c.Not {
			op = expr.CmpOpEq
		}
	}
	e.add(&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: []byte(value)})
	switch {
	case c.Not:
	case c.Field == kernel.FieldNFProto:
		e.version = c.Value.Number
	case c.Field == kernel.FieldL4Proto:
		e.protocol = uint8(c.Value.Number)
	}
	return nil
}

// encode encodes a value that the field is compared with.
func (f field) encode(d kernel.Datum) (value, last string, err error) {
	switch {
	case f.addr:
		return encodeAddr(d, f.size)
	case f.name:
		value, err = encodeIfname(d.Name)
	default:
		value, err = encodeNumber(d.Number, f.size, f.host)
	}
	return value, value, err
}

// prefixMask returns the mask of the prefix from first to last.
func prefixMask(first, last string) string {
	mask := make([]byte, len(first))
	for i := range mask {
		mask[i] = ^(first[i] ^ last[i])
	}
	return string(mask)
}

// narrowToField makes the rule match packets only that have the field.
func (e *ruleEncoder) narrowToField(f field) {
	e.narrow(f.version)
	if f.protocol == 0 || f.protocol == e.protocol {
		return
	}
	e.protocol = f.protocol
	e.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{f.protocol}})
}

// narrow makes the rule match packets of one IP version only, before a header of that version is looked at: only the version
// says where the header's fields are.
func (e *ruleEncoder) narrow(version uint32) {
	if version == 0 || version == e.version {
		return
	}
	e.version = version
	if e.family == unix.NFPROTO_BRIDGE {
		etherType := map[uint32]string{unix.NFPROTO_IPV4: "\x08\x00", unix.NFPROTO_IPV6: "\x86\xdd"}[version]
		e.add(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte(etherType)})
		return
	}
	e.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{byte(version)}})
}

// dnat looks up an address and a port and sends the connection there.
func (e *ruleEncoder) dnat(d kernel.DNAT) error {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register(0), RegProtoMin: register(1)}
	if d.V6 {
		nat.Family, nat.RegProtoMin = unix.NFPROTO_IPV6, register(4)
	}
	nat.RegAddrMax, nat.RegProtoMax = nat.RegAddrMin, nat.RegProtoMin // as the kernel lists it
	e.narrow(nat.Family)
	if err := e.lookup(d.Fields, &expr.Lookup{SetName: d.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_1}); err != nil {
		return err
	}
	e.add(nat)
	return nil
}

func (e *ruleEncoder) setMark(m kernel.SetMark) {
	if m.Mask == ^uint32(0) {
		e.add(&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte(nativeUint32(m.Value))})
	} else {
		// (mark & ^(Mask|Value)) ^ Value is (mark &^ Mask) | Value.
		e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
			&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
				Mask: []byte(nativeUint32(^(m.Mask | m.Value))), Xor: []byte(nativeUint32(m.Value))})
	}
	e.add(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
}

var verdicts = map[kernel.VerdictKind]expr.VerdictKind{
	kernel.Accept: expr.VerdictAccept,
	kernel.Drop:   expr.VerdictDrop,
	kernel.Return: expr.VerdictReturn,
	kernel.Jump:   expr.VerdictJump,
	kernel.Goto:   expr.VerdictGoto,
}

func verdictCode(v kernel.Verdict) (int32, error) {
	code, ok := verdicts[v.Kind]
	if !ok {
		return 0, fmt.Errorf("unknown verdict %q", v.Kind)
	}
	if (v.Kind == kernel.Jump || v.Kind == kernel.Goto) != (v.Chain != "") {
		return 0, fmt.Errorf("verdict %s with chain %q", v.Kind, v.Chain)
	}
	return int32(code), nil
}
