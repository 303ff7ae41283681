package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// create makes a namespace that the test's end removes.
func create(t *testing.T, name string) netns.Namespace {
	t.Helper()
	ns, err := netns.Create(fmt.Sprintf("twilltest-%d-%s", os.Getpid(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func links(t *testing.T) []string {
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

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		os.Exit(1)
	}
	marker := fmt.Sprintf("/run/twilltest-%d.netns-mount", os.Getpid())
	if err := netns.PrepareDir(marker); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := netns.RestoreDir(marker); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestDoIsInsideAndComesBack(t *testing.T) {
	outside := links(t)
	ns := create(t, "inside")
	failure := errors.New("what f says")
	err := ns.Do(func() error {
		if got := links(t); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("a new namespace has the links %v", got)
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Do returned %v", err)
	}
	if got := links(t); !slices.Equal(got, outside) {
		t.Errorf("outside there are %v, before there were %v", got, outside)
	}
}

func TestDoNested(t *testing.T) {
	a, b := create(t, "a"), create(t, "b")
	set := func(ns netns.Namespace, value string) {
		if err := ns.Sysctl("ipv4/ip_forward", value); err != nil {
			t.Fatal(err)
		}
	}
	set(a, "1")
	err := a.Do(func() error {
		set(b, "0")
		if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(text) != "1\n" {
			t.Errorf("back in a, ip_forward is %q, %v", text, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDoFromManyGoroutines(t *testing.T) {
	outside := links(t)
	a, b := create(t, "a"), create(t, "b")
	var g errgroup.Group
	for i := range 200 {
		g.Go(func() error {
			if i%2 == 0 {
				return a.Sysctl("ipv4/ip_forward", "1")
			}
			return b.Sysctl("ipv4/ip_forward", "0")
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if got := links(t); !slices.Equal(got, outside) {
		t.Errorf("outside there are %v, before there were %v", got, outside)
	}
}

func TestCreateLeavesAForeignNamespaceAlone(t *testing.T) {
	ns := create(t, "taken")
	if err := ns.Sysctl("ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := netns.Create(ns.Name()); !errors.Is(err, os.ErrExist) {
		t.Fatalf("making it again: %v", err)
	}
	err := ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if string(text) != "1\n" {
			t.Errorf("ip_forward is %q: it is not the same namespace", text)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		if err := netns.Named("twilltest-missing").Remove(); err != nil {
			t.Error(err)
		}
	})
	t.Run("file without a namespace", func(t *testing.T) {
		ns := netns.Named(fmt.Sprintf("twilltest-%d-empty", os.Getpid()))
		if err := os.WriteFile(ns.Path(), nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := ns.Do(func() error { t.Error("f was called"); return nil }); err == nil {
			t.Error("entering an empty file succeeded")
		}
		if err := ns.Remove(); err != nil || ns.Exists() {
			t.Errorf("Remove: %v; it exists: %v", err, ns.Exists())
		}
	})
	t.Run("repeated", func(t *testing.T) {
		ns := create(t, "repeated")
		for range 2 {
			if err := ns.Remove(); err != nil || ns.Exists() {
				t.Errorf("Remove: %v; it exists: %v", err, ns.Exists())
			}
		}
	})
}

func TestDialComesFromInside(t *testing.T) {
	ns := create(t, "dial")
	_, err := ns.Dial(context.Background(), "tcp", "127.0.0.1:1")
	if !errors.Is(err, unix.ENETUNREACH) { // outside, it would be ECONNREFUSED
		t.Errorf("from a namespace whose loopback is down: %v", err)
	}
}
