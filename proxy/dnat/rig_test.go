package dnat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/proxy/service"
)

// place is a network namespace with a thread in it. It vanishes with the test.
type place struct {
	t     testing.TB
	calls chan func()
	tid   int
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{t: t, calls: make(chan func())}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread, and with it the namespace
		p.tid = unix.Gettid()
		started <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range p.calls {
			f()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("unshare network namespace (these tests need root): %v", err)
	}
	t.Cleanup(func() { close(p.calls) })
	return p
}

// do runs f in the namespace.
func (p *place) do(f func()) {
	done := make(chan struct{})
	p.calls <- func() { defer close(done); f() }
	<-done
}

// run runs programs, one a line, and returns what they print.
func (p *place) run(lines string) string {
	p.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var b []byte
		var err error
		p.do(func() { b, err = exec.Command(words[0], words[1:]...).CombinedOutput() })
		if err != nil {
			p.t.Fatalf("%s: %v\n%s", line, err, b)
		}
		out.Write(b)
	}
	return out.String()
}

func (p *place) set(sysctl, value string) {
	p.t.Helper()
	p.do(func() {
		if err := os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0); err != nil {
			p.t.Error(err)
		}
	})
}

// rig is a node with a table, between a namespace with endpoints and one with clients.
type rig struct {
	t                      *testing.T
	family                 family
	node, servers, clients *place
	handle                 *nft.Handle
	table                  *Table
	tcp                    net.Listener
}

func newRig(t *testing.T, f family) *rig {
	t.Helper()
	r := &rig{t: t, family: f, node: newPlace(t), servers: newPlace(t), clients: newPlace(t), table: New(f.config)}
	host, version, flags := 32, "-4", ""
	if f.config.v6() {
		host, version, flags = 128, "-6", "nodad" // usable at once
	}
	for _, p := range []*place{r.node, r.servers, r.clients} {
		p.run("ip link set lo up")
		p.set("ipv6/conf/default/accept_dad", "0")
		p.set("ipv4/conf/all/rp_filter", "0")
		p.set("ipv4/conf/default/rp_filter", "0")
	}
	r.node.set("ipv4/ip_forward", "1")
	r.node.set("ipv6/conf/all/forwarding", "1")
	link := func(name string, p *place, gateway string, addrs ...string) {
		r.node.run(fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d\nip link set %s up\nip addr add %s/%d dev %s %s",
			name, p.tid, name, f.addr(gateway), host, name, flags))
		p.run("ip link set eth0 up")
		for _, a := range addrs {
			p.run(fmt.Sprintf("ip addr add %s/%d dev eth0 %s", f.addr(a), host, flags))
			r.node.run(fmt.Sprintf("ip %s route add %s dev %s", version, f.addr(a), name))
		}
		p.run(fmt.Sprintf("ip %s route add %s dev eth0\nip %s route add default via %s", version, f.addr(gateway), version, f.addr(gateway)))
	}
	r.node.run(fmt.Sprintf("ip addr add %s/%d dev lo", f.at(theNode).Addr(), host))
	link("servers", r.servers, "10.255.0.1", "10.1.1.2", "10.1.1.9", "10.1.2.2", "10.1.2.3", "10.1.2.4")
	link("clients", r.clients, "10.255.0.2", "10.1.1.8", "10.1.2.9", "203.0.113.9", "10.1.7.1", "10.1.7.2", "10.1.7.3", "10.1.7.4", "10.1.7.5")
	r.node.run(fmt.Sprintf("ip %s route add default via %s dev clients src %s", version, f.addr("203.0.113.9"), f.at(theNode).Addr()))
	r.node.do(func() {
		var err error
		if r.handle, err = nft.Open(slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = r.handle.Close() })
	r.start()
	return r
}

// start brings the table into the kernel as a daemon does that has just started.
func (r *rig) start(all ...*service.Service) (writes int) {
	r.t.Helper()
	r.table = New(r.family.config)
	r.adopt(r.table)
	r.sync()
	u := r.table.Reset(all, r.list())
	r.sync()
	r.change(u.Elements)
	return size(u.Elements)
}

func (r *rig) adopt(table *Table) {
	r.t.Helper()
	for _, name := range PlanSets() {
		elements, err := r.handle.ListElements(r.family.config.Family, TableName, name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			r.t.Fatal(err)
		}
		table.Adopt(elements)
	}
}

func size(changes []kernel.SetChange) (n int) {
	for _, c := range changes {
		n += len(c.Remove) + len(c.Add)
	}
	return n
}

func (r *rig) list() *Listing {
	r.t.Helper()
	l := &Listing{}
	for _, name := range BulkSets() {
		id := kernel.SetID{Family: r.family.config.Family, Table: TableName, Set: name}
		if err := r.handle.Entries(r.t.Context(), id, func() { l.Clear(name) }, func(e kernel.Entry) { l.Add(name, e) }); err != nil {
			r.t.Fatal(err)
		}
	}
	return l
}

func (r *rig) sync() {
	r.t.Helper()
	if err := r.handle.SyncTables(r.t.Context(), []kernel.Table{r.table.Skeleton()}, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) change(changes []kernel.SetChange) {
	r.t.Helper()
	if err := r.handle.ChangeElements(r.t.Context(), r.family.config.Family, TableName, changes); err != nil {
		r.t.Fatal(err)
	}
}

// set changes Services and checks that the kernel then holds what it should.
func (r *rig) set(all ...*service.Service) {
	r.t.Helper()
	u := r.table.Set(changes(all...))
	if u.Skeleton {
		r.sync()
	}
	r.change(u.Elements)
	if c := r.table.Compare(r.list()); len(c) > 0 {
		r.t.Errorf("the kernel differs from what it should hold: %d changes", size(c))
	}
}

// serve answers TCP connections to port 8080 of every address in the namespace of the endpoints: with both ends' addresses as it sees them.
func (r *rig) serve() {
	r.t.Helper()
	r.servers.do(func() {
		var err error
		if r.tcp, err = net.Listen("tcp", ":8080"); err != nil {
			r.t.Error(err)
		}
	})
	if r.t.Failed() {
		r.t.FailNow()
	}
	var answering sync.WaitGroup
	r.t.Cleanup(func() { _ = r.tcp.Close(); answering.Wait() })
	answering.Go(func() {
		for {
			c, err := r.tcp.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "%s %s\n", c.LocalAddr(), c.RemoteAddr())
			_ = c.Close()
		}
	})
}

// reach connects from a place and says who answered: drop when nobody did, reject when the connection was refused.
func (p *place) reach(src netip.Addr, dst netip.AddrPort) (answer string) {
	p.do(func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))}
		c, err := d.DialContext(context.Background(), "tcp", dst.String())
		var late net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			answer = "reject"
			return
		case errors.As(err, &late) && late.Timeout():
			answer = "drop"
			return
		case err != nil:
			answer = err.Error()
			return
		}
		defer c.Close()
		var local, remote string
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fscanln(c, &local, &remote); err != nil {
			answer = err.Error()
			return
		}
		answer = local
		if seen, err := netip.ParseAddrPort(remote); err != nil || seen.Addr().Unmap() != src {
			answer += " masqueraded"
		}
	})
	return answer
}
