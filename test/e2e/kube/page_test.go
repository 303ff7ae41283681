package kube

import (
	"os"
	"strings"
	"testing"
)

// page is what an operator reads: its commands are run as they stand there.
type page struct {
	file string
	text string
}

// open reads a page. Addresses in it are those of an example.
func open(t testing.TB, file string, addrs ...string) page {
	t.Helper()
	text, err := os.ReadFile(repository(file))
	must(t, err)
	return page{file, strings.NewReplacer(addrs...).Replace(string(text))}
}

// command returns the command of the page's blocks of shell that begins like this; there has to be one.
func (p page) command(t testing.TB, begin string) string {
	t.Helper()
	var found []string
	for i, part := range strings.Split(p.text, "```") {
		script, isShell := strings.CutPrefix(part, "sh\n")
		if i%2 == 0 || !isShell {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(script, "\\\n", "")) {
			if strings.HasPrefix(line, begin) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d commands that begin with %q, want one", p.file, len(found), begin)
	}
	return found[0]
}

// step is a part of a page, for which the parts before have to be done.
type step[T any] struct {
	name string
	run  func(*testing.T, T)
}

// inOrder does the steps of a page as subtests, up to the first that fails.
func inOrder[T any](t *testing.T, on T, steps ...step[T]) {
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.run(t, on) }) {
			return
		}
	}
}
