package nfnl

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAttrsRoundTrip(t *testing.T) {
	var a Attrs
	a.Uint32(1, 0x01020304)
	a.String(2, "twill")
	a.Bytes(3, []byte{1, 2, 3, 4, 5})
	a.Uint16(4, 53)
	a.Nest(5, func(a *Attrs) {
		a.String(1, "")
		a.Nest(2, func(*Attrs) {})
	})
	if len(a)%4 != 0 {
		t.Errorf("%d bytes: attributes are not aligned", len(a))
	}
	got, err := Parse(a)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint16]Attr{
		1: {1, []byte{1, 2, 3, 4}},
		2: {2, []byte("twill\x00")},
		3: {3, []byte{1, 2, 3, 4, 5}},
		4: {4, []byte{0, 53}},
		5: {5, got[5].Value},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n, s := got[1].Uint32(), got[2].String(); n != 0x01020304 || s != "twill" {
		t.Errorf("read %x and %q", n, s)
	}
	inner, err := Parse(got[5].Value)
	if err != nil {
		t.Fatal(err)
	}
	if len(inner) != 2 || inner[1].String() != "" || len(inner[2].Value) != 0 {
		t.Errorf("nested attributes are %v", inner)
	}
	if missing := got[9]; missing.Uint32() != 0 || missing.String() != "" {
		t.Error("a missing attribute does not read as nothing")
	}
}

func TestMalformedAttributes(t *testing.T) {
	tests := map[string][]byte{
		"half a header":        {4, 0},
		"shorter than itself":  {3, 0, 1, 0},
		"longer than there is": {9, 0, 1, 0, 1, 2, 3, 4},
		"good, then bad":       {4, 0, 1, 0, 1},
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("have %v, want %v", err, ErrMalformed)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	var a Attrs
	a.Nest(1, func(a *Attrs) { a.String(2, "x") })
	f.Add([]byte(a))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for attr, err := range Each(b) {
			if err != nil {
				return
			}
			total += attrHeader + len(attr.Value)
			_, _ = attr.Uint32(), attr.String()
		}
		if total > len(b) {
			t.Errorf("%d bytes of attributes in %d bytes", total, len(b))
		}
	})
}

func FuzzMessages(f *testing.F) {
	var s Socket
	f.Add(s.append(s.append(nil, Message{Type: 1}, 1, 0), Message{Type: 2, Attrs: Attrs{1, 2, 3}}, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, payload := range messages(b) {
			total += headerSize + len(payload)
			_ = errorOf(payload)
		}
		if total > len(b) {
			t.Errorf("%d bytes of messages in %d bytes", total, len(b))
		}
	})
}
