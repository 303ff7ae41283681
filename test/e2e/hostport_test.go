package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/test/e2e/harness"
)

// servePort answers every line, or every datagram, that comes to a port of a namespace with name and the client's address, until the
// test ends. An invalid address stands for all.
func servePort(t *testing.T, ns netns.Namespace, network string, at netip.AddrPort, name string) {
	t.Helper()
	address := fmt.Sprintf(":%d", at.Port())
	if at.Addr().IsValid() {
		address = at.String()
	}
	if network == "udp" {
		var conn net.PacketConn
		must(t, ns.Do(func() (err error) { conn, err = net.ListenPacket(network, address); return err }))
		t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte(name+" "+from.String()+"\n"), from) // a client that has gone is its own affair
			}
		}()
		return
	}
	var listener net.Listener
	must(t, ns.Do(func() (err error) { listener, err = net.Listen(network, address); return err }))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(name + " " + conn.RemoteAddr().String() + "\n"))
			_ = conn.Close()
		}
	}()
}

// askPort asks what servePort answers.
func askPort(ctx context.Context, from netns.Namespace, network string, to netip.AddrPort, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := from.Dial(ctx, network, to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return question(conn, patience)
}

func question(conn net.Conn, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, isUDP := conn.(*net.UDPConn); isUDP {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}

// nodeAddr returns the node's underlay address of a family.
func nodeAddr(t *testing.T, n *lab.Node, v6 bool) netip.Addr {
	t.Helper()
	for _, a := range n.Addrs() {
		if a.Is6() == v6 {
			return a
		}
	}
	t.Fatalf("%s has no such address", n.Name)
	panic("unreachable")
}

func mapping(protocol string, host, pod int) map[string]any {
	return map[string]any{"protocol": protocol, "hostPort": host, "containerPort": pod}
}

// A host port leads to the pod from wherever one asks, whether bridged packets pass through netfilter or not.
func TestHostPorts(t *testing.T) {
	for _, setting := range []string{"0", "1"} {
		t.Run("bridge-nf-call "+setting, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{Nodes: 2, PodsPerNode: 1, Family: lab.DualStack})
			n := l.Nodes()[0]
			for _, tables := range []string{"iptables", "ip6tables"} {
				must(t, n.Netns().Sysctl("bridge/bridge-nf-call-"+tables, setting))
			}
			onlyV4 := mapping("tcp", 8081, 80)
			onlyV4["hostIP"] = nodeAddr(t, n, false).String()
			p, err := n.AddPod(t.Context(), lab.PodOptions{Name: "server", CapabilityArgs: map[string]any{
				"portMappings": []any{mapping("tcp", 8080, 80), mapping("udp", 8080, 53), mapping("TCP", 443, 443), onlyV4}}})
			must(t, err)
			servePort(t, p.Netns(), "tcp", netip.AddrPortFrom(netip.Addr{}, 80), "web")
			servePort(t, p.Netns(), "udp", netip.AddrPortFrom(netip.Addr{}, 53), "dns")
			reachFromEverywhere(t, l, p)
			t.Run("hostIP", func(t *testing.T) {
				wantPort(t, l.Nodes()[1].Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, false), 8081), "web")
				wantNoPort(t, l.Nodes()[1].Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, true), 8081))
				wantNoPort(t, n.Netns(), "tcp", netip.MustParseAddrPort("127.0.0.1:8081"))
				wantNoPort(t, n.Netns(), "tcp", netip.AddrPortFrom(p.Gateways()[0], 8081))
			})
			t.Run("other protocols and ports", func(t *testing.T) {
				wantNoPort(t, l.Nodes()[1].Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, false), 80))
				wantNoPort(t, l.Nodes()[1].Netns(), "udp", netip.AddrPortFrom(nodeAddr(t, n, false), 443))
				// Another machine's port of the same number, asked through this node, is not this node's.
				servePort(t, l.Nodes()[1].Netns(), "tcp", netip.AddrPortFrom(netip.Addr{}, 8080), "other machine")
				wantPort(t, p.Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, l.Nodes()[1], false), 8080), "other machine")
			})
			must(t, p.Delete(t.Context()))
			wantNoPort(t, l.Nodes()[1].Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, false), 8080))
		})
	}
}

