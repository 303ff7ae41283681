package nft

import (
	"hash/maphash"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// TestEncodeErrors has tables that the kernel could not be told, or that it would understand in another way than they are meant.
func TestEncodeErrors(t *testing.T) {
	type types = []kernel.Type
	set := func(s kernel.Set) func(*kernel.Table) {
		s.Name = "s"
		return func(t *kernel.Table) { t.Sets = append(t.Sets, s) }
	}
	rule := func(x kernel.Expr) func(*kernel.Table) {
		return func(t *kernel.Table) { t.Chains[0].Rules = []kernel.Rule{{Exprs: []kernel.Expr{x}}} }
	}
	ip4 := types{kernel.TypeIPv4Addr}
	tests := []struct {
		name   string
		change func(*kernel.Table)
		want   string
	}{
		{"family", func(t *kernel.Table) { t.Family = 99 }, "table twill-test: unknown family 99"},
		{"hook", func(t *kernel.Table) { t.Chains[1].Hook.Hook = "ingress" }, `chain pre: unknown hook "ingress"`},
		{"two sets of one name", func(t *kernel.Table) { t.Sets[1].Name = "net4" }, "set net4 is given twice"},
		{"two chains of one name", func(t *kernel.Table) { t.Chains[1].Name = "sub" }, "chain sub is given twice"},
		{"long comment", func(t *kernel.Table) { t.Chains[0].Comment = strings.Repeat("x", 128) }, "chain sub: comment is longer than 127 bytes"},
		{"family of address", set(kernel.Set{Key: ip4, Elements: []kernel.Element{elem(addr("fd00::1"))}}), "set s: element 1: key: want an address of 32 bits"},
		{"no address", set(kernel.Set{Key: ip4, Elements: []kernel.Element{elem(kernel.Datum{})}}), "want an address of 32 bits"},
		{"zone", set(kernel.Set{Key: types{kernel.TypeIPv6Addr}, Elements: []kernel.Element{elem(addr("fe80::1%eth0"))}}), "want an address of 128 bits"},
		{"prefix in a set without ranges", set(kernel.Set{Key: ip4, Elements: []kernel.Element{elem(prefix("10.0.0.0/8"))}}), "key is a range, and the set holds none"},
		{"backwards", set(kernel.Set{Key: ip4, Interval: true, Elements: []kernel.Element{
			{Key: []kernel.Datum{addr("10.0.0.2")}, KeyEnd: []kernel.Datum{addr("10.0.0.1")}}}}), "ends before it starts"},
		{"ranges of names", set(kernel.Set{Key: types{kernel.TypeIfname}, Interval: true}), "no order in the kernel"},
		{"parts", set(kernel.Set{Key: ip4, Elements: []kernel.Element{elem(addr("10.0.0.1"), number(1))}}), "want 1 parts, have 2"},
		{"port", set(kernel.Set{Key: types{kernel.TypeInetService}, Elements: []kernel.Element{elem(number(65536))}}), "number 65536 does not fit 2 bytes"},
		{"protocol", set(kernel.Set{Key: types{kernel.TypeInetProto}, Elements: []kernel.Element{elem(number(256))}}), "number 256 does not fit 1 bytes"},
		{"interface", set(kernel.Set{Key: types{kernel.TypeIfname}, Elements: []kernel.Element{elem(ifname("0123456789abcdef"))}}), "want an interface name of 1 to 15 bytes"},
		{"verdict as key", set(kernel.Set{Key: types{kernel.TypeVerdict}, Elements: []kernel.Element{elem(kernel.Datum{})}}), "cannot be part of a key"},
		{"map without value", set(kernel.Set{Key: ip4, Value: ip4, Elements: []kernel.Element{elem(addr("10.0.0.1"))}}), "value: want 1 parts, have 0"},
		{"verdict map without verdict", set(kernel.Set{Key: ip4, Value: types{kernel.TypeVerdict}, Elements: []kernel.Element{elem(addr("10.0.0.1"))}}), "value: want one verdict"},
		{"one key, two values", set(kernel.Set{Key: ip4, Value: ip4, Elements: []kernel.Element{
			{Key: []kernel.Datum{addr("10.0.0.1")}, Value: []kernel.Datum{addr("10.0.0.2")}},
			{Key: []kernel.Datum{addr("10.0.0.1")}, Value: []kernel.Datum{addr("10.0.0.3")}}}}), "given twice with different values"},
		{"field", rule(kernel.Compare{Field: 99}), "chain sub: rule 1: expression 1: unknown field 99"},
		{"field of lookup", rule(kernel.Lookup{Fields: []kernel.Operand{kernel.Field(99)}, Set: "net4"}), "unknown field 99"},
		{"no fields", rule(kernel.Lookup{Set: "net4"}), "nothing to look up"},
		{"too many fields", rule(kernel.Lookup{Set: "net4", Fields: []kernel.Operand{
			kernel.FieldIIFName, kernel.FieldOIFName, kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, kernel.FieldDport}}), "longer than the kernel's registers"},
		{"mask of a port", rule(kernel.Compare{Field: kernel.FieldDport, Mask: 1, Value: number(1)}), "can be masked"},
		{"verdict", rule(kernel.Verdict{Kind: "reject"}), `unknown verdict "reject"`},
		{"jump nowhere", rule(kernel.Verdict{Kind: kernel.Jump}), `verdict jump with chain ""`},
		{"drop somewhere", rule(kernel.Verdict{Kind: kernel.Drop, Chain: "sub"}), `verdict drop with chain "sub"`},
		{"modulus", rule(kernel.SetPriority{Fields: []kernel.Operand{kernel.Numgen{}}}), "numgen: modulus is 0"},
		{"offset", rule(kernel.SetPriority{Fields: []kernel.Operand{kernel.Hash{Fields: []kernel.Field{kernel.FieldMark}, Modulus: 2, Offset: 1<<32 - 1}}}),
			"hash: offset 4294967295 and modulus 2 exceed 32 bits"},
		{"nothing to hash", rule(kernel.SetPriority{Fields: []kernel.Operand{kernel.Hash{Modulus: 2}}}), "nothing to hash"},
		{"long priority", rule(kernel.SetPriority{Fields: []kernel.Operand{kernel.FieldIP6Saddr}}), "one value of 4 bytes"},
		{"timeout", rule(kernel.Update{Set: "s", Key: []kernel.Operand{kernel.FieldMark}, Timeout: time.Millisecond}), "timeout 1ms is no multiple of 20ms"},
		{"long value", rule(kernel.Delete{Set: "s", Key: []kernel.Operand{kernel.FieldIP6Saddr, kernel.FieldIP6Daddr, kernel.FieldIIFName},
			Value: []kernel.Operand{kernel.FieldIP6Saddr, kernel.FieldMark}}), "longer than the kernel's registers"},
		{"dynamic without size", set(kernel.Set{Key: ip4, Dynamic: true}), "a set that packets change has a size"},
		{"bulk with elements", set(kernel.Set{Key: ip4, Bulk: true, Elements: []kernel.Element{elem(addr("10.0.0.1"))}}), "a bulk set has one writer"},
		{"limit without burst", rule(kernel.Limit{Rate: 10}), "a limit has a rate and a burst"},
		{"limit without rate", rule(kernel.Limit{Burst: 10}), "a limit has a rate and a burst"},
		{"long log prefix", rule(kernel.Log{Prefix: strings.Repeat("x", 128)}), "want a log prefix of at most 127 bytes"},
		{"NUL in log prefix", rule(kernel.Log{Prefix: "a\x00b"}), "without NUL"},
		{"no expression", rule(nil), "unknown expression <nil>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := everything()
			tt.change(&table)
			_, err := encode(table)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("have error %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestNextAndPrevious(t *testing.T) {
	tests := []struct{ key, next string }{
		{"\x00\x00", "\x00\x01"},
		{"\x00\xff", "\x01\x00"},
		{"\x12\x34", "\x12\x35"},
		{"\xff\xfe", "\xff\xff"},
	}
	for _, tt := range tests {
		if got, ok := next(tt.key); got != tt.next || !ok {
			t.Errorf("next(%x) = %x, %v", tt.key, got, ok)
		}
		if got := previous(tt.next); got != tt.key {
			t.Errorf("previous(%x) = %x", tt.next, got)
		}
	}
	if got, ok := next("\xff\xff"); ok {
		t.Errorf("next(ffff) = %x", got)
	}
}

func FuzzCanonicalRule(f *testing.F) {
	img, err := encode(everything())
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range img.chains {
		for _, r := range c.rules {
			f.Add(r.raw)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		one, err := canonicalRule(b)
		two, errTwo := canonicalRule(b)
		if one != two || (err == nil) != (errTwo == nil) {
			t.Errorf("%q, %v and %q, %v of the same bytes", one, err, two, errTwo)
		}
	})
}

func FuzzDecodeListing(f *testing.F) {
	img, err := encode(everything())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range plan(tableID{1, "twill-test"}, &image{}, img) {
		f.Add([]byte(s.message.Attrs))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		// Nothing of what a listing may hold may crash a reader.
		_, spec, _ := decodeSetSpec(b)
		element, err := decodeBoundary(b)
		if err != nil {
			return
		}
		for key := range ranges([]boundary{element, {key: element.keyEnd, end: true}}) {
			shape, err := spec.shape()
			if err == nil {
				_, _ = decodeElement(shape, key, element.value)
			}
		}
		_, _, _ = decodeRuleCount(b)
		_ = commentOf(element.value.comment, udataComment)
	})
}

func FuzzDecodeEntries(f *testing.F) {
	for i := range 3 {
		var list nfnl.Attrs
		list.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *nfnl.Attrs) {
			for j := range i {
				*a = appendEntry(*a, endpoint(j, 80))
			}
			*a = appendEntry(*a, kernel.Entry{})
		})
		f.Add([]byte(list))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var entries, states int
		var seen keyHashes
		seen.seed = maphash.MakeSeed()
		reader := entryReader{each: func(kernel.Entry) { entries++ }, seen: &seen}
		errEntries := reader.message(nfnl.Message{Attrs: b})
		errStates := eachElement(nfnl.Message{Attrs: b}, func(element []byte) error {
			_, err := decodeState(element)
			states++
			return err
		})
		if errEntries == nil && errStates == nil && entries != states {
			t.Errorf("%d entries and %d states in the same message", entries, states)
		}
		_ = seen.distinct()
	})
}
