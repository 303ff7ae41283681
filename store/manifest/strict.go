package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// strict reads a YAML node into one of the API's types: field names in their exact case, each once, and values of the type that the field
// has. It collects everything that is wrong, and remembers on which line each field is.
type strict struct {
	errs  []error
	lines map[string]int // by path, as spec.ports[0].port
}

// maxDepth bounds the nesting; the API's own types need 8 levels.
const maxDepth = 32

// decodeStrict fills in into, a pointer to a struct.
func decodeStrict(n *yaml.Node, into any) (*strict, error) {
	s := &strict{lines: map[string]int{"": n.Line}}
	tree := s.read(n, reflect.TypeOf(into).Elem(), place{})
	if err := errors.Join(s.errs...); err != nil {
		return s, err
	}
	data, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil { // what the types' own decoders refuse, such as a time
		return s, fmt.Errorf("line %d: %w", n.Line, err)
	}
	return s, nil
}

// line returns the line of the field, or of the nearest one around it that is in the file.
func (s *strict) line(path string) int {
	for {
		if line, ok := s.lines[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// place is where in a document a node is.
type place struct {
	path  string
	depth int
}

func (p place) field(name string) place {
	if p.path == "" {
		return place{name, p.depth + 1}
	}
	return place{p.path + "." + name, p.depth + 1}
}

// key and index are spelled as package field of the API's machinery spells them.
func (p place) key(name string) place { return place{p.path + "[" + name + "]", p.depth + 1} }
func (p place) index(i int) place     { return p.key(strconv.Itoa(i)) }

func (s *strict) fail(n *yaml.Node, p place, format string, args ...any) any {
	where := ""
	if p.path != "" {
		where = p.path + ": "
	}
	s.errs = append(s.errs, fmt.Errorf("line %d: %s%s", n.Line, where, fmt.Sprintf(format, args...)))
	return nil
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// read returns the node's value in the form that encoding/json turns into that of t.
func (s *strict) read(n *yaml.Node, t reflect.Type, p place) any {
	if _, ok := s.lines[p.path]; !ok {
		s.lines[p.path] = n.Line
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case p.depth > maxDepth:
		return s.fail(n, p, "is nested more than %d deep", maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return s.fail(n, p, "anchors and aliases are not supported: write the value out")
	case n.Tag == "!!null":
		return nil
	case reflect.PointerTo(t).Implements(unmarshaler):
		return s.free(n, p)
	}
	switch t.Kind() {
	case reflect.Struct:
		return s.object(n, t, p)
	case reflect.Map:
		return s.table(n, t, p)
	case reflect.Slice:
		return s.list(n, t, p)
	}
	return s.scalar(n, t, p)
}

func (s *strict) object(n *yaml.Node, t reflect.Type, p place) any {
	if n.Kind != yaml.MappingNode {
		return s.fail(n, p, "want an object, have %s", describe(n))
	}
	fields := fieldsOf(t)
	return s.pairs(n, p, func(key, value *yaml.Node) any {
		at := p.field(key.Value)
		ft, known := fields[key.Value]
		if !known {
			return s.fail(key, at, "unknown field%s", suggestion(key.Value, fields))
		}
		s.lines[at.path] = key.Line
		return s.read(value, ft, at)
	})
}

func (s *strict) table(n *yaml.Node, t reflect.Type, p place) any {
	if n.Kind != yaml.MappingNode {
		return s.fail(n, p, "want an object, have %s", describe(n))
	}
	return s.pairs(n, p, func(key, value *yaml.Node) any { return s.read(value, t.Elem(), p.key(key.Value)) })
}

// pairs reads the keys and values of a mapping with read.
func (s *strict) pairs(n *yaml.Node, p place, read func(key, value *yaml.Node) any) map[string]any {
	out := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			s.fail(key, p, "a key that is no plain text")
			continue
		}
		if _, twice := out[key.Value]; twice {
			s.fail(key, p.field(key.Value), "is given twice")
			continue
		}
		out[key.Value] = read(key, value)
	}
	return out
}

func (s *strict) list(n *yaml.Node, t reflect.Type, p place) any {
	if n.Kind != yaml.SequenceNode {
		return s.fail(n, p, "want a list, have %s", describe(n))
	}
	out := []any{}
	for i, item := range n.Content {
		if item.Tag == "!!null" {
			s.fail(item, p.index(i), "is empty")
			continue
		}
		out = append(out, s.read(item, t.Elem(), p.index(i)))
	}
	return out
}

func (s *strict) scalar(n *yaml.Node, t reflect.Type, p place) any {
	if n.Kind != yaml.ScalarNode {
		return s.fail(n, p, "want %s, have %s", wanted(t), describe(n))
	}
	switch t.Kind() {
	case reflect.String:
		// To YAML, an unquoted 2026-01-02 is a time; to the API it is text.
		if n.Tag == "!!str" || n.Tag == "!!timestamp" {
			return n.Value
		}
		return s.fail(n, p, "want text, have %s: put it in quotes", describe(n))
	case reflect.Bool:
		var b bool
		if n.Tag == "!!bool" && n.Decode(&b) == nil {
			return b
		}
	case reflect.Int32, reflect.Int64:
		var i int64
		if n.Tag == "!!int" && n.Decode(&i) == nil && !reflect.Zero(t).OverflowInt(i) {
			return i
		}
	}
	return s.fail(n, p, "want %s, have %s", wanted(t), describe(n))
}

// free reads a value whose type decodes itself, such as IntOrString.
func (s *strict) free(n *yaml.Node, p place) any {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!timestamp" {
		return n.Value
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return s.fail(n, p, "%v", err)
	}
	if _, err := json.Marshal(value); err != nil {
		return s.fail(n, p, "%v", err)
	}
	return value
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	}
	return "text"
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(clip(n.Value))
}

// clip shortens what an error quotes.
func clip(text string) string {
	const most = 100
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// fieldsOf returns the fields of a struct by their names in JSON, embedded ones among them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if len(f.Index) == 1 && f.Anonymous && name == "" {
			for name, ft := range fieldsOf(f.Type) {
				out[name] = ft
			}
		} else if len(f.Index) == 1 && name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

// suggestion names the field that was probably meant.
func suggestion(name string, fields map[string]reflect.Type) string {
	best, least := "", 3
	var names []string
	for known := range fields {
		names = append(names, known)
	}
	slices.Sort(names)
	for _, known := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(known)); d < least {
			best, least = known, d
		}
	}
	if best == "" {
		return "; known are " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the number of bytes to put in, take out or replace to make a b (Levenshtein). Names that are far longer than any
// field's are not compared.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
