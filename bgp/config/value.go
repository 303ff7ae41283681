package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/bgp"
)

// problems collects what is wrong, so that all of it is told at once.
type problems struct{ errs []error }

func (p *problems) err() error { return errors.Join(p.errs...) }

// value is a part of the document, and where it stands.
type value struct {
	path string
	v    any // nil, bool, json.Number, string, []any or map[string]any
	p    *problems
}

func (v value) fail(format string, args ...any) {
	path := v.path
	if path == "" {
		path = "the document"
	}
	v.p.errs = append(v.p.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// want reports that the value is another than what is wanted.
func (v value) want(what string) { v.fail("have %s, want %s", v.text(), what) }

// text is how an error quotes the value.
func (v value) text() string {
	switch t := v.v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return strconv.Quote(clip(t))
	default:
		return clip(fmt.Sprint(t))
	}
}

func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// field is a key of an object and what reads its value.
type field struct {
	key  string
	read func(value)
}

// object hands the values of an object to their fields, in the order of the fields, and refuses other keys. It reports which keys
// are there. A null says nothing.
func (v value) object(fields ...field) (has map[string]bool) {
	has = map[string]bool{}
	if v.v == nil {
		return has
	}
	all, ok := v.v.(map[string]any)
	if !ok {
		v.want("an object with keys such as " + fields[0].key)
		return has
	}
	known := make([]string, 0, len(fields))
	for _, f := range fields {
		known = append(known, f.key)
		if inner, ok := all[f.key]; ok && inner != nil {
			has[f.key] = true
			f.read(v.at(f.key, inner))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(known, key) {
			v.at(clip(key), nil).fail("unknown key; known are %s", strings.Join(slices.Sorted(slices.Values(known)), ", "))
		}
	}
	return has
}

func (v value) at(key string, inner any) value {
	if v.path != "" {
		key = v.path + "." + key
	}
	return value{path: key, v: inner, p: v.p}
}

// list calls read with each element.
func (v value) list(read func(value)) {
	all, ok := v.v.([]any)
	if !ok {
		v.want("a list")
		return
	}
	for i, inner := range all {
		element := value{path: fmt.Sprintf("%s[%d]", v.path, i), v: inner, p: v.p}
		if inner == nil {
			element.want("an element")
			continue
		}
		read(element)
	}
}

// listOf appends what one reads of each element.
func listOf[T any](to *[]T, one func(*T) func(value)) func(value) {
	return func(v value) {
		v.list(func(inner value) {
			var t T
			one(&t)(inner)
			*to = append(*to, t)
		})
	}
}

// number reads an integer within bounds.
func number[T ~uint8 | ~uint16 | ~uint32](to *T, least, most uint64) func(value) {
	return func(v value) {
		n, ok := v.v.(json.Number)
		i, err := strconv.ParseUint(n.String(), 10, 64)
		if !ok || err != nil || i < least || i > most {
			v.want(fmt.Sprintf("an integer from %d to %d", least, most))
			return
		}
		*to = T(i)
	}
}

// pointer reads with one into a new T.
func pointer[T any](to **T, one func(*T) func(value)) func(value) {
	return func(v value) {
		*to = new(T)
		one(*to)(v)
	}
}

func anyNumber(to *uint32) func(value) { return number(to, 0, 1<<32-1) }

func boolean(to *bool) func(value) {
	return func(v value) {
		b, ok := v.v.(bool)
		if !ok {
			v.want("true or false")
			return
		}
		*to = b
	}
}

// word reads one of several words. YAML takes on and off for true and false.
func word[T ~string](to *T, words ...T) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		if b, ok := v.v.(bool); ok {
			s = map[bool]string{true: "on", false: "off"}[b]
		}
		if !slices.Contains(words, T(s)) {
			var all []string
			for _, w := range words {
				all = append(all, string(w))
			}
			v.want(strings.Join(all, " or "))
			return
		}
		*to = T(s)
	}
}

// duration reads a whole multiple of unit.
func duration(to *time.Duration, unit, least, most time.Duration) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most || d%unit != 0 {
			v.want(fmt.Sprintf("a duration from %s to %s in steps of %s, such as %q", least, most, unit, least.String()))
			return
		}
		*to = d
	}
}

// asn reads an AS number.
func asn(to *uint32) func(value) {
	return func(v value) {
		n, ok := v.v.(json.Number)
		i, err := strconv.ParseUint(n.String(), 10, 64)
		if !ok || err != nil {
			v.want("an AS number from 1 to 4294967294")
			return
		}
		if err := bgp.CheckAS(i); err != nil {
			v.fail("%v", err)
			return
		}
		*to = uint32(i)
	}
}

func text(to *string, what string, ok func(string) bool) func(value) {
	return func(v value) {
		s, isText := v.v.(string)
		if _, truth := v.v.(bool); truth {
			v.want(what + "; y, n, on and off need quotation marks, or YAML takes them for true and false")
			return
		}
		if !isText || !ok(s) {
			v.want(what)
			return
		}
		*to = s
	}
}

func routerID(to *netip.Addr) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		id, err := netip.ParseAddr(s)
		if err != nil || bgp.CheckRouterID(id) != nil {
			v.want(`an IPv4 address, not 0.0.0.0, such as "192.0.2.1"`)
			return
		}
		*to = id
	}
}

// address reads the unicast address of a host.
func address(to *netip.Addr) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "" {
			v.want("the IPv4 or IPv6 address of a host, with its zone if it is link-local")
			return
		}
		*to = a
	}
}

func prefix(to *netip.Prefix) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			v.want("a prefix such as 10.5.0.0/16")
		case p != p.Masked():
			v.want(fmt.Sprintf("%s, or a longer prefix: it has bits beyond its length", p.Masked()))
		default:
			*to = p
		}
	}
}
