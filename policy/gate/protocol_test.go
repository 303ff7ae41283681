package gate

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequest(t *testing.T) {
	tests := []struct {
		name, message string
		want          Request // zero: refused
	}{
		{"a pod", `{"containerID":"3f_a.b-9","ifName":"eth0"}`, Request{"3f_a.b-9", "eth0"}},
		{"keys of a later version", `{"containerID":"a","ifName":"eth0","netns":"/x"}`, Request{"a", "eth0"}},
		{"longest", `{"containerID":"` + strings.Repeat("f", maxID) + `","ifName":"` + strings.Repeat("e", 15) + `"}`,
			Request{strings.Repeat("f", maxID), strings.Repeat("e", 15)}},
		{"nothing", ``, Request{}},
		{"null", `null`, Request{}},
		{"no object", `["a","eth0"]`, Request{}},
		{"two", `{"containerID":"a","ifName":"eth0"}{"containerID":"b","ifName":"eth0"}`, Request{}},
		{"no id", `{"ifName":"eth0"}`, Request{}},
		{"no name", `{"containerID":"a"}`, Request{}},
		{"a path for an id", `{"containerID":"a/../b","ifName":"eth0"}`, Request{}},
		{"dots for an id", `{"containerID":"..","ifName":"eth0"}`, Request{}},
		{"a colon in the id", `{"containerID":"a:eth0","ifName":"eth0"}`, Request{}},
		{"long id", `{"containerID":"` + strings.Repeat("f", maxID+1) + `","ifName":"eth0"}`, Request{}},
		{"a path for a name", `{"containerID":"a","ifName":"../x"}`, Request{}},
		{"dots for a name", `{"containerID":"a","ifName":".."}`, Request{}},
		{"long name", `{"containerID":"a","ifName":"abcdefghijklmnop"}`, Request{}},
		{"space in the name", `{"containerID":"a","ifName":"eth 0"}`, Request{}},
		{"line end in the name", `{"containerID":"a","ifName":"eth0\n"}`, Request{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseRequest([]byte(tt.message))
			if (err != nil) != (tt.want == Request{}) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseState(t *testing.T) {
	tests := []struct {
		message string
		want    State
		refused bool
	}{
		{`{"state":"closed"}`, StateClosed, false},
		{`{"state":"ready","since":3}`, StateReady, false},
		{`{"state":"a later version's"}`, "", false},
		{`{}`, "", false},
		{`{"state":1}`, "", true},
		{`closed`, "", true},
		{``, "", true},
	}
	for _, tt := range tests {
		got, err := parseState([]byte(tt.message))
		if got != tt.want || (err != nil) != tt.refused {
			t.Errorf("%s: have %q, error %v", tt.message, got, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"containerID":"a","ifName":"eth0"}`))
	f.Add([]byte(`{"containerID":"../a","ifName":"\u002f"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if err != nil {
			if r != (Request{}) {
				t.Fatalf("%+v beside error %v", r, err)
			}
			return
		}
		if strings.ContainsAny(r.ContainerID+r.IfName, "/:\x00\n ") || strings.HasPrefix(r.ContainerID, ".") || r.IfName == ".." {
			t.Fatalf("%+v is no part of a file's name", r)
		}
		again, err := json.Marshal(r)
		if err != nil || len(again) > maxMessage {
			t.Fatalf("%d bytes, error %v", len(again), err)
		}
		if back, err := parseRequest(again); err != nil || back != r {
			t.Fatalf("%+v became %+v, error %v", r, back, err)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"state":"closed"}`))
	f.Add([]byte(`{"state":"ready"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		state, err := parseState(data)
		if state != "" && state != StateClosed && state != StateReady || err != nil && state != "" {
			t.Fatalf("%q, error %v", state, err)
		}
	})
}
