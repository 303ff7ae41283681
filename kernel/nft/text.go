package nft

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// Text returns the tables that DeleteTables would remove as the kernel holds them, for people who look for a fault: chains with the expressions of their
// rules, in the form NAME(ATTRIBUTE=VALUE ...) and with the kernel's own names for registers (NFT_REG32_*), and sets with up to most elements each. It is not nft(8)'s language. What
// other programs change meanwhile may be there in part.
func (h *Handle) Text(ctx context.Context, most int) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []tableID
	err := h.socket.Dump(nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE}, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if name := attrs[unix.NFTA_TABLE_NAME].String(); err == nil && strings.HasPrefix(name, kernel.TablePrefix) {
			ids = append(ids, tableID{answer.Family, name})
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list tables: %w", err)
	}
	slices.SortFunc(ids, func(a, b tableID) int { return strings.Compare(a.name, b.name) })
	var text strings.Builder
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return text.String(), err
		}
		errs = append(errs, h.tableText(&text, id, most)) // the others are worth having
	}
	return text.String(), errors.Join(errs...)
}

func (h *Handle) tableText(text *strings.Builder, id tableID, most int) error {
	img, err := h.bare(id)
	if err != nil {
		return err
	}
	rules := map[string][]string{}
	err = h.socket.Dump(message(unix.NFT_MSG_GETRULE, id), func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if err != nil || attrs[unix.NFTA_RULE_TABLE].String() != id.name {
			return err
		}
		line, err := ruleText(attrs)
		chain := attrs[unix.NFTA_RULE_CHAIN].String()
		rules[chain] = append(rules[chain], line)
		return err
	})
	if err != nil {
		return fmt.Errorf("read rules of table %s: %w", id.name, err)
	}
	fmt.Fprintf(text, "table %s %s {\n", familyNames[id.family], id.name)
	var errs []error
	for _, name := range sorted(img.sets) {
		errs = append(errs, h.setText(text, id, name, img.sets[name].setSpec, most))
	}
	for _, name := range sorted(img.chains) {
		c := img.chains[name]
		fmt.Fprintf(text, "  chain %s {\n", name)
		if c.base {
			fmt.Fprintf(text, "    type %s hook %d priority %d policy %s\n", c.kind, c.hook, c.priority, map[uint32]string{0: "drop", 1: "accept"}[c.policy])
		}
		for _, line := range rules[name] {
			fmt.Fprintf(text, "    %s\n", line)
		}
		text.WriteString("  }\n")
	}
	text.WriteString("}\n")
	return errors.Join(errs...)
}

// bare reads the names of a table's chains and sets.
func (h *Handle) bare(id tableID) (*image, error) {
	img := &image{sets: map[string]*set{}, chains: map[string]*chain{}}
	if err := readChains(h.socket, id, img); err != nil {
		return nil, fmt.Errorf("read chains of table %s: %w", id.name, err)
	}
	if err := readSets(h.socket, id, img); err != nil {
		return nil, fmt.Errorf("read sets of table %s: %w", id.name, err)
	}
	return img, nil
}

func (h *Handle) setText(text *strings.Builder, id tableID, name string, spec setSpec, most int) error {
	var found map[elementKey]elementValue
	err := undisturbed(func() (err error) {
		found, err = readElements(h.socket, id, name, spec)
		return err
	})
	if err != nil {
		return fmt.Errorf("read elements of set %s of table %s: %w", name, id.name, err)
	}
	fmt.Fprintf(text, "  set %s { # %s\n", name, count(len(found), "element"))
	shape, unknown := spec.shape()
	for i, k := range slices.SortedFunc(maps.Keys(found), elementKey.compare) {
		if i == most {
			fmt.Fprintf(text, "    # and %d more\n", len(found)-most)
			break
		}
		e, err := decodeElement(shape, k, found[k])
		if unknown != nil || err != nil || k.catchAll() {
			fmt.Fprintf(text, "    0x%s-0x%s : 0x%s\n", hex.EncodeToString([]byte(k.from)), hex.EncodeToString([]byte(k.to)), hex.EncodeToString([]byte(found[k].data)))
			continue
		}
		fmt.Fprintf(text, "    %s\n", elementText(shape, e))
	}
	text.WriteString("  }\n")
	return nil
}

func elementText(shape kernel.Set, e kernel.Element) string {
	line := dataText(shape.Key, e.Key)
	if len(e.KeyEnd) > 0 {
		line += " - " + dataText(shape.Key, e.KeyEnd)
	}
	if len(e.Value) > 0 {
		line += " : " + dataText(shape.Value, e.Value)
	}
	if e.Comment != "" {
		line += " # " + e.Comment
	}
	return line
}

