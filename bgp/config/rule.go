package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/twill-cni/twill/bgp"
)

// maxPrepend is more than any network needs; longer paths are refused by many.
const maxPrepend = 64

// rule reads an element of import or export.
func rule(to *bgp.Rule, export bool) func(value) {
	return func(v value) {
		var action string
		fields := []field{
			{"prefixes", listOf(&to.Prefixes, prefixMatch)},
			{"communities", listOf(&to.Communities, community)},
			{"largeCommunities", listOf(&to.LargeCommunities, largeCommunity)},
			{"asPath", listOf(&to.ASPath, asPath)},
			{"action", word(&action, "accept", "reject")},
			{"set", ruleChange(to)},
		}
		if export {
			fields = append(fields, field{"originated", boolean(&to.Originated)}, field{"external", boolean(&to.External)})
		}
		has := v.object(fields...)
		v.need(has, "action", "accept or reject")
		for _, key := range []string{"prefixes", "communities", "largeCommunities", "asPath"} {
			if all, ok := v.v.(map[string]any); ok && has[key] {
				if list, ok := all[key].([]any); ok && len(list) == 0 {
					v.at(key, nil).fail("the list is empty; want an element in it, or no list to match everything")
				}
			}
		}
		if to.Originated && to.External {
			v.at("external", true).fail("have it beside originated, which nothing meets; want one of them")
		}
		to.Reject = action == "reject"
		if to.Reject && has["set"] {
			v.at("set", nil).fail("what is rejected cannot be changed; want none, or action: accept")
		}
	}
}

// ruleChange reads what a rule sets. Unlike those of an announcement, its zeros mean something.
func ruleChange(to *bgp.Rule) func(value) {
	return func(v value) {
		v.object(
			field{"communities", listOf(&to.AddCommunities, community)},
			field{"largeCommunities", listOf(&to.AddLargeCommunities, largeCommunity)},
			field{"localPref", pointer(&to.LocalPref, anyNumber)},
			field{"med", pointer(&to.MED, anyNumber)},
			field{"prepend", number(&to.Prepend, 1, maxPrepend)},
		)
	}
}

func attributes(to *Attributes) func(value) {
	return func(v value) { v.object(to.fields()...) }
}

func (a *Attributes) fields() []field {
	return []field{
		{"communities", listOf(&a.Communities, community)},
		{"largeCommunities", listOf(&a.LargeCommunities, largeCommunity)},
		{"localPref", number(&a.LocalPref, 1, 1<<32-1)},
		{"med", pointer(&a.MED, anyNumber)},
		{"prepend", number(&a.Prepend, 1, maxPrepend)},
	}
}

// prefixMatch reads "10.0.0.0/8", which is that prefix alone, or "10.0.0.0/8 ge 16 le 24", which is all within it of these
// lengths. Without le, ge goes up to the longest.
func prefixMatch(to *bgp.PrefixMatch) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		m, err := parsePrefixMatch(s)
		if err != nil {
			v.fail("have %s, %v", v.text(), err)
			return
		}
		*to = m
	}
}

func parsePrefixMatch(s string) (m bgp.PrefixMatch, err error) {
	words := strings.Fields(s)
	if len(words) == 0 || len(words)%2 == 0 {
		return m, fmt.Errorf(`want a prefix and lengths such as "10.0.0.0/8 ge 16 le 24"`)
	}
	if m.Prefix, err = netip.ParsePrefix(words[0]); err != nil || m.Prefix.Addr().Is4In6() {
		return m, fmt.Errorf("want a prefix such as 10.0.0.0/8 at first")
	}
	if m.Prefix != m.Prefix.Masked() {
		return m, fmt.Errorf("want %s, or a longer prefix: it has bits beyond its length", m.Prefix.Masked())
	}
	longest := m.Prefix.Addr().BitLen()
	m.Min, m.Max = m.Prefix.Bits(), m.Prefix.Bits()
	seen := map[string]bool{}
	for i := 1; i < len(words); i += 2 {
		n, err := strconv.Atoi(words[i+1])
		switch bound := words[i]; {
		case bound != "ge" && bound != "le" || seen[bound]:
			return m, fmt.Errorf("want ge and le at most once each after the prefix")
		case err != nil || n < m.Prefix.Bits() || n > longest:
			return m, fmt.Errorf("want a length from %d to %d after %s", m.Prefix.Bits(), longest, bound)
		case bound == "ge":
			m.Min = n
		default:
			m.Max = n
		}
		seen[words[i]] = true
	}
	if seen["ge"] && !seen["le"] {
		m.Max = longest
	}
	if m.Min > m.Max {
		return m, fmt.Errorf("want ge to be no more than le")
	}
	return m, nil
}

// wellKnown are communities that have names (RFC 1997, 3765, 7999, 8326).
var wellKnown = map[string]bgp.Community{
	"graceful-shutdown":   0xffff0000,
	"blackhole":           0xffff029a,
	"no-export":           0xffffff01,
	"no-advertise":        0xffffff02,
	"no-export-subconfed": 0xffffff03,
	"no-peer":             0xffffff04,
}

func community(to *bgp.Community) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		if c, ok := wellKnown[s]; ok {
			*to = c
			return
		}
		parts, ok := integers(s, 2, 16)
		if !ok {
			v.want(`a community such as "64512:100", with numbers up to 65535, or a name such as no-export`)
			return
		}
		*to = bgp.Community(parts[0]<<16 | parts[1])
	}
}

func largeCommunity(to *bgp.LargeCommunity) func(value) {
	return func(v value) {
		s, _ := v.v.(string)
		parts, ok := integers(s, 3, 32)
		if !ok {
			v.want(`a large community such as "64512:1:100", with numbers up to 4294967295`)
			return
		}
		*to = bgp.LargeCommunity{Global: parts[0], Local1: parts[1], Local2: parts[2]}
	}
}

// integers reads n numbers of that many bits, divided by colons.
func integers(s string, n, bits int) ([]uint32, bool) {
	words := strings.Split(s, ":")
	if len(words) != n {
		return nil, false
	}
	numbers := make([]uint32, n)
	for i, w := range words {
		number, err := strconv.ParseUint(w, 10, bits)
		if err != nil {
			return nil, false
		}
		numbers[i] = uint32(number)
	}
	return numbers, true
}

// asPath reads a regular expression in which an underscore stands for the space between two numbers or for either end.
func asPath(to *string) func(value) {
	return func(v value) {
		s, ok := v.v.(string)
		if _, err := regexp.Compile(s); !ok || s == "" || err != nil {
			v.want(`a regular expression over a path such as "65001 65002", such as "^65001_"`)
			return
		}
		*to = s
	}
}
