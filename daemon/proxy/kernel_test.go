package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/proxy/dnat"
)

func run(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// kernelRig is a proxy on the kernel of the tests' own network namespace, where all endpoints live on lo.
func kernelRig(t *testing.T) (*rig, *nft.Handle) {
	t.Helper()
	run(t, `ip addr replace 192.0.2.1/32 dev lo
		ip addr replace 10.244.1.5/32 dev lo
		ip addr replace 10.244.1.6/32 dev lo
		ip route replace 10.96.0.0/16 dev lo src 192.0.2.1`)
	handle, err := nft.Open(discard())
	if err != nil {
		t.Fatal(err)
	}
	monitor, err := handle.NewMonitor()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, kerneltest.NewTables())
	r.proxy.opts.Kernel = handle
	real := Conntrack{Flush: conntrack.Flush, Sweep: conntrack.Sweep, Each: conntrack.Each}
	r.proxy.opts.Conntrack, r.proxy.flusher.conntrack = real, real
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = monitor.Run(ctx, r.proxy.Observe) }()
	t.Cleanup(func() {
		r.stop()
		cancel()
		<-ended
		if err := handle.SyncTables(context.Background(), nil, []string{dnat.TableName}); err != nil {
			t.Error(err)
		}
		_ = handle.Close()
	})
	return r, handle
}

// serve answers every connection to an address with it, and keeps the connection.
func serve(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, address) // the other end checks
		}
	}()
}

// connect connects to a Service and says which endpoint answered.
func connect(address string) (net.Conn, string, error) {
	c, err := net.DialTimeout("tcp", address, daemontest.Patience)
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(daemontest.Patience))
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		_ = c.Close()
	}
	return c, string(b[:n]), err
}

// On the real kernel: a change, a table that is deleted, a restart, and a connection whose endpoint is gone.
func TestOnTheKernel(t *testing.T) {
	r, handle := kernelRig(t)
	serve(t, "10.244.1.5:8080")
	serve(t, "10.244.1.6:8080")
	r.begin(svc("web", 1, reset), slice("web", "10.244.1.5"), svc("calm", 2), slice("calm", "10.244.1.5"))
	answers := func(want string) {
		t.Helper()
		r.until("an answer of "+want, func() bool {
			c, who, err := connect("10.96.0.1:80")
			if err == nil {
				_ = c.Close()
			}
			return who == want
		})
	}
	answers("10.244.1.5:8080")

	began := time.Now()
	run(t, "nft delete table ip "+dnat.TableName)
	answers("10.244.1.5:8080")
	t.Logf("a deleted table is repaired after %v", time.Since(began))

	hurt, _, err := connect("10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer hurt.Close()
	calm, _, err := connect("10.96.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer calm.Close()
	r.tell(slice("web", "10.244.1.6"), slice("calm", "10.244.1.6"))
	answers("10.244.1.6:8080")
	r.until("the reset of the connection to the endpoint that is gone", func() bool {
		_, err := hurt.Write([]byte("x"))
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	})
	for range 3 {
		if _, err := calm.Write([]byte("x")); err != nil {
			t.Errorf("a Service that did not ask for it: %v", err)
		}
	}

	r.stop()
	list := func() map[kernel.Entry]bool {
		all := map[kernel.Entry]bool{}
		id := kernel.SetID{Family: kernel.FamilyIPv4, Table: dnat.TableName, Set: "endpoints"}
		if err := handle.Entries(t.Context(), id, func() { clear(all) }, func(e kernel.Entry) { all[e] = true }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := list()
	again := newRig(t, r.tables)
	again.proxy.opts.Kernel = handle
	again.begin(svc("web", 1, reset), slice("web", "10.244.1.6"), svc("calm", 2), slice("calm", "10.244.1.6"))
	if diff := cmp.Diff(before, list()); diff != "" {
		t.Error(diff)
	}
	if n := again.figure("twill_proxy_elements_written_total"); n != 0 {
		t.Errorf("the restart wrote %v elements", n)
	}
	again.stop()
}
