package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/ping"
)

// patience is for what takes milliseconds on an idle machine.
const patience = 30 * time.Second

// programs is the directory of the real programs.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getuid() != 0 {
			fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
			return 1
		}
		dir, err := os.MkdirTemp("", "twill-lab-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir, "./plugins/twill", "./ipam/twill-ipam", "./daemon/twilld", "./ctl/twillctl")
		build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
			return 1
		}
		programs = dir
		return m.Run()
	}())
}

func context30(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// options returns options for a lab of this test's own, and checks at the test's end that nothing of it is left.
func options(t *testing.T, name string) lab.Options {
	t.Helper()
	// Not t.TempDir, whose name holds the test's: the daemon's socket has a path of at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "twill-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := lab.Options{Name: fmt.Sprintf("twilltest-%d-%s", os.Getpid(), name), StateDir: filepath.Join(dir, "labs"), BinDir: programs}
	links := rootLinks(t)
	t.Cleanup(func() {
		if t.Failed() { // the reason matters more than what it left
			if _, err := lab.Destroy(context.Background(), o); err != nil {
				t.Error(err)
			}
			return
		}
		checkClean(t, o, links)
	})
	return o
}

// checkClean checks that the machine holds nothing of the lab: no name, no mount, no process, no directory, no link.
func checkClean(t *testing.T, o lab.Options, links []string) {
	t.Helper()
	if left := namespaces(t, o.Name); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, o.Name) || strings.Contains(line, o.StateDir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	if left := processes(t, o); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if _, err := os.Lstat(o.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
	if diff := cmp.Diff(links, rootLinks(t)); diff != "" {
		t.Errorf("links outside the lab changed: %s", diff)
	}
}

func namespaces(t *testing.T, lab string) []string {
	t.Helper()
	list, err := os.ReadDir(netns.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), lab+"-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// processes returns the command lines that name the lab's directory or its programs' and are not this test's own.
func processes(t *testing.T, o lab.Options) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), o.StateDir) {
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

func rootLinks(t *testing.T) []string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return names
}

// up makes a lab that the test's end takes down.
func up(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Up(context30(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// bare makes a lab whose nodes have no daemon.
func bare(t *testing.T, name string, nodes int) (*lab.Lab, []*lab.Node) {
	t.Helper()
	l := up(t, options(t, name))
	for range nodes {
		if _, err := l.AddNode(context30(t), lab.NodeOptions{NoDaemon: true}); err != nil {
			t.Fatal(err)
		}
	}
	return l, l.Nodes()
}

// reach pings once; a reply that does not come within wait is an error.
func reach(t *testing.T, from interface{ Do(func() error) error }, to netip.Addr, wait time.Duration) error {
	t.Helper()
	var conn *ping.Conn
	err := from.Do(func() (err error) {
		conn, err = ping.Listen(to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.Ping(context.Background(), to, ping.Options{Count: 1, Timeout: wait}).Err
}

// eventually waits until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline, tick := time.Now().Add(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}
