package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/twill-cni/twill/ctl/check"
)

func TestCheckCommand(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "05-other.conf", `{"type":"bridge"}`)
	tests := []struct {
		name string
		args []string
		want answer
	}{
		{"a failure", []string{"--cni-conf-dir", dir, "--cni-bin-dir", dir}, answer{code: 1, stdout: []string{"CHECK ", "network configurations    FAILURE",
			"\nFAILURE: network configurations: " + filepath.Join(dir, "05-other.conf") + ", of bridge, sorts before 10-twill.conflist\n  breaks: container runtimes take it", "\n  mend:   once nothing needs it: mv "}}},
		{"bad backend", []string{"--backend", "ipip"}, answer{code: 1, stderr: `--backend "ipip": want vxlan or bgp`}},
		{"bad address", []string{"--metrics-address", "here"}, answer{code: 1, stderr: "--metrics-address: "}},
		{"bad page", []string{"--page", "here"}, answer{code: 1, stderr: "--page: "}},
		{"bad format", []string{"-o", "wide"}, answer{code: 1, stderr: `--output "wide"`}},
		{"no lab", []string{"--lab", "none", "--state-dir", dir}, answer{code: 1, stderr: "open lab none: not found"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.want.check(t, append([]string{"check"}, tt.args...)...) })
	}
}

func TestListenAddress(t *testing.T) {
	tests := []struct {
		text, want string
		err        bool
	}{
		{"", "invalid AddrPort", false},
		{"127.0.0.1:10270", "127.0.0.1:10270", false},
		{"[::1]:9", "[::1]:9", false},
		{":9100", "0.0.0.0:9100", false},
		{"localhost:9100", "127.0.0.1:9100", false},
		{"here", "", true},
		{"here:1", "", true},
		{"127.0.0.1:many", "", true},
		{"127.0.0.1:65536", "", true},
	}
	for _, tt := range tests {
		if got, err := listenAddress(tt.text); (err != nil) != tt.err || err == nil && got.String() != tt.want {
			t.Errorf("%q: %s, error %v", tt.text, got, err)
		}
	}
}

func TestPrintChecks(t *testing.T) {
	results := []check.Result{
		{Check: "a", LooksAt: "one", Verdict: check.Warning, Found: []check.Finding{{Verdict: check.Warning, What: "w", Breaks: "x", Mend: "m"}}},
		{Check: "b", LooksAt: "two", Verdict: check.Failure, Found: []check.Finding{{Verdict: check.Failure, What: "f", Breaks: "y", Mend: "n"}, {Verdict: check.NotLooked, What: "u"}}},
		{Check: "c", LooksAt: "three", Found: []check.Finding{}},
	}
	print := func(results []check.Result, output string) string {
		var out bytes.Buffer
		if err := printChecks(&out, results, output); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := `CHECK   RESULT    LOOKS AT
a       warning   one
b       FAILURE   two
c       ok        three

FAILURE: b: f
  breaks: y
  mend:   n

warning: a: w
  breaks: x
  mend:   m

not looked at: b: u
`
	if diff := cmp.Diff(want, print(results, "table")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("CHECK   RESULT   LOOKS AT\nc       ok       three\n\nnothing is wrong\n", print(results[2:], "table")); diff != "" {
		t.Error(diff)
	}
	var fromJSON, fromYAML any
	if err := json.Unmarshal([]byte(print(results, "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(print(results, "yaml")), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
		t.Error(diff)
	}
	if err := printChecks(closedFile(t), results, "table"); err == nil {
		t.Error("a table that nobody got is no error")
	}
}
