//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/plugins/delegate"
)

var (
	node4, outside4 = netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24")
	node6, outside6 = netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("2001:db8::2/64")
)

// outside returns a namespace on a link to the node, as another machine would be.
func (n *node) outside() netns {
	n.t.Helper()
	out := newNetns(n.t)
	set := func(name string, addrs ...netip.Prefix) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a.String())
			if err != nil {
				return err
			}
			if a.Addr().Is6() {
				addr.Flags = 0x2 // IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	n.do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(int(out.file.Fd()))})
		return errors.Join(err, set("uplink", node4, node6))
	})
	out.do(func() error { return set("eth0", outside4, outside6) })
	return out
}

func mapping(hostPort int, protocol, hostIP string) map[string]any {
	return map[string]any{"hostPort": hostPort, "containerPort": 7, "protocol": protocol, "hostIP": hostIP}
}

func portMappings(m ...any) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": m}}
}

// Host ports from everywhere, with and without bridged packets passing the packet filter (br_netfilter).
func TestHostPorts(t *testing.T) {
	for _, callIPTables := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+callIPTables, func(t *testing.T) {
			n := newNode(t, subnet4, subnet6)
			n.do(func() error {
				return errors.Join(os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(callIPTables), 0),
					os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte(callIPTables), 0))
			})
			outside := n.outside()
			server := n.add("server", portMappings(mapping(8080, "tcp", ""), mapping(5353, "udp", ""), mapping(8081, "tcp", node4.Addr().String()),
				mapping(8082, "tcp", node6.Addr().String()), mapping(8083, "tcp", "127.0.0.1")))
			server.echo(7)
			neighbour := n.add("neighbour", nil)
			clients := map[string]netns{"outside": outside, "node": n.netns, "server itself": server.netns, "neighbour": neighbour.netns}
			for name, client := range clients {
				for _, target := range []struct {
					network string
					addr    netip.Addr
					port    uint16
				}{
					{"tcp", node4.Addr(), 8080}, {"udp", node4.Addr(), 5353}, {"tcp", node6.Addr(), 8080}, {"udp", node6.Addr(), 5353},
					{"tcp", node4.Addr(), 8081}, {"tcp", node6.Addr(), 8082},
				} {
					seen, err := client.ask(target.network, netip.AddrPortFrom(target.addr, target.port))
					if err != nil {
						t.Errorf("%s asks %s %s:%d: %v", name, target.network, target.addr, target.port, err)
					}
					if name == "outside" && seen != outside4.Addr().String() && seen != outside6.Addr().String() {
						t.Errorf("the pod sees %s as %s: its address must not be hidden", name, seen)
					}
				}
			}
			localhost := netip.MustParseAddr("127.0.0.1")
			for _, to := range []struct {
				network string
				port    uint16
			}{{"tcp", 8080}, {"udp", 5353}, {"tcp", 8083}} {
				if _, err := n.ask(to.network, netip.AddrPortFrom(localhost, to.port)); err != nil {
					t.Errorf("node asks localhost %s:%d: %v", to.network, to.port, err)
				}
			}
			for _, closed := range []netip.AddrPort{netip.AddrPortFrom(node6.Addr(), 8081), netip.AddrPortFrom(node4.Addr(), 8082),
				netip.AddrPortFrom(node4.Addr(), 8083), netip.MustParseAddrPort("[::1]:8080")} {
				if _, err := n.ask("tcp", closed); err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s: have error %v, want it refused", closed, err)
				}
			}
			n.must(call{verb: "DEL", id: "server"})
			if _, err := outside.ask("tcp", netip.AddrPortFrom(node4.Addr(), 8080)); err == nil {
				t.Error("the port leads somewhere after the pod is gone")
			}
		})
	}
}

// route_localnet on the bridge must not let pods reach what listens on the node's loopback addresses (CVE-2020-8558).
func TestLoopbackIsGuarded(t *testing.T) {
	n := newNode(t, subnet4)
	p := n.add("a", portMappings(mapping(8080, "tcp", "")))
	n.echo(99)
	got := make(chan struct{}, 1)
	var l net.PacketConn
	n.do(func() (err error) { l, err = net.ListenPacket("udp4", "127.0.0.1:98"); return err })
	defer l.Close()
	go func() {
		if _, _, err := l.ReadFrom(make([]byte, 1)); err == nil {
			got <- struct{}{}
		}
	}()
	p.sendLoopbackTo(netip.MustParseAddr("10.5.1.1"))
	p.do(func() error {
		c, err := net.Dial("udp4", "127.0.0.1:98")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	})
	// A packet that is answered, sent after the other one, shows that the other one would have been here.
	if _, err := p.ask("udp", netip.MustParseAddrPort("10.5.1.1:99")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
		t.Error("a pod reached the node's loopback address")
	default:
	}
}

