package harness

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

// Shell runs lines of shell inside a namespace and returns their standard output; a failure ends the test.
func Shell(t testing.TB, ns netns.Namespace, lines string) string {
	t.Helper()
	out, err := TryShell(t.Context(), ns, lines)
	Must(t, err)
	return out
}

// TryShell runs lines of shell inside a namespace and returns their standard output. The error of a failure holds their standard error.
func TryShell(ctx context.Context, ns netns.Namespace, lines string) (string, error) {
	out, err := lab.Command(ctx, ns, "sh", "-ec", lines).Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return string(out), fmt.Errorf("in %s: %s: %w", ns.Name(), lines, err)
	}
	return string(out), nil
}

// NewLab returns a lab that does not exist yet. What exists of it is removed when the test ends; see Down.
func NewLab(t testing.TB, options lab.Options) *lab.Lab {
	t.Helper()
	l, err := lab.New(options)
	Must(t, err)
	t.Cleanup(func() { Down(t, l) })
	return l
}

// Down takes a lab down within a minute, and prints what its daemons said last when the test failed. Doing so again does nothing.
func Down(t testing.TB, l *lab.Lab) {
	t.Helper()
	if t.Failed() {
		logDaemons(t, l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Down(ctx); err != nil {
		t.Error(err)
	}
}

// logDaemons prints the end of what the daemons said.
func logDaemons(t testing.TB, l *lab.Lab) {
	const most = 4000 // bytes of each
	for i, n := range l.Nodes() {
		if i == 4 {
			t.Log("and so on")
			return
		}
		text, err := n.DaemonLog()
		if err != nil {
			continue // it never ran
		}
		t.Logf("log of %s:\n%s", n.Name, text[max(0, len(text)-most):])
	}
}