func dataText(types []kernel.Type, data []kernel.Datum) string {
	var parts []string
	for i, d := range data {
		switch {
		case d.Verdict != nil:
			parts = append(parts, strings.TrimSpace(string(d.Verdict.Kind)+" "+d.Verdict.Chain))
		case i < len(types) && types[i] == kernel.TypeIfname:
			parts = append(parts, d.Name)
		case d.Prefix.IsValid():
			parts = append(parts, d.Prefix.String())
		case d.Addr.IsValid():
			parts = append(parts, d.Addr.String())
		default:
			parts = append(parts, fmt.Sprint(d.Number))
		}
	}
	return strings.Join(parts, " . ")
}

func ruleText(attrs map[uint16]nfnl.Attr) (string, error) {
	var parts []string
	for element, err := range nfnl.Each(attrs[unix.NFTA_RULE_EXPRESSIONS].Value) {
		if err != nil {
			return "", err
		}
		e, err := nfnl.Parse(element.Value)
		if err != nil {
			return "", err
		}
		part, err := expressionText(e[unix.NFTA_EXPR_NAME].String(), e[unix.NFTA_EXPR_DATA].Value)
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	line := strings.Join(parts, " ")
	if c := commentOf(string(attrs[unix.NFTA_RULE_USERDATA].Value), udataComment); c != "" {
		line += " # " + c
	}
	return line, nil
}

// attributeNames are those of include/uapi/linux/nf_tables.h, in the order of their numbers from 1.
var attributeNames = map[string][]string{
	"meta":      {"dreg", "key", "sreg"},
	"cmp":       {"sreg", "op", "data"},
	"payload":   {"dreg", "base", "offset", "len", "sreg"},
	"lookup":    {"set", "sreg", "dreg", "set_id", "flags"},
	"immediate": {"dreg", "data"},
	"bitwise":   {"sreg", "dreg", "len", "mask", "xor", "op", "data"},
	"byteorder": {"sreg", "dreg", "op", "len", "size"},
	"ct":        {"dreg", "key", "direction", "sreg"},
	"nat":       {"type", "family", "addr_min", "addr_max", "proto_min", "proto_max", "flags"},
	"masq":      {"flags", "proto_min", "proto_max"},
	"fib":       {"dreg", "result", "flags"},
	"numgen":    {"dreg", "modulus", "type", "offset"},
	"hash":      {"sreg", "dreg", "len", "modulus", "seed", "offset", "type"},
	"reject":    {"type", "code"},
	"limit":     {"rate", "unit", "burst", "type", "flags"},
	"log":       {"group", "prefix", "snaplen", "qthreshold", "level", "flags"},
	"dynset":    {"set", "set_id", "op", "sreg_key", "sreg_data", "timeout", "expr", "", "flags"},
	"counter":   {"bytes", "packets"},
}

// texts are attributes that hold a name.
var texts = map[string]bool{"lookup.set": true, "dynset.set": true, "log.prefix": true}

func expressionText(name string, b []byte) (string, error) {
	var parts []string
	for a, err := range nfnl.Each(b) {
		if err != nil {
			return "", err
		}
		label := fmt.Sprint(a.Type)
		if known := attributeNames[name]; int(a.Type) <= len(known) && a.Type > 0 && known[a.Type-1] != "" {
			label = known[a.Type-1]
		}
		value, err := attributeText(name, label, a)
		if err != nil {
			return "", err
		}
		if value != "" {
			parts = append(parts, label+"="+value)
		}
	}
	return name + "(" + strings.Join(parts, " ") + ")", nil
}

// attributeText returns "" for padding.
func attributeText(name, label string, a nfnl.Attr) (string, error) {
	switch {
	case texts[name+"."+label]:
		return a.String(), nil
	case isData(name, a.Type):
		data, err := dataOf(a.Value)
		if err != nil || len(data) == 0 {
			return "", err
		}
		if data[0] == 'V' {
			v := elementValue{verdict: int32(binary.BigEndian.Uint32(data[1:])), chain: string(data[5:])}
			if known := decodeVerdict(v); known.Kind != "" {
				return strings.TrimSpace(string(known.Kind) + " " + known.Chain), nil
			}
		}
		return "0x" + hex.EncodeToString(data[1:]), nil
	}
	switch len(a.Value) {
	case 0:
		return "", nil
	case 1, 2, 4:
		n := uint64(0)
		for _, b := range a.Value {
			n = n<<8 | uint64(b)
		}
		return fmt.Sprint(n), nil
	case 8:
		return fmt.Sprint(binary.BigEndian.Uint64(a.Value)), nil
	}
	return "0x" + hex.EncodeToString(a.Value), nil
}
