package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// contents returns what a node's tables hold, as nft(8) reads them, in an order of its own: one line for each chain, rule and element. What may
// differ between two tables of one meaning is left out: handles, what packets wrote, and which slot an endpoint has.
func contents(t testing.TB, n *lab.Node) string {
	t.Helper()
	text, err := tryContents(t.Context(), n)
	must(t, err)
	return text
}

func tryContents(ctx context.Context, n *lab.Node) (string, error) {
	var lines []string
	for _, family := range []string{"ip", "ip6"} {
		out, err := lab.Command(ctx, n.Netns(), "nft", "-j", "list", "table", family, "twill-proxy").Output()
		if err != nil {
			return "", fmt.Errorf("list table %s twill-proxy of %s: %w", family, n.Name, err)
		}
		var all struct {
			Nftables []map[string]map[string]any
		}
		if err := json.Unmarshal(out, &all); err != nil {
			return "", fmt.Errorf("understand nft: %w", err)
		}
		for _, one := range all.Nftables {
			for kind, object := range one {
				if kind != "metainfo" {
					lines = append(lines, describe(family+" "+kind, object)...)
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// settled has the daemon compare the tables with what should be, which it does after others changed them, and returns what they hold then: chains that
// are not used any more stay until that happens.
func settled(t *testing.T, n *lab.Node) string {
	t.Helper()
	var text string
	for range 2 { // when it has looked a second time, it has done all that the first time asked for
		sh(t, n.Netns(), "nft add chain ip twill-proxy unsettled; nft add chain ip6 twill-proxy unsettled")
		within(t, patience, func() (err error) {
			if text, err = tryContents(t.Context(), n); strings.Contains(text, "unsettled") {
				err = errors.New("the daemon has not looked at its tables")
			}
			return err
		})
	}
	return text
}

// describe returns an object's lines.
func describe(prefix string, object map[string]any) []string {
	delete(object, "handle")
	elements, _ := object["elem"].([]any)
	delete(object, "elem")
	delete(object, "family")
	lines := []string{prefix + " " + text(object)}
	name, _ := object["name"].(string)
	if name == "affinity" {
		return lines
	}
	for _, e := range elements {
		e = uncounted(e)
		if name == "endpoints" || name == "slots" {
			e = withoutSlot(e)
		}
		lines = append(lines, prefix+" "+name+" "+text(e))
	}
	return lines
}

// uncounted takes what packets wrote from an element, which is a value or a key and a value: a counted one is {"elem": {"counter": ..., "val": ...}}.
func uncounted(e any) any {
	if pair, ok := e.([]any); ok && len(pair) == 2 {
		return []any{uncounted(pair[0]), pair[1]}
	}
	if object, ok := e.(map[string]any); ok {
		if inner, ok := object["elem"].(map[string]any); ok {
			return inner["val"]
		}
	}
	return e
}

// withoutSlot takes the last part of the key from an element [{"concat": [address, protocol, port, slot]}, value], but for whom it is: slots from 65536 on
// are for clients inside of the cluster. nft(8) writes slots as it writes priorities, in halves: 1:2 is 65538, none is 0.
func withoutSlot(e any) any {
	pair, ok := e.([]any)
	if !ok || len(pair) != 2 {
		return e
	}
	key, ok := pair[0].(map[string]any)
	if !ok {
		return e
	}
	parts, ok := key["concat"].([]any)
	if !ok || len(parts) != 4 {
		return e
	}
	slot, _ := parts[3].(string)
	half, _, whole := strings.Cut(slot, ":")
	return []any{parts[:3], whole && strings.Trim(half, "0") != "", pair[1]}
}

// text is JSON with sorted keys.
func text(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// differing returns the lines that only one of two texts has.
func differing(was, now string) string {
	count := map[string]int{}
	for line := range strings.Lines(was) {
		count[strings.TrimSpace(line)]--
	}
	for line := range strings.Lines(now) {
		count[strings.TrimSpace(line)]++
	}
	var out []string
	for line, n := range count {
		if n < 0 {
			out = append(out, "- "+line)
		}
		if n > 0 {
			out = append(out, "+ "+line)
		}
	}
	slices.Sort(out)
	const most = 20
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, "\n")
}