func TestHostPortTaken(t *testing.T) {
	n := newNode(t, subnet4)
	n.add("first", portMappings(mapping(8080, "tcp", "")))
	before := n.left()
	p := newNetns(t)
	_, err := n.run(call{verb: "ADD", id: "second", netns: p.path, keys: portMappings(mapping(8081, "tcp", ""), mapping(8080, "tcp", ""))})
	var printed *delegate.Error
	if !errors.As(err, &printed) || printed.Code != codePortTaken || !strings.Contains(printed.Msg, "tcp * port 8080") ||
		!strings.Contains(printed.Msg, "10.5.1.2") {
		t.Errorf("have error %v, want code %d that names port and pod", err, codePortTaken)
	}
	if after := n.left(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	n.must(call{verb: "ADD", id: "other protocol", netns: p.path, keys: portMappings(mapping(8080, "udp", ""))}.as("third"))
}

func (c call) as(id string) call {
	c.id = id
	return c
}

// A client that keeps sending UDP from one port reaches the pod that has the host port now.
func TestUDPFollowsTheHostPort(t *testing.T) {
	n := newNode(t, subnet4)
	outside := n.outside()
	var c net.Conn
	outside.do(func() (err error) {
		c, err = net.Dial("udp4", netip.AddrPortFrom(node4.Addr(), 5353).String())
		return err
	})
	defer c.Close()
	ask := func() error {
		if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 100))
		return err
	}
	_ = ask() // nobody is there yet: the flow gets an entry that leads to the node itself
	for _, id := range []string{"first", "second"} {
		p := n.add(id, portMappings(mapping(5353, "udp", "")))
		p.echo(7)
		eventually(t, "an answer of "+id, func() bool { return ask() == nil })
		n.must(call{verb: "DEL", id: id})
	}
}

// transfer sends bytes from one namespace to another and returns how long that took.
func transfer(from, to netns, addr netip.Addr, bytes int64) time.Duration {
	from.t.Helper()
	var l net.Listener
	to.do(func() (err error) { l, err = net.Listen("tcp", ":9"); return err })
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- from.try(func() error {
			c, err := net.Dial("tcp", netip.AddrPortFrom(addr, 9).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(make([]byte, bytes))
			return err
		})
	}()
	c, err := l.Accept()
	if err != nil {
		from.t.Fatal(err)
	}
	defer c.Close()
	start := time.Now()
	got, err := io.Copy(io.Discard, c)
	if err := errors.Join(err, <-sent); err != nil || got != bytes {
		from.t.Fatalf("received %d of %d bytes, error %v", got, bytes, err)
	}
	return time.Since(start)
}

// 1 MB at 16 Mbit/s takes half a second, less what the burst lets through at once, also when the runtime asks for a burst of
// MaxUint32 bits, as containerd does.
func TestBandwidth(t *testing.T) {
	const size, burst = 1_000_000, 1<<32 - 1
	least := 300 * time.Millisecond
	n := newNode(t, subnet4, subnet6)
	for name, limits := range map[string]map[string]any{
		"to the pod":   {"ingressRate": 16_000_000, "ingressBurst": burst},
		"from the pod": {"egressRate": 16_000_000, "egressBurst": burst},
	} {
		t.Run(name, func(t *testing.T) {
			keys := map[string]any{"runtimeConfig": map[string]any{"bandwidth": limits}}
			shaped, free := n.add("shaped", keys), n.add("free", nil)
			for _, ip := range []netip.Addr{node4.Addr(), node6.Addr()} {
				in := transfer(free.netns, shaped.netns, shaped.addr(ip), size)
				out := transfer(shaped.netns, free.netns, free.addr(ip), size)
				slow, fast := in, out
				if name == "from the pod" {
					slow, fast = out, in
				}
				if slow < least || slow > 10*least || fast > least {
					t.Errorf("%s: took %s shaped and %s unshaped", ip, slow, fast)
				}
			}
			n.must(call{verb: "CHECK", id: "shaped", netns: shaped.path, keys: shaped.with(keys)})
			for _, id := range []string{"shaped", "free"} {
				n.must(call{verb: "DEL", id: id})
			}
			n.wantNothingLeft()
		})
	}
}
