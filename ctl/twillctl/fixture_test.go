package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/daemontest"
)

// runLine runs a command line and returns its exit code and what it printed.
func runLine(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), args, streams{out: &out, err: &err})
	return code, out.String(), err.String()
}

// answer is what a command line is to give: parts of what it prints.
type answer struct {
	code   int
	stdout []string
	stderr string // "" when it is to print nothing there
}

func (a answer) check(t *testing.T, args ...string) {
	t.Helper()
	code, stdout, stderr := runLine(t, args...)
	if code != a.code || !strings.Contains(stderr, a.stderr) || a.stderr == "" && stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range a.stdout {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}

// withDaemon answers as a daemon does, of what is not nil, and returns its run directory.
func withDaemon(t *testing.T, b api.BGP, s api.Services, p api.Policies) (runDir string) {
	t.Helper()
	runDir = t.TempDir()
	about := api.About{BGP: func() api.BGP { return b }, Services: func() api.Services { return s }, Policies: func() api.Policies { return p }}
	server, err := api.Listen(runDir, about, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Start(t, server.Run)
	return runDir
}

// objectStep is a command line about objects in an etcd.
type objectStep struct {
	name string
	args string
	code int
	want string // all of stdout as a pattern, or a part of stderr
}

// run runs the step, with more arguments.
func (s objectStep) run(t *testing.T, more ...string) {
	t.Helper()
	code, stdout, stderr := runLine(t, append(strings.Fields(s.args), more...)...)
	matched := strings.Contains(stderr, s.want)
	if s.code == 0 {
		matched = regexp.MustCompile("^" + s.want + "$").MatchString(stdout)
	}
	if code != s.code || !matched {
		t.Errorf("exit code %d, want %d with %s\nstdout %s\nstderr %s", code, s.code, s.want, stdout, stderr)
	}
}

// writeFile writes a file and returns its path.
func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
