package kube

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Departures are connections from pods to outside, a new one every few milliseconds, each from another port: so each is masqueraded, or not, by the
// rules that there are at its moment.
type departures struct {
	end      func()
	seen     map[netip.Addr]int // by their sender as it is seen outside; to be read after end
	machines []netip.Addr       // senders that may be seen
}

// depart starts connections from pods, in both families.
func (r *rig) depart(t testing.TB, pods []standing) *departures {
	t.Helper()
	d := &departures{seen: map[netip.Addr]int{}}
	var listener net.PacketConn
	must(t, inside(r.Underlay.Namespace(), func() (err error) {
		listener, err = net.ListenPacket("udp", ":0")
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var sending, listening sync.WaitGroup
	d.end = func() {
		cancel()
		sending.Wait()
		_ = listener.Close()
		listening.Wait()
	}
	t.Cleanup(d.end)
	listening.Go(func() {
		for word := make([]byte, 8); ; {
			_, from, err := listener.(*net.UDPConn).ReadFromUDPAddrPort(word)
			if err != nil { // it is closed
				return
			}
			d.seen[from.Addr().Unmap()]++
		}
	})
	var to []string
	for _, addr := range r.Underlay.Gateways() {
		to = append(to, netip.AddrPortFrom(addr, uint16(listener.LocalAddr().(*net.UDPAddr).Port)).String())
	}
	for _, p := range pods {
		d.machines = append(d.machines, p.machine.Addrs()...)
		file, err := space(p)
		must(t, err)
		sending.Go(func() {
			_ = inside(file, func() error { return knock(ctx, to) }) // who sends nothing is missed in the end
		})
	}
	return d
}

// knock sends a packet to each address, again and again, from another port each time.
func knock(ctx context.Context, to []string) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		for _, addr := range to {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("x")) // nobody has to get it
			_ = conn.Close()
		}
		<-ticker.C
	}
	return nil
}

// masqueraded ends them and checks that all left with the address of a machine.
func (d *departures) masqueraded(t testing.TB) {
	t.Helper()
	d.end()
	t.Logf("connections that were seen outside, by their sender: %v", d.seen)
	rest := 0
	for _, number := range d.seen {
		rest += number
	}
	for _, machine := range d.machines {
		rest -= d.seen[machine]
		if d.seen[machine] == 0 {
			t.Errorf("no connection left as %v", machine)
		}
	}
	if rest > 0 {
		t.Errorf("%d connections left with an address that no machine has", rest)
	}
}