// reachFromEverywhere asks the host ports of a pod's node.
func reachFromEverywhere(t *testing.T, l *lab.Lab, p *lab.Pod) {
	n := p.Node
	sources := []struct {
		name string
		ns   netns.Namespace
	}{
		{"outside the cluster", l.Underlay()}, {"another node", l.Nodes()[1].Netns()}, {"a pod on another node", l.Nodes()[1].Pods()[0].Netns()},
		{"the node", n.Netns()}, {"a pod beside it", n.Pods()[0].Netns()}, {"the pod itself", p.Netns()},
	}
	for _, from := range sources {
		for _, v6 := range []bool{false, true} {
			at := netip.AddrPortFrom(nodeAddr(t, n, v6), 8080)
			t.Run(fmt.Sprintf("from %s to %v", from.name, at), func(t *testing.T) {
				web := wantPort(t, from.ns, "tcp", at, "web")
				wantPort(t, from.ns, "udp", at, "dns")
				if client := sourceOf(t, web); from.name == "another node" && client != nodeAddr(t, l.Nodes()[1], v6) {
					t.Errorf("the pod sees %v as client, want the other node's own address", client)
				}
			})
		}
	}
	t.Run("from the node to localhost", func(t *testing.T) {
		wantPort(t, n.Netns(), "tcp", netip.MustParseAddrPort("127.0.0.1:8080"), "web")
		wantPort(t, n.Netns(), "udp", netip.MustParseAddrPort("127.0.0.1:8080"), "dns")
		wantNoPort(t, n.Netns(), "tcp", netip.MustParseAddrPort("[::1]:8080"))
	})
	t.Run("from a pod to its gateway", func(t *testing.T) {
		for _, gateway := range p.Gateways() {
			wantPort(t, n.Pods()[0].Netns(), "tcp", netip.AddrPortFrom(gateway, 8080), "web")
		}
	})
}

func wantPort(t *testing.T, from netns.Namespace, network string, to netip.AddrPort, name string) string {
	t.Helper()
	answer, err := askPort(t.Context(), from, network, to, 2*time.Second)
	if err != nil || !strings.HasPrefix(answer, name+" ") {
		t.Errorf("%s %v: have %q, %v; want an answer of %s", network, to, answer, err, name)
	}
	return answer
}

func wantNoPort(t *testing.T, from netns.Namespace, network string, to netip.AddrPort) {
	t.Helper()
	if answer, err := askPort(t.Context(), from, network, to, 300*time.Millisecond); err == nil {
		t.Errorf("%s %v: answers %q, want no answer", network, to, answer)
	}
}

// sourceOf returns the client's address in an answer of servePort.
func sourceOf(t *testing.T, answer string) netip.Addr {
	t.Helper()
	_, client, _ := strings.Cut(answer, " ")
	at, err := netip.ParseAddrPort(client)
	if err != nil {
		t.Errorf("answer %q: %v", answer, err)
	}
	return at.Addr().Unmap()
}

