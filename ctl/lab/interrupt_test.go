package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// interruption ends "twillctl lab up" after it printed a line, or at once.
type interruption struct {
	after  string // a stage; "" stands for the first namespace
	signal syscall.Signal
	args   []string // more flags of the lab
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		for _, after := range []string{"", "underlay", "nodes", "etcd", "daemons"} {
			t.Run(fmt.Sprintf("%v after %q", sig, after), func(t *testing.T) { interrupt(t, interruption{after: after, signal: sig}) })
		}
	}
	routed := []string{"--subnets", "3", "--backend", "bgp", "--tor"}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, after := range []string{"", "underlay", "daemons"} {
			t.Run(fmt.Sprintf("%v after %q, with a router", sig, after), func(t *testing.T) { interrupt(t, interruption{after, sig, routed}) })
		}
	}
}

func interrupt(t *testing.T, i interruption) {
	o := options(t, "cut")
	args := []string{"lab", "up", "--name", o.Name, "--state-dir", o.StateDir, "--nodes", "6", "--pods", "8"}
	cmd := exec.Command(filepath.Join(programs, "twillctl"), append(args, i.args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	if i.after == "" {
		eventually(t, "the first namespace", func() error {
			if len(namespaces(t, o.Name)) == 0 {
				return errors.New("there is none")
			}
			return nil
		})
	} else {
		for lines.Scan() && !strings.Contains(lines.Text(), i.after) {
		}
	}
	if err := cmd.Process.Signal(i.signal); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(stderr)
	err = cmd.Wait()
	if i.signal == syscall.SIGKILL {
		if found, err := lab.Destroy(context30(t), o); !found || err != nil {
			t.Errorf("removing what a killed process left: %v, %v", found, err)
		}
		return
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v\n%s", err, rest)
	}
}

func TestUpAfterAKilledUp(t *testing.T) {
	o := options(t, "again")
	o.Nodes = 1
	cmd := exec.Command(filepath.Join(programs, "twillctl"), "lab", "up", "--name", o.Name, "--state-dir", o.StateDir, "--nodes", "5")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two namespaces", func() error {
		if len(namespaces(t, o.Name)) < 2 {
			return errors.New("there are fewer")
		}
		return nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	l := up(t, o)
	if got := namespaces(t, o.Name); !slices.Equal(got, []string{o.Name + "-node1", o.Name + "-underlay"}) {
		t.Errorf("there are %v", got)
	}
	if err := l.Nodes()[0].Ready(context30(t)); err != nil {
		t.Error(err)
	}
}

func TestFailedUp(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep %v", keep), func(t *testing.T) {
			o := options(t, "failed")
			o.Nodes, o.DaemonArgs, o.KeepOnFailure = 1, []string{"--no-such-flag"}, keep
			l, err := lab.New(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Up(context30(t)); err == nil || !strings.Contains(err.Error(), "no-such-flag") {
				t.Errorf("got %v; want the end of the daemon's log", err)
			}
			if found, err := lab.Destroy(context30(t), o); found != keep || err != nil {
				t.Errorf("there was something left: %v, %v", found, err)
			}
		})
	}
}
