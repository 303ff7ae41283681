package dnat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// receivers count the datagrams that come to the endpoints, each on a socket of its own.
type receivers struct {
	t     *testing.T
	count []atomic.Int64
}

func (r *rig) receive(endpoints []service.Endpoint) *receivers {
	r.t.Helper()
	all := &receivers{t: r.t, count: make([]atomic.Int64, len(endpoints))}
	for i, e := range endpoints {
		var conn *net.UDPConn
		r.servers.do(func() {
			var err error
			if conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(e.Addr)); err != nil {
				r.t.Error(err)
			}
		})
		if r.t.Failed() {
			r.t.FailNow()
		}
		_ = conn.SetReadBuffer(4 << 20)
		r.t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				all.count[i].Add(1)
				if n > 1 { // asks for an answer
					_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
				}
			}
		}()
	}
	return all
}

func (all *receivers) total() (n int64) {
	for i := range all.count {
		n += all.count[i].Load()
	}
	return n
}

// wait waits until so many datagrams have come.
func (all *receivers) wait(want int64) {
	all.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); all.total() < want; {
		if time.Now().After(deadline) {
			all.t.Fatalf("%d datagrams came of %d", all.total(), want)
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e5}, nil)
	}
}

// burst sends a datagram from every port in a range of a source address: each is a connection of its own to the kernel.
func (p *place) burst(src netip.Addr, dst netip.AddrPort, from, n int) {
	p.t.Helper()
	p.do(func() {
		for port := from; port < from+n; port++ {
			if err := datagram(netip.AddrPortFrom(src, uint16(port)), dst); err != nil {
				p.t.Errorf("from port %d: %v", port, err)
				return
			}
		}
	})
}

func datagram(src, dst netip.AddrPort) error {
	family := unix.AF_INET
	if src.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(src)); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte{1}, 0, sockaddr(dst))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func udpFrontend(f family, s service.Scheduler, at string, endpoints ...string) service.Frontend {
	fe := f.frontend(at, endpoints...)
	fe.Protocol, fe.Scheduler = store.UDP, s
	return fe
}

var fourEndpoints = []string{"10.1.1.2:9000", "10.1.2.2:9000", "10.1.2.3:9000", "10.1.2.4:9000"}

// TestBalance counts where connections go: for those by chance, chi-square with 3 degrees of freedom must be below 16.27 (p = 0.001), and the test is
// repeated once, so that one run of a million fails by chance.
func TestBalance(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			dst := f.at("10.96.0.1:53")
			counts := r.receive(f.backends(fourEndpoints...))
			sent := int64(0)
			send := func(n int) {
				for n > 0 {
					src, part := f.addr(fmt.Sprintf("10.1.7.%d", 1+sent/50000%5)), min(n, 200) // a socket that is not read holds 256
					r.clients.burst(src, dst, 10000+int(sent%50000), part)
					sent, n = sent+int64(part), n-part
					counts.wait(sent)
				}
			}
			shares := func(n int) (out []float64) {
				before := make([]int64, len(counts.count))
				for i := range before {
					before[i] = counts.count[i].Load()
				}
				send(n)
				for i := range before {
					out = append(out, float64(counts.count[i].Load()-before[i]))
				}
				return out
			}
			chi := func(weights ...float64) (sum float64) {
				have, total, n := shares(50000), 0.0, 50000.0
				for _, w := range weights {
					total += w
				}
				for i, w := range weights {
					want := n * w / total
					sum += (have[i] - want) * (have[i] - want) / want
				}
				t.Logf("%v: chi-square %.1f", have, sum)
				return sum
			}
			r.set(svc("it", udpFrontend(f, service.Random, "10.96.0.1:53", fourEndpoints...)))
			balanced := func(weights ...float64) {
				t.Helper()
				first := chi(weights...)
				if first > 16.27 && chi(weights...) > 16.27 {
					t.Errorf("not balanced by %v", weights)
				}
			}
			balanced(1, 1, 1, 1)
			heavy := udpFrontend(f, service.Random, "10.96.0.1:53", fourEndpoints...)
			heavy.Endpoints[0].Weight = 5
			r.set(svc("it", heavy))
			balanced(5, 1, 1, 1)
			r.set(svc("it", udpFrontend(f, service.RoundRobin, "10.96.0.1:53", fourEndpoints...)))
			for i, n := range shares(20000) {
				if n != 5000 {
					t.Errorf("round robin: endpoint %d has %v of 20000", i, n)
				}
			}
			r.set(svc("it", udpFrontend(f, service.Maglev, "10.96.0.1:53", fourEndpoints...)))
			for i, n := range shares(20000) {
				if n < 4500 || n > 5500 {
					t.Errorf("Maglev: endpoint %d has %v of 20000", i, n)
				}
			}
		})
	}
}

// TestNoPacketIsLostWhileEndpointsComeAndGo sends connections all the time, and changes the number of endpoints between 1 and 4. Each datagram must
// come to an endpoint, since all endpoints are alive.
func TestNoPacketIsLostWhileEndpointsComeAndGo(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			counts := r.receive(f.backends(fourEndpoints...))
			change := func(i int) {
				fe := udpFrontend(f, service.Random, "10.96.0.1:53", fourEndpoints[:1+i%4]...)
				u := r.table.Set(changes(svc("it", fe)))
				if u.Skeleton {
					r.sync()
				}
				r.change(u.Elements)
			}
			change(3)
			done := make(chan struct{})
			const total = 20000
			go func() {
				defer close(done)
				for n := 0; n < total; n += 500 {
					r.clients.burst(f.addr("10.1.7.1"), f.at("10.96.0.1:53"), 10000+n, 500)
					counts.wait(int64(n + 500))
				}
			}()
			n := 0
			for running := true; running; n++ {
				change(n * 3)
				select {
				case <-done:
					running = false
				default:
				}
			}
			t.Logf("%d changes", n)
			if counts.total() != total {
				t.Errorf("%d datagrams of %d came", counts.total(), total)
			}
		})
	}
}

// TestDatagramsAreRefused: a sender of UDP gets the ICMP error at once.
func TestDatagramsAreRefused(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			r.set(svc("it", udpFrontend(f, service.Random, "10.96.0.1:53")))
			for _, p := range []struct {
				place *place
				src   netip.AddrPort
			}{{r.clients, f.at("10.1.1.8:2000")}, {r.node, f.at(theNode)}} {
				p.place.do(func() {
					c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.src.Addr(), 0)), net.UDPAddrFromAddrPort(f.at("10.96.0.1:53")))
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					_, _ = c.Write([]byte("hello"))
					_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
					if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("from %v: %v", p.src, err)
					}
				})
			}
		})
	}
}
