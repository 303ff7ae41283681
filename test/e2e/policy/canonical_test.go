package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	counters = regexp.MustCompile(`counter packets \d+ bytes \d+`)
	elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	blanks   = regexp.MustCompile(`\s+`)
	sets     = regexp.MustCompile(`(?:map|set) (\S+) \{`)
	subjects = regexp.MustCompile(`chain (?:egress|ingress)-([0-9a-f]{8}) \{`)
)

// canonical is a table's listing without what packets change in it, with its elements and chains in order, and with the sentinel's policy under one name. The
// sentinel's number depends on that name, and so is left out; and so are pairs of classes that nobody has any more, which stay for a while, with their ports.
func canonical(listing, sentinel string) string {
	listing = counters.ReplaceAllString(listing, "counter")
	var numbers []string // of the sentinel, as they are in elements
	for block := range strings.SplitSeq(listing, "\n\n") {
		if m := subjects.FindStringSubmatch(block); m != nil && strings.Contains(block, sentinel) {
			n, err := strconv.ParseUint(m[1], 16, 32)
			if err != nil {
				panic(err) // eight digits
			}
			numbers = append(numbers, fmt.Sprintf("%d . ", n))
		}
	}
	nobodys := unused(listing)
	listing = replaceElements(listing, func(name string, list []string) string {
		list = slices.DeleteFunc(list, func(e string) bool {
			return strings.Contains(e, "sentinel/") || nobodys(name, e) || slices.ContainsFunc(numbers, func(n string) bool { return strings.HasPrefix(e, n) })
		})
		if len(list) == 0 {
			return ""
		}
		slices.Sort(list)
		return "elements\n" + strings.Join(list, "\n")
	})
	blocks := strings.Split(strings.TrimSuffix(strings.TrimSpace(listing), "}"), "\n\n")
	for i := range blocks {
		blocks[i] = strings.TrimSpace(strings.TrimPrefix(blocks[i], "table inet twill-policy {"))
	}
	blocks = slices.DeleteFunc(blocks, func(b string) bool { return strings.Contains(b, sentinel) })
	slices.Sort(blocks)
	return strings.Join(blocks, "\n\n")
}

// replaceElements puts something else in the place of each map's and set's elements.
func replaceElements(listing string, by func(name string, list []string) string) string {
	blocks := strings.Split(listing, "\n\n")
	for i, block := range blocks {
		name := sets.FindStringSubmatch(block)
		if name == nil {
			continue
		}
		blocks[i] = elements.ReplaceAllStringFunc(block, func(text string) string {
			list := strings.Split(elements.FindStringSubmatch(text)[1], ",")
			for i := range list {
				list[i] = strings.TrimSpace(blanks.ReplaceAllString(list[i], " "))
			}
			return by(name[1], list)
		})
	}
	return strings.Join(blocks, "\n\n")
}

// unused returns which elements nobody's packets find: pairs of a class that no address has, and ports that are in no other pair and no rule.
func unused(listing string) func(set, element string) bool {
	classes, ports := map[string]bool{"none": true, "0:0": true}, map[string]bool{}
	replaceElements(listing, func(name string, list []string) string {
		if strings.HasPrefix(name, "pods") || strings.HasPrefix(name, "networks") {
			for _, e := range list {
				classes[lastWord(e)] = true
			}
		}
		return ""
	})
	classOf := func(pair string) string { return strings.Fields(pair)[2] }
	rules := strings.Fields(replaceElements(listing, func(name string, list []string) string {
		for _, e := range list {
			if name == "pairs" && classes[classOf(e)] {
				ports[lastWord(e)] = true
			}
		}
		return ""
	}))
	return func(set, element string) bool {
		switch set {
		case "pairs":
			return !classes[classOf(element)]
		case "ports", "ranges":
			number, _, _ := strings.Cut(element, " ")
			return !ports[number] && !slices.Contains(rules, number)
		}
		return false
	}
}

func lastWord(s string) string { return s[strings.LastIndex(s, " ")+1:] }

// differing returns the lines that only one of the texts has.
func differing(a, b string) string {
	var text strings.Builder
	only := func(sign string, these, those string) {
		others := strings.Split(those, "\n")
		for line := range strings.SplitSeq(these, "\n") {
			if !slices.Contains(others, line) {
				fmt.Fprintf(&text, "%s %s\n", sign, line)
			}
		}
	}
	only("-", a, b)
	only("+", b, a)
	return text.String()
}

// What nobody's packets find makes no difference; everything else does.
func TestCanonical(t *testing.T) {
	table := func(pods, pairs, ports string) string {
		return "table inet twill-policy {\n\tmap pods4 {\n\t\telements = { " + pods + " }\n\t}\n\n\tmap pairs {\n\t\telements = { " + pairs +
			" }\n\t}\n\n\tset ports {\n\t\telements = { " + ports + " }\n\t}\n\n\tchain x {\n\t\tmeta priority set 9:9\n\t}\n}\n"
	}
	const pods, pairs, ports = "10.0.0.1 : a:1, 10.0.0.2 : b:2", "7 . a:1 : c:3, 7 . b:2 : 0:1", "c:3 . tcp . 80, 9:9 . tcp . 81"
	base := canonical(table(pods, pairs, ports), "nothing")
	for name, test := range map[string]struct {
		listing string
		same    bool
	}{
		"another order":                     {table("10.0.0.2 : b:2, 10.0.0.1 : a:1", "7 . b:2 : 0:1,\n\t\t\t7 . a:1 : c:3", ports), true},
		"a class that nobody has":           {table(pods, pairs+", 7 . d:4 : e:5", ports+", e:5 . udp . 53"), true},
		"a class that somebody has":         {table(pods+", 10.0.0.3 : d:4", pairs, ports), false},
		"a pair of a class somebody has":    {table(pods, pairs+", 8 . a:1 : c:3", ports), false},
		"a pair of the class of all others": {table(pods, pairs+", 7 . none : c:3", ports), false},
		"another port of a pair":            {table(pods, pairs, ports+", c:3 . udp . 53"), false},
		"another port of a rule":            {table(pods, pairs, ports+", 9:9 . udp . 53"), false},
		"a pair is missing":                 {table(pods, "7 . a:1 : c:3", ports), false},
	} {
		if have := canonical(test.listing, "nothing"); (have == base) != test.same {
			t.Errorf("%s: want the same: %t\n%s", name, test.same, have)
		}
	}
}
