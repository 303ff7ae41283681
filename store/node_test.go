package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseNodeRecord(t *testing.T) {
	tests := []struct {
		name, data string
		want       NodeRecord
	}{
		{"empty", `{}`, NodeRecord{}},
		{"nulls", `{"labels":null,"bgp":null}`, NodeRecord{}},
		{"empty labels", `{"labels":{}}`, NodeRecord{}},
		{"empty bgp", `{"bgp":{}}`, NodeRecord{BGP: json.RawMessage(`{}`)}},
		{"both", ` {"bgp" : { "as" : 65001 } , "labels":{"rack":"r1","topology.kubernetes.io/zone":"a_b.C-1","x":""}}`, NodeRecord{
			Labels: map[string]string{"rack": "r1", "topology.kubernetes.io/zone": "a_b.C-1", "x": ""}, BGP: json.RawMessage(`{"as":65001}`)}},
		{"strings keep their space", `{"bgp":{"a":"b  c"}}`, NodeRecord{BGP: json.RawMessage(`{"a":"b  c"}`)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data := []byte(test.data)
			test.want.Name = "n1"
			have, err := ParseNodeRecord("n1", data)
			if err != nil {
				t.Fatal(err)
			}
			clear(data)
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Errorf("want-, have+:\n%s", diff)
			}
		})
	}
}

func TestParseNodeRecordErrors(t *testing.T) {
	long := strings.Repeat("a", 64)
	tests := []struct{ name, data, want string }{
		{"nothing", ``, "not a JSON object"},
		{"null", `null`, "not a JSON object"},
		{"a list", `[]`, "not a JSON object"},
		{"cut off", `{"labels":{`, "not a JSON object"},
		{"two documents", `{}{}`, "not a JSON object"},
		{"unknown key", `{"lables":{}}`, "lables: the key is unknown"},
		{"another case", `{"BGP":{}}`, "BGP: the key is unknown"},
		{"labels are a list", `{"labels":["rack"]}`, "labels: want an object"},
		{"number", `{"labels":{"rack":1}}`, "labels: want an object whose values are strings"},
		{"null label", `{"labels":{"rack":null}}`, "labels: rack: want a string"},
		{"empty label", `{"labels":{"":"a"}}`, `labels: "" is no label`},
		{"space", `{"labels":{" rack":"a"}}`, `labels: " rack" is no label`},
		{"two slashes", `{"labels":{"a/b/c":"a"}}`, `labels: "a/b/c" is no label`},
		{"upper case domain", `{"labels":{"A.b/c":"a"}}`, `labels: "A.b/c" is no label`},
		{"empty domain", `{"labels":{"/c":"a"}}`, `labels: "/c" is no label`},
		{"long domain", `{"labels":{"` + strings.Repeat("a.", 127) + `/c":"a"}}`, "is no label"},
		{"long label", `{"labels":{"` + long + `":"a"}}`, "is no label"},
		{"long value", `{"labels":{"rack":"` + long + `"}}`, "labels: rack: want a string of at most 63"},
		{"value ends with a dash", `{"labels":{"rack":"a-"}}`, "labels: rack: want"},
		{"bgp is a number", `{"bgp":65001}`, "bgp: want a JSON object"},
		{"huge", `{"bgp":{"a":"` + strings.Repeat("a", MaxNodeRecordSize) + `"}}`, "bytes are more than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := ParseNodeRecord("n1", []byte(test.data))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `node "n1"`) {
				t.Errorf("have %+v, %v, want an error with %q", have, err, test.want)
			}
		})
	}
}

func TestCheckNodeName(t *testing.T) {
	for name, good := range map[string]bool{
		"n1": true, "host-1.example.org": true, "H1": true, strings.Repeat("a", 253): true,
		"": false, "a_b": false, "a/b": false, "..": false, "-a": false, "a b": false, "ä": false, strings.Repeat("a", 254): false,
	} {
		if err := CheckNodeName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNodeRecordEqual(t *testing.T) {
	read := func(name, data string) NodeRecord {
		r, err := ParseNodeRecord(name, []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := read("a", `{"labels":{"x":"1"},"bgp":{"as":1}}`)
	for i, test := range []struct {
		other NodeRecord
		want  bool
	}{
		{read("a", `{ "bgp": {"as": 1}, "labels": {"x": "1"} }`), true},
		{read("b", `{"labels":{"x":"1"},"bgp":{"as":1}}`), false},
		{read("a", `{"labels":{"x":"2"},"bgp":{"as":1}}`), false},
		{read("a", `{"labels":{"x":"1"},"bgp":{"as":2}}`), false},
		{NodeRecord{Name: "a"}, false},
	} {
		if r.Equal(test.other) != test.want {
			t.Errorf("number %d: want %t", i, test.want)
		}
	}
}

// What was read can be written and reads the same.
func FuzzParseNodeRecord(f *testing.F) {
	f.Add([]byte(`{"labels":{"rack":"r1","topology.kubernetes.io/zone":"a"},"bgp":{"as":65001,"peers":[]}}`))
	f.Add([]byte(`{"labels":null,"bgp":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseNodeRecord("n", data)
		if err != nil {
			return
		}
		labels, err := json.Marshal(r.Labels)
		if err != nil {
			t.Fatal(err)
		}
		bgp := r.BGP
		if bgp == nil {
			bgp = json.RawMessage("null")
		}
		again, err := ParseNodeRecord("n", fmt.Appendf(nil, `{"labels":%s,"bgp":%s}`, labels, bgp))
		if err != nil || !again.Equal(r) {
			t.Errorf("%q was read as %+v, and that as %+v, %v", data, r, again, err)
		}
	})
}
