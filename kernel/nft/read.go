package nft

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// message builds a request of the nf_tables subsystem about one table.
func message(typ uint16, id tableID) nfnl.Message {
	m := nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Family: id.family}
	m.Attrs.String(unix.NFTA_TABLE_NAME, id.name) // 1, as NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE...
	return m
}

// generation returns the number of the rule set's current state: every transaction of anybody in the network namespace
// makes a new one.
func generation(s *nfnl.Socket) (uint32, error) {
	answer, err := s.Get(nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN})
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	attrs, err := nfnl.Parse(answer.Attrs)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	return attrs[unix.NFTA_GEN_ID].Uint32(), nil
}

// read lists one table, all but the elements of sets that skip names. The caller learns from the generation before and
// after whether the image is of one piece.
func read(s *nfnl.Socket, id tableID, skip func(set string) bool) (*image, error) {
	img := &image{sets: make(map[string]*set), chains: make(map[string]*chain)}
	answer, err := s.Get(message(unix.NFT_MSG_GETTABLE, id))
	if errors.Is(err, unix.ENOENT) {
		return img, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", id.name, err)
	}
	attrs, err := nfnl.Parse(answer.Attrs)
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", id.name, err)
	}
	img.exists, img.flags = true, attrs[unix.NFTA_TABLE_FLAGS].Uint32()
	if err := readChains(s, id, img); err != nil {
		return nil, fmt.Errorf("read chains of table %s: %w", id.name, err)
	}
	if err := readRules(s, id, img); err != nil {
		return nil, fmt.Errorf("read rules of table %s: %w", id.name, err)
	}
	if err := readSets(s, id, img); err != nil {
		return nil, fmt.Errorf("read sets of table %s: %w", id.name, err)
	}
	for name, set := range img.sets {
		if set.foreign = skip(name); set.foreign {
			continue
		}
		if set.elements, err = readElements(s, id, name, set.setSpec); err != nil {
			return nil, fmt.Errorf("read elements of set %s of table %s: %w", name, id.name, err)
		}
	}
	return img, nil
}

// readChains lists all chains of the family, since the kernel cannot filter them by table.
func readChains(s *nfnl.Socket, id tableID, img *image) error {
	m := nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN, Family: id.family}
	return s.Dump(m, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if err != nil || attrs[unix.NFTA_CHAIN_TABLE].String() != id.name {
			return err
		}
		c := &chain{}
		c.userData = string(attrs[nftaChainUserData].Value)
		if hook, base := attrs[unix.NFTA_CHAIN_HOOK]; base {
			h, err := nfnl.Parse(hook.Value)
			if err != nil {
				return err
			}
			c.base, c.hook, c.priority = true, h[unix.NFTA_HOOK_HOOKNUM].Uint32(), int32(h[unix.NFTA_HOOK_PRIORITY].Uint32())
			c.kind, c.policy = attrs[unix.NFTA_CHAIN_TYPE].String(), attrs[unix.NFTA_CHAIN_POLICY].Uint32()
		}
		img.chains[attrs[unix.NFTA_CHAIN_NAME].String()] = c
		return nil
	})
}

func readRules(s *nfnl.Socket, id tableID, img *image) error {
	return s.Dump(message(unix.NFT_MSG_GETRULE, id), func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if err != nil || attrs[unix.NFTA_RULE_TABLE].String() != id.name {
			return err
		}
		c := img.chains[attrs[unix.NFTA_RULE_CHAIN].String()]
		if c == nil {
			return kernel.ErrStale // its chain was made after the chains were listed
		}
		canonical, err := canonicalRule(attrs[unix.NFTA_RULE_EXPRESSIONS].Value)
		c.rules = append(c.rules, rule{canonical: canonical, userData: string(attrs[unix.NFTA_RULE_USERDATA].Value)})
		return err
	})
}

// readSets lists the named sets. Anonymous ones live and die with the rule that uses them.
func readSets(s *nfnl.Socket, id tableID, img *image) error {
	return s.Dump(message(unix.NFT_MSG_GETSET, id), func(answer nfnl.Message) error {
		name, spec, err := decodeSetSpec(answer.Attrs)
		if err == nil && spec.flags&unix.NFT_SET_ANONYMOUS == 0 {
			img.sets[name] = &set{setSpec: spec}
		}
		return err
	})
}

