package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand visits the commands that people are shown, but for cobra's own.
func everyCommand(t *testing.T, visit func(t *testing.T, cmd *cobra.Command)) {
	t.Helper()
	var walk func(cmd *cobra.Command)
	count := 0
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
				continue
			}
			count++
			t.Run(c.CommandPath(), func(t *testing.T) { visit(t, c) })
			walk(c)
		}
	}
	walk(newRoot(streams{out: io.Discard, err: io.Discard}))
	if count < 25 {
		t.Errorf("only %d commands are visited", count)
	}
}

// examples are the command lines of a command's examples, without what they are piped into and without remarks.
func examples(cmd *cobra.Command) (lines [][]string) {
	for line := range strings.Lines(cmd.Example) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
		line, _, _ = strings.Cut(line, " > ")
		line, _, _ = strings.Cut(line, "   ")
		if rest, ok := strings.CutPrefix(line, "twillctl "); ok {
			lines = append(lines, strings.Fields(strings.ReplaceAll(rest, "'", "")))
		}
	}
	return lines
}

// Each command has examples, and all that they name is there.
func TestExamples(t *testing.T) {
	everyCommand(t, func(t *testing.T, cmd *cobra.Command) {
		lines := examples(cmd)
		if len(lines) == 0 && cmd.Name() != "version" {
			t.Error("it has no example")
		}
		for _, args := range lines {
			root := newRoot(streams{out: io.Discard, err: io.Discard}) // flags keep what was parsed
			found, rest, err := root.Find(args)
			if err != nil || found == root {
				t.Errorf("%v: %v", args, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%v: %v", args, err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%v: %v", args, err)
			}
			if err := found.ValidateFlagGroups(); err != nil {
				t.Errorf("%v: %v", args, err)
			}
			if found.PreRunE != nil {
				if err := found.PreRunE(found, nil); err != nil {
					t.Errorf("%v: %v", args, err)
				}
			}
		}
	})
}

// doing are the commands that do something or print one line, or what another program prints.
var doing = []string{"twillctl version", "twillctl apply", "twillctl delete", "twillctl sysdump", "twillctl lab", "twillctl lab up", "twillctl lab down", "twillctl lab exec",
	"twillctl lab attach", "twillctl lab detach"}

// Each command that lists something does so for programs, too, and refuses a format that it has not.
func TestFormats(t *testing.T) {
	everyCommand(t, func(t *testing.T, cmd *cobra.Command) {
		flag := cmd.Flags().Lookup("output")
		switch {
		case flag == nil && (slices.Contains(doing, cmd.CommandPath()) || !cmd.Runnable()):
			return
		case flag == nil:
			t.Fatal("it has no --output")
		case slices.Contains(doing, cmd.CommandPath()):
			t.Fatal("it lists something: take it off the list of those that do not")
		}
		if flag.Shorthand != "o" || !strings.HasPrefix(flag.Usage, "table, ") || !strings.HasSuffix(flag.Usage, "yaml or json") {
			t.Errorf("-%s: %q", flag.Shorthand, flag.Usage)
		}
		for value, good := range map[string]bool{"table": true, "json": true, "yaml": true, "xml": false, "": false} {
			if err := cmd.Flags().Set("output", value); err != nil {
				t.Fatal(err)
			}
			if err := cmd.PreRunE(cmd, nil); (err == nil) != good {
				t.Errorf("-o %q: %v", value, err)
			}
		}
	})
}

// A shell is told words, and never an error, whatever cannot be found out.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"formats", []string{"status", "-o", ""}, []string{"table", "wide", "yaml", "json"}},
		{"types", []string{"get", "net"}, []string{"networkpolicies"}},
		{"no daemon", []string{"node", "--run-dir", dir, ""}, nil},
		{"no lab", []string{"node", "--lab", "none", "--state-dir", dir, ""}, nil},
		{"no more arguments", []string{"node", "a", ""}, nil},
		{"no labs", []string{"status", "--state-dir", dir, "--lab", ""}, nil},
		{"no pods", []string{"trace", "--run-dir", dir, ""}, nil},
		{"no Services", []string{"service", "--run-dir", dir, ""}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runLine(t, append([]string{"__complete"}, tt.args...)...)
			var words []string
			for line := range strings.Lines(stdout) {
				if word := strings.TrimSpace(line); !strings.HasPrefix(word, ":") {
					words = append(words, word)
				}
			}
			if code != 0 || !slices.Equal(words, tt.want) || !strings.Contains(stdout, ":4") && tt.want == nil {
				t.Errorf("exit code %d, words %v\n%s%s", code, words, stdout, stderr)
			}
		})
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, stdout, _ := runLine(t, "completion", shell); code != 0 || !strings.Contains(stdout, "__complete") {
			t.Errorf("%s: exit code %d, %d bytes", shell, code, len(stdout))
		}
	}
}
