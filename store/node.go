package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// NodeRecord is what an operator says of a node, as opposed to its lease, which is what the node says of itself. A NodeRecord is
// never changed after it was made. The zero record with a name says nothing.
type NodeRecord struct {
	Name   string
	Labels map[string]string // in Kubernetes' syntax; nil when there are none
	BGP    json.RawMessage   // a JSON object without insignificant space, which package bgp/config reads; nil when there is none
}

// MaxNodeRecordSize is the size in bytes above which ParseNodeRecord refuses a document.
const MaxNodeRecordSize = 64 << 10

// maxNodeName is the size in bytes of the longest node name: that of a DNS subdomain, as in Kubernetes.
const maxNodeName = 253

// ParseNodeRecord reads what a datastore holds of the node with that name:
//
//	{"labels": {"rack": "r1"}, "bgp": {"as": 65001}}
//
// Both keys may be left out or null. The syntax of labels is that of Kubernetes, so that a selector means the same in every
// datastore. The inside of bgp is not looked at. Unlike in a lease, which flannel may have written, a key that is unknown is an
// error; it names the key, as do all others. The record keeps nothing of data's memory.
func ParseNodeRecord(name string, data []byte) (NodeRecord, error) {
	r, err := parseNodeRecord(data)
	if err != nil {
		return NodeRecord{}, fmt.Errorf("record of node %q: %w", clip(name), err)
	}
	r.Name = name
	return r, nil
}

func parseNodeRecord(data []byte) (r NodeRecord, err error) {
	if len(data) > MaxNodeRecordSize {
		return r, fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxNodeRecordSize)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return r, fmt.Errorf("not a JSON object: %w", err)
	}
	if doc == nil {
		return r, errors.New("not a JSON object: null")
	}
	for _, key := range slices.Sorted(maps.Keys(doc)) {
		switch value := doc[key]; key {
		case "labels":
			r.Labels, err = parseLabels(value)
		case "bgp":
			r.BGP, err = parseObject(value)
		default:
			err = errors.New("the key is unknown: use labels and bgp")
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	return r, nil
}

func parseLabels(raw json.RawMessage) (map[string]string, error) {
	var values map[string]*string
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, errors.New("want an object whose values are strings")
	}
	if len(values) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		switch value := values[key]; {
		case !isLabelKey(key):
			return nil, fmt.Errorf("%q is no label: want NAME or DNS-DOMAIN/NAME", clip(key))
		case value == nil || *value != "" && !isLabelName(*value):
			return nil, fmt.Errorf("%s: want a string of at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends", clip(key))
		default:
			labels[key] = *value
		}
	}
	return labels, nil
}

// isLabelKey and isLabelName follow k8s.io/apimachinery's IsQualifiedName and IsValidLabelValue.
func isLabelKey(key string) bool {
	domain, name, ok := strings.Cut(key, "/")
	if !ok {
		return isLabelName(key)
	}
	if len(domain) > maxNodeName {
		return false
	}
	for part := range strings.SplitSeq(domain, ".") {
		if !isWord(part, "-") || part != strings.ToLower(part) {
			return false
		}
	}
	return isLabelName(name)
}

func isLabelName(s string) bool { return len(s) <= 63 && isWord(s, "-_.") }

// isWord reports whether s is of ASCII letters, digits and, but for its ends, the characters of inner.
func isWord(s, inner string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || i == len(s)-1 || strings.IndexByte(inner, c) < 0) {
			return false
		}
	}
	return s != ""
}

func parseObject(raw json.RawMessage) (json.RawMessage, error) {
	if isAbsent(raw) {
		return nil, nil
	}
	if raw[0] != '{' {
		return nil, errors.New("want a JSON object")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// CheckNodeName returns an error when a node cannot have that name in a datastore: when it is empty, too long, or has other
// characters than letters, digits, dots and dashes.
func CheckNodeName(name string) error {
	if len(name) > maxNodeName || !isWord(name, "-.") {
		return fmt.Errorf("%q is no node name", clip(name))
	}
	return nil
}

// Equal reports whether r and o say the same, byte for byte in their BGP part.
func (r NodeRecord) Equal(o NodeRecord) bool {
	return r.Name == o.Name && maps.Equal(r.Labels, o.Labels) && bytes.Equal(r.BGP, o.BGP)
}