// A client that goes on to send from the same UDP port reaches the pod that has the host port now, also when it sent while
// nobody had it.
func TestHostPortUDPAfterReplacement(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 2, Family: lab.DualStack})
	n, client := l.Nodes()[0], l.Nodes()[1]
	options := lab.PodOptions{CapabilityArgs: map[string]any{"portMappings": []any{mapping("udp", 5353, 53)}}}
	for _, from := range []netns.Namespace{client.Netns(), n.Netns()} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("from %s, IPv6 %v", strings.TrimPrefix(from.Name(), l.Name()), v6), func(t *testing.T) {
				conn, err := from.Dial(t.Context(), "udp", netip.AddrPortFrom(nodeAddr(t, n, v6), 5353).String())
				must(t, err)
				defer conn.Close()
				for _, name := range []string{"first", "second", "third"} {
					options.Name = harness.Unique(fmt.Sprintf("%s-%v-", name, v6))
					p, err := n.AddPod(t.Context(), options)
					must(t, err)
					servePort(t, p.Netns(), "udp", netip.AddrPortFrom(netip.Addr{}, 53), name)
					// An entry that was not flushed would live as long as the client goes on to ask.
					within(t, 2*time.Second, func() error {
						answer, err := question(conn, 100*time.Millisecond)
						if err == nil && !strings.HasPrefix(answer, name+" ") {
							err = fmt.Errorf("%q answers, not %s", answer, name)
						}
						return err
					})
					must(t, p.Delete(t.Context()))
					if answer, err := question(conn, 50*time.Millisecond); err == nil {
						t.Errorf("%q answers after DEL", answer)
					}
				}
			})
		}
	}
}

// A service of the node that listens on localhost only is out of reach for pods and for neighbours, although host ports need
// route_localnet. The attack is proved to work once the guard is taken away.
func TestHostPortsDoNotOpenLocalhost(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1})
	n := l.Nodes()[0]
	attacker := n.Pods()[0]
	_, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{"portMappings": []any{mapping("tcp", 8080, 80)}}})
	must(t, err)
	secret := netip.MustParseAddrPort("127.0.0.1:9999")
	servePort(t, n.Netns(), "tcp", secret, "secret")
	servePort(t, n.Netns(), "udp", secret, "secret")
	const attack = `ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via %s; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet`
	sh(t, attacker.Netns(), fmt.Sprintf(attack, attacker.Gateways()[0]))
	sh(t, l.Underlay(), fmt.Sprintf(attack, nodeAddr(t, n, false)))
	for _, network := range []string{"tcp", "udp"} {
		wantPort(t, n.Netns(), network, secret, "secret")
		wantNoPort(t, attacker.Netns(), network, secret)
		wantNoPort(t, l.Underlay(), network, secret)
	}
	// The attack works without the guard, or else all this proves nothing. The daemon puts the guard back as soon as it hears of it.
	within(t, enough, func() error {
		sh(t, n.Netns(), "nft flush chain inet twill-hostports guard")
		_, err := askPort(t.Context(), attacker.Netns(), "udp", secret, 300*time.Millisecond)
		return err
	})
}

// When somebody deletes the table, the daemon gives every pod its ports back, and the pods go without a trace.
func TestHostPortTableDeleted(t *testing.T) {
	t.Parallel()
	n := up(t, lab.Options{Nodes: 1, Family: lab.DualStack}).Nodes()[0]
	for _, damage := range []string{"nft delete table inet twill-hostports", "nft flush ruleset", "nft flush map inet twill-hostports ports4"} {
		t.Run(damage, func(t *testing.T) {
			var pods []*lab.Pod
			for _, port := range []int{8080, 8081} {
				p, err := n.AddPod(t.Context(), lab.PodOptions{CapabilityArgs: map[string]any{"portMappings": []any{mapping("tcp", port, 80)}}})
				must(t, err)
				servePort(t, p.Netns(), "tcp", netip.AddrPortFrom(netip.Addr{}, 80), "web")
				pods = append(pods, p)
			}
			sh(t, n.Netns(), damage)
			took := within(t, 5*time.Second, func() error {
				var errs []error
				for _, p := range pods {
					errs = append(errs, p.Check(t.Context()))
				}
				return errors.Join(errs...)
			})
			t.Logf("repaired in %v", took)
			for _, v6 := range []bool{false, true} {
				wantPort(t, n.Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, v6), 8080), "web")
				wantPort(t, n.Netns(), "tcp", netip.AddrPortFrom(nodeAddr(t, n, v6), 8081), "web")
			}
			for _, p := range pods {
				must(t, p.Delete(t.Context()))
			}
			if left := traces(t, n); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}
