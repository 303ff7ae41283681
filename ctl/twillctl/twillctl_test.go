package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/matrix"
)

func TestCommandLines(t *testing.T) {
	state := t.TempDir()
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"version", []string{"version"}, 0, "twillctl dev go", ""},
		{"version as a flag", []string{"--version"}, 0, "twillctl version dev", ""},
		{"help", []string{"lab", "--help"}, 0, "twillctl lab exec --name a node1-pod1 -- ip route", ""},
		{"unknown command", []string{"lub"}, 1, "", `unknown command "lub"`},
		{"unknown flag", []string{"lab", "up", "--nods", "3"}, 1, "", "unknown flag: --nods"},
		{"too many arguments", []string{"lab", "down", "demo"}, 1, "", `unknown command "demo"`},
		{"contradiction", []string{"lab", "--ipv6", "--dual-stack"}, 1, "", "[dual-stack ipv6]"},
		{"bad network", []string{"lab", "--network", "10.0.0.0"}, 1, "", "--network: "},
		{"bad name", []string{"lab", "up", "--name", "a/b"}, 1, "", `lab name "a/b"`},
		{"bad nodes", []string{"lab", "--nodes", "-1"}, 1, "", "-1 nodes"},
		{"no programs", []string{"lab", "--bin-dir", "/nowhere"}, 1, "", "/nowhere/twilld"},
		{"bad overlay", []string{"lab", "--backend", "bgp", "--overlay", "some"}, 1, "", `overlay "some"`},
		{"overlay without BGP", []string{"lab", "up", "--overlay", "always"}, 1, "", "need the backend bgp"},
		{"bad subnets", []string{"lab", "--subnets", "300"}, 1, "", "300 subnets"},
		{"two clusters cannot stay", []string{"lab", "--backend", "vxlan,bgp", "--keep"}, 1, "", "--keep: only one cluster"},
		{"only the demo takes two backends", []string{"lab", "up", "--backend", "vxlan,bgp"}, 1, "", `backend "vxlan,bgp"`},
		{"switch to nothing", []string{"lab", "switch"}, 1, "", `required flag(s) "backend"`},
		{"no lab: switch", []string{"lab", "switch", "--backend", "bgp", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"no lab: pods", []string{"lab", "pods", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"no lab: attach", []string{"lab", "attach", "node1", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"bad label", []string{"lab", "attach", "node1", "--label", "web"}, 1, "", `--label "web": want KEY=VALUE`},
		{"no lab: detach", []string{"lab", "detach", "web-1", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"no lab: matrix", []string{"lab", "matrix", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"no lab: exec", []string{"lab", "exec", "--state-dir", state, "node1", "--", "ls", "-l"}, 1, "", "open lab demo: not found"},
		{"exec without a command", []string{"lab", "exec", "node1", "--"}, 1, "", "want a command"},
		{"no lab: status", []string{"lab", "status", "--state-dir", state}, 1, "", "open lab demo: not found"},
		{"no lab: down", []string{"lab", "down", "--state-dir", state}, 0, "", "there is no lab demo"},
		{"no labs", []string{"lab", "status", "--all", "--state-dir", state}, 0, "LAB", ""},
		{"no labs, JSON", []string{"lab", "status", "--all", "-o", "json", "--state-dir", state}, 0, "[]", ""},
		{"bad format", []string{"lab", "status", "--all", "-o", "xml", "--state-dir", state}, 1, "", `--output "xml"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runLine(t, tt.args...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("exit code %d, want %d\nstdout %q\nstderr %q", code, tt.code, stdout, stderr)
			}
		})
	}
}

func TestEveryCommandIsExplained(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%q has no description", cmd.CommandPath())
		}
		if cmd.HasParent() && !cmd.Hidden && cmd.Name() != "version" && cmd.Example == "" {
			t.Errorf("%q has no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(newRoot(streams{}))
}

func TestOptions(t *testing.T) {
	flags := &labFlags{dualStack: true, networks: []string{"10.0.0.0/8", "fd00::/40"}, backendConfig: `{"VNI":7}`}
	got, err := flags.options()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(struct{ Family, Networks, BackendConfig any }{got.Family, got.Networks, got.BackendConfig})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Family":"dual-stack","Networks":["10.0.0.0/8","fd00::/40"],"BackendConfig":{"VNI":7}}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
}

func TestVerdict(t *testing.T) {
	if err := verdict(&matrix.Report{Failed: 0}, nil); err != nil {
		t.Errorf("all well: %v", err)
	}
	if err := verdict(&matrix.Report{Failed: 1}, nil); err == nil {
		t.Error("a path that does not work is no failure")
	}
}

func TestProgress(t *testing.T) {
	events := []lab.Progress{
		{Stage: lab.StageNodes, Done: 1, Total: 2},
		{Stage: lab.StageEtcd, Done: 1, Total: 1},
		{Stage: lab.StageNodes, Done: 2, Total: 2},
		{Stage: lab.StagePods, Done: 1, Total: 2},
	}
	tests := []struct {
		name     string
		terminal bool
		want     string
	}{
		{"file", false, " 0.0 s  etcd     1/1\n 0.0 s  nodes    2/2\n"},
		{"terminal", true, "\r\x1b[K 0.0 s  nodes    1/2\r\x1b[K 0.0 s  etcd     1/1\n\r\x1b[K 0.0 s  nodes    2/2\n\r\x1b[K 0.0 s  pods     1/2\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			p := &progress{w: &out, began: time.Now(), terminal: tt.terminal}
			for _, e := range events {
				p.show(e)
			}
			p.finish()
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