func decodeSetSpec(b []byte) (name string, spec setSpec, err error) {
	attrs, err := nfnl.Parse(b)
	if err != nil {
		return "", spec, err
	}
	spec = setSpec{
		flags:    attrs[unix.NFTA_SET_FLAGS].Uint32(),
		keyType:  attrs[unix.NFTA_SET_KEY_TYPE].Uint32(),
		keyLen:   attrs[unix.NFTA_SET_KEY_LEN].Uint32(),
		dataType: attrs[unix.NFTA_SET_DATA_TYPE].Uint32(),
		dataLen:  attrs[unix.NFTA_SET_DATA_LEN].Uint32(),
		userData: string(attrs[unix.NFTA_SET_USERDATA].Value),
	}
	if several, ok := attrs[nftaSetExpressions]; ok {
		spec.expr = string(several.Value) // never ours
	}
	one, err := nfnl.Parse(attrs[nftaSetExpr].Value)
	if err != nil {
		return "", spec, err
	}
	spec.expr += one[unix.NFTA_EXPR_NAME].String()
	if spec.dataType == unix.NFT_DATA_VERDICT {
		spec.dataLen = 0 // the size of the kernel's own struct
	}
	desc, err := nfnl.Parse(attrs[unix.NFTA_SET_DESC].Value)
	if err != nil {
		return "", spec, err
	}
	spec.size = desc[unix.NFTA_SET_DESC_SIZE].Uint32()
	for part, err := range nfnl.Each(desc[nftaSetDescConcat].Value) {
		if err != nil {
			return "", spec, err
		}
		length, err := nfnl.Parse(part.Value)
		if err != nil {
			return "", spec, err
		}
		spec.fields += string([]byte{byte(length[nftaSetFieldLen].Uint32())})
	}
	return attrs[unix.NFTA_SET_NAME].String(), spec, nil
}

// boundary is one element as the kernel lists it. In an interval set without concatenation a range is two of them: where it
// starts, and the first key behind it, marked end.
type boundary struct {
	key, keyEnd string
	end         bool
	value       elementValue
}

func readElements(s *nfnl.Socket, id tableID, name string, spec setSpec) (map[elementKey]elementValue, error) {
	m := message(unix.NFT_MSG_GETSETELEM, id)
	m.Attrs.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	var found []boundary
	err := s.Dump(m, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if err != nil {
			return err
		}
		for element, err := range nfnl.Each(attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS].Value) {
			if err != nil {
				return err
			}
			b, err := decodeBoundary(element.Value)
			if err != nil {
				return err
			}
			found = append(found, b)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if spec.flags&unix.NFT_SET_INTERVAL != 0 && spec.flags&setConcat == 0 {
		return ranges(found), nil
	}
	elements := make(map[elementKey]elementValue, len(found))
	for _, b := range found {
		if b.keyEnd == "" {
			b.keyEnd = b.key
		}
		elements[elementKey{b.key, b.keyEnd}] = b.value
	}
	if len(elements) != len(found) {
		// The kernel goes on after each chunk by skipping as many elements as it has listed (nf_tables_dump_set), although a
		// hash table that is being resized has changed their order: for each one it lists twice it leaves one out.
		return nil, kernel.ErrStale
	}
	return elements, nil
}

func decodeBoundary(b []byte) (boundary, error) {
	attrs, err := nfnl.Parse(b)
	if err != nil {
		return boundary{}, err
	}
	var out boundary
	for typ, dst := range map[uint16]*string{
		unix.NFTA_SET_ELEM_KEY: &out.key, nftaSetElemKeyEnd: &out.keyEnd, unix.NFTA_SET_ELEM_DATA: &out.value.data,
	} {
		data, err := nfnl.Parse(attrs[typ].Value)
		if err != nil {
			return boundary{}, err
		}
		*dst = string(data[unix.NFTA_DATA_VALUE].Value)
		if verdict, ok := data[unix.NFTA_DATA_VERDICT]; ok {
			if out.value.verdict, out.value.chain, err = verdictOf(verdict); err != nil {
				return boundary{}, err
			}
		}
	}
	out.end = attrs[unix.NFTA_SET_ELEM_FLAGS].Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
	out.value.comment = string(attrs[unix.NFTA_SET_ELEM_USERDATA].Value)
	return out, nil
}

// ranges joins boundaries to ranges. An end without a start is the empty space before the first range, which nft
// sometimes writes; a start without an end goes up to the largest key.
func ranges(found []boundary) map[elementKey]elementValue {
	slices.SortFunc(found, func(a, b boundary) int {
		if c := bytes.Compare([]byte(a.key), []byte(b.key)); c != 0 {
			return c
		}
		switch { // of adjacent ranges the first one's end is the second one's start
		case a.end && !b.end:
			return -1
		case b.end && !a.end:
			return 1
		}
		return 0
	})
	elements := make(map[elementKey]elementValue, len(found)/2)
	for i, b := range found {
		switch {
		case b.end:
		case b.key == "":
			elements[elementKey{}] = b.value
		case i+1 < len(found) && found[i+1].end:
			elements[elementKey{b.key, previous(found[i+1].key)}] = b.value
		default:
			elements[elementKey{b.key, string(bytes.Repeat([]byte{0xff}, len(b.key)))}] = b.value
		}
	}
	return elements
}

// previous returns the key before key in big-endian order, following what next does.
func previous(key string) string {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return string(b)
}

// next returns the key after key, or ok false when there is none.
func next(key string) (string, bool) {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}
