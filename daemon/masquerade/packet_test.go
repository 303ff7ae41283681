package masquerade

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
)

const (
	echoPort  = 7
	patience  = 5 * time.Second
	ipv4      = 0
	ipv6      = 1
	udp       = 17
	fibIsHere = 2 // RTN_LOCAL
)

// host is a machine or pod with a cable to the node.
type host struct {
	*namespace
	link [2]netip.Addr // its end of the cable, by family
	node [2]netip.Addr // the node's end
	id   [2]netip.Addr // the address that it is known by
}

// network is one node with everybody that it can meet: its own pods, pods on other nodes, the world.
type network struct {
	node  *namespace
	id    [2]netip.Addr // the node's own address
	hosts map[string]*host
}

// newNetwork wires the hosts to the node and gives the node Twill's masquerade table, and a table as the service proxy would
// make: the node's port 1000+i leads to host i.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{node: newNamespace(t), hosts: make(map[string]*host)}
	n.id = [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:ffff::1")}
	n.node.ip(t, "link set lo up", "addr add 198.51.100.1/32 dev lo", "addr add 2001:db8:ffff::1/128 dev lo nodad")
	n.node.sysctl(t, map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0"})
	for i, h := range hostList {
		n.hosts[h.name] = n.connect(t, i, h.v4, h.v6)
	}
	n.node.do(func() {
		h, err := nft.Open(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		if err := h.SyncTables(t.Context(), []kernel.Table{Table(testConfig), n.portTable()}, nil); err != nil {
			t.Error(err)
		}
	})
	return n
}

var hostList = []struct{ name, v4, v6 string }{
	{"pod", "10.5.1.2", "fd00:0:0:1::2"},
	{"pod2", "10.5.1.3", "fd00:0:0:1::3"},
	{"remote", "10.5.2.7", "fd00:0:0:2::7"},
	{"remote2", "10.5.3.7", "fd00:0:0:3::7"},
	{"world", "203.0.113.9", "2001:db8:113::9"},
	{"office", "172.16.0.9", "2001:db8:172::9"},
}

var testConfig = Config{
	Cluster: prefixes("10.5.0.0/16", "fd00::/48"),
	Local:   prefixes("10.5.1.0/24", "fd00:0:0:1::/64"),
	Exempt:  prefixes("172.16.0.0/12", "2001:db8:172::/48"),
}

func (n *network) connect(t *testing.T, i int, v4, v6 string) *host {
	t.Helper()
	h := &host{namespace: newNamespace(t), id: [2]netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}}
	h.node = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(4*i + 1)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", i))}
	h.link = [2]netip.Addr{h.node[ipv4].Next(), h.node[ipv6].Next()}
	h.sysctl(t, map[string]string{"ipv6/conf/default/accept_dad": "0"})
	n.node.ip(t, fmt.Sprintf("link add v%d type veth peer name eth0 netns %d", i, h.thread),
		fmt.Sprintf("addr add %s/30 dev v%d", h.node[ipv4], i), fmt.Sprintf("addr add %s/64 dev v%d nodad", h.node[ipv6], i),
		fmt.Sprintf("link set v%d up", i))
	h.ip(t, "link set lo up", fmt.Sprintf("addr add %s/32 dev lo", v4), fmt.Sprintf("addr add %s/128 dev lo nodad", v6),
		fmt.Sprintf("addr add %s/30 dev eth0", h.link[ipv4]), fmt.Sprintf("addr add %s/64 dev eth0 nodad", h.link[ipv6]), "link set eth0 up",
		fmt.Sprintf("route add default via %s", h.node[ipv4]), fmt.Sprintf("route add ::/0 via %s", h.node[ipv6]))
	n.node.ip(t, fmt.Sprintf("route add %s via %s", v4, h.link[ipv4]), fmt.Sprintf("route add %s via %s", v6, h.link[ipv6]))
	return h
}

// portTable leads the node's ports to the hosts, and masquerades a pod that reaches itself that way.
func (n *network) portTable() kernel.Table {
	families := []struct {
		suffix       string
		addr         kernel.Type
		saddr, daddr kernel.Field
	}{
		{"4", kernel.TypeIPv4Addr, kernel.FieldIPSaddr, kernel.FieldIPDaddr},
		{"6", kernel.TypeIPv6Addr, kernel.FieldIP6Saddr, kernel.FieldIP6Daddr},
	}
	pre := kernel.Chain{Name: "prerouting", Hook: &kernel.Hook{Type: "nat", Hook: "prerouting", Priority: -100}}
	post := kernel.Chain{Name: "hairpin", Hook: &kernel.Hook{Type: "nat", Hook: "postrouting", Priority: srcnat}}
	table := kernel.Table{Family: kernel.FamilyInet, Name: kernel.TablePrefix + "test-ports"}
	for v, f := range families {
		ports := kernel.Set{Name: "ports" + f.suffix, Key: []kernel.Type{kernel.TypeInetProto, kernel.TypeInetService},
			Value: []kernel.Type{f.addr, kernel.TypeInetService}}
		self := kernel.Set{Name: "self" + f.suffix, Key: []kernel.Type{f.addr, f.addr}}
		for i, h := range hostList {
			id := kernel.Datum{Addr: n.hosts[h.name].id[v]}
			ports.Elements = append(ports.Elements, kernel.Element{
				Key:   []kernel.Datum{{Number: udp}, {Number: uint32(1000 + i)}},
				Value: []kernel.Datum{id, {Number: echoPort}},
			})
			self.Elements = append(self.Elements, kernel.Element{Key: []kernel.Datum{id, id}})
		}
		table.Sets = append(table.Sets, ports, self)
		pre.Rules = append(pre.Rules, kernel.Rule{Exprs: []kernel.Expr{
			kernel.Compare{Field: kernel.FieldFIBDaddrType, Value: kernel.Datum{Number: fibIsHere}},
			kernel.DNAT{Fields: []kernel.Operand{kernel.FieldL4Proto, kernel.FieldDport}, Map: ports.Name, V6: v == ipv6},
		}})
		post.Rules = append(post.Rules, kernel.Rule{Exprs: []kernel.Expr{
			kernel.Lookup{Fields: []kernel.Operand{f.saddr, f.daddr}, Set: self.Name}, kernel.Masquerade{},
		}})
	}
	table.Chains = []kernel.Chain{pre, post}
	return table
}

// TestPackets sends real packets through a node and looks at the source address with which they arrive.
func TestPackets(t *testing.T) {
	n := newNetwork(t)
	const fromNode, byPort = "", true
	tests := []struct {
		name     string
		from, to string
		port     bool // by way of the node's port for the destination
		link     bool // to the address that is not the destination's pod address
		masked   bool
	}{
		{name: "pod to the world", from: "pod", to: "world", masked: true},
		{name: "pod to another node's address", from: "pod", to: "remote", link: true, masked: true},
		{name: "pod to an exempted destination", from: "pod", to: "office"},
		{name: "pod to pod on the same node", from: "pod", to: "pod2"},
		{name: "pod to pod on another node", from: "pod", to: "remote"},
		{name: "pod of another node to pod", from: "remote", to: "pod"},
		{name: "routed between pods of two other nodes", from: "remote", to: "remote2"},
		{name: "pod by node port to pod on another node", from: "pod", to: "remote", port: byPort},
		{name: "pod by node port to pod on the same node", from: "pod", to: "pod2", port: byPort},
		{name: "pod by node port to itself", from: "pod", to: "pod", port: byPort, masked: true},
		{name: "pod of another node by node port to a third node", from: "remote", to: "remote2", port: byPort, masked: true},
		{name: "world by node port to pod", from: "world", to: "pod", port: byPort},
		{name: "world by node port to pod on another node", from: "world", to: "remote", port: byPort, masked: true},
		{name: "world to pod", from: "world", to: "pod"},
		{name: "world to pod on another node", from: "world", to: "remote", masked: true},
		{name: "world to world", from: "world", to: "office"},
		{name: "node to pod", from: fromNode, to: "pod"},
		{name: "node to pod on another node", from: fromNode, to: "remote", masked: true},
		{name: "node to the world", from: fromNode, to: "world"},
	}
	for v, family := range []string{"IPv4", "IPv6"} {
		for _, tt := range tests {
			t.Run(family+"/"+tt.name, func(t *testing.T) {
				from, source := n.node, n.id[v]
				if h := n.hosts[tt.from]; h != nil {
					from, source = h.namespace, h.id[v]
				}
				to := n.hosts[tt.to]
				server := netip.AddrPortFrom(to.id[v], echoPort)
				if tt.link {
					server = netip.AddrPortFrom(to.link[v], echoPort)
				}
				target := server
				if tt.port {
					target = netip.AddrPortFrom(n.id[v], n.portOf(tt.to))
				}
				want := source
				if tt.masked {
					want = to.node[v]
				}
				if got := exchange(t, endpoint{from, netip.AddrPortFrom(source, 0)}, endpoint{to.namespace, server}, target); got != want {
					t.Errorf("packet came from %s, want %s", got, want)
				}
			})
		}
	}
}

// TestMulticast sends from the node's own address in the pod network, the bridge's, to a group on the world's link.
func TestMulticast(t *testing.T) {
	n := newNetwork(t)
	world := n.hosts["world"]
	index := n.portOf("world") - 1000
	n.node.ip(t, fmt.Sprintf("addr add 10.5.1.1/32 dev v%d", index), fmt.Sprintf("addr add fd00:0:0:1::1/128 dev v%d nodad", index))
	tests := []struct{ name, network, source, group, zone string }{
		{"IPv4", "udp4", "10.5.1.1", "224.0.0.251", ""},
		{"IPv6", "udp6", "fd00:0:0:1::1", "ff02::fb", fmt.Sprintf("v%d", index)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var server, client *net.UDPConn
			var err error
			world.do(func() {
				var eth0 *net.Interface
				if eth0, err = net.InterfaceByName("eth0"); err == nil {
					server, err = net.ListenMulticastUDP(tt.network, eth0, &net.UDPAddr{IP: net.ParseIP(tt.group), Port: echoPort})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			n.node.do(func() {
				client, err = net.DialUDP(tt.network, &net.UDPAddr{IP: net.ParseIP(tt.source)},
					&net.UDPAddr{IP: net.ParseIP(tt.group), Port: echoPort, Zone: tt.zone})
			})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			peer, err := deliver(client, server, make([]byte, 16))
			if err != nil {
				t.Fatal(err)
			}
			if got := peer.Addr().Unmap(); got != netip.MustParseAddr(tt.source) {
				t.Errorf("datagram came from %s, want %s", got, tt.source)
			}
		})
	}
}

func (n *network) portOf(name string) uint16 {
	for i, h := range hostList {
		if h.name == name {
			return uint16(1000 + i)
		}
	}
	return 0
}

// endpoint is where a socket is bound.
type endpoint struct {
	*namespace
	addr netip.AddrPort
}

// exchange sends a datagram from one endpoint to target, which ends up at the other, and back. It returns the source address
// that the receiver saw.
func exchange(t *testing.T, from, to endpoint, target netip.AddrPort) netip.Addr {
	t.Helper()
	var server, client *net.UDPConn
	var err error
	to.do(func() { server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to.addr)) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	from.do(func() {
		client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from.addr), net.UDPAddrFromAddrPort(target))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	b := make([]byte, 16)
	peer, err := deliver(client, server, b)
	if err != nil {
		t.Fatalf("request: %v", err)
	}
	if _, err := server.WriteToUDPAddrPort([]byte("pong"), peer); err != nil {
		t.Fatal(err)
	}
	if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(b); err != nil {
		t.Fatalf("answer: %v", err)
	}
	return peer.Addr().Unmap()
}

// deliver sends datagrams until the server receives one: the first over a new cable may get lost, while the kernel has yet to
// learn that the cable is plugged in. It returns where the datagram came from.
func deliver(client, server *net.UDPConn, b []byte) (peer netip.AddrPort, err error) {
	for start := time.Now(); time.Since(start) < patience; {
		if _, err = client.Write([]byte("ping")); err != nil {
			return peer, err
		}
		if err = server.SetReadDeadline(time.Now().Add(patience / 20)); err != nil {
			return peer, err
		}
		if _, peer, err = server.ReadFromUDPAddrPort(b); err == nil {
			break
		}
	}
	return peer, err
}
