package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// Where things are in the benchmarks of the service proxy. Endpoints and clients are pods of one network, so nobody is masqueraded.
const (
	controlPlane   = "198.51.100.1" // of kube-apiserver and etcd, on a switch that all nodes are on
	proxyEtcd      = "http://" + controlPlane + ":2379"
	podRange       = "10.128.0.0/9"
	endpointRange  = "10.128.0.0/10"
	clientRange    = "10.192.0.0/16"
	proxyEtcdStart = `{"Network":"` + podRange + `","SubnetLen":24,"SubnetMin":"10.200.0.0","Backend":{"Type":"vxlan"}}`
)

var (
	firstEndpoint = netip.MustParseAddr("10.128.0.0")
	firstClient   = netip.MustParseAddr("10.192.0.2")
)

// proxyNode is a node between a pod that is a client and all endpoints that there may ever be:
//
//	control plane 198.51.100.1
//	       |  a switch
//	       | eth0
//	client ─── node ─── endpoints
//	10.192.0.0/16       10.128.0.0/10: every address answers at port 8080
//
// A connection is made and accepted by one thread. The kernel carries its three packets within the call that connects, so nobody is
// woken, and what else runs on the machine matters little.
type proxyNode struct {
	name                    string
	node, client, endpoints netns.Namespace
	listener                int
}

// settleProxies prepares the sandbox for nodes.
func settleProxies(ctx context.Context) error {
	if err := settle(); err != nil {
		return err
	}
	if err := netns.PrepareDir("/run/bench-netns"); err != nil {
		return err
	}
	return runLines(ctx, "ip link add switch type bridge", "ip addr add "+controlPlane+"/24 dev switch", "ip link set switch up")
}

// newProxyNode makes a node. Each has its own number, from 2 to 254.
func newProxyNode(ctx context.Context, number int) (*proxyNode, error) {
	n := &proxyNode{name: fmt.Sprintf("node%d", number), listener: -1}
	for part, ns := range map[string]*netns.Namespace{"node": &n.node, "client": &n.client, "ends": &n.endpoints} {
		made, err := netns.Create(fmt.Sprintf("%s%d", part, number))
		if err != nil {
			return nil, err
		}
		*ns = made
	}
	node, client, ends := n.node.Name(), n.client.Name(), n.endpoints.Name()
	err := runLines(ctx,
		fmt.Sprintf("ip link add port%d type veth peer name eth0 netns %s", number, node),
		fmt.Sprintf("ip link set port%d master switch up", number),
		fmt.Sprintf("ip -n %s addr add 198.51.100.%d/24 dev eth0", node, number),
		fmt.Sprintf("ip -n %s link add client type veth peer name eth0 netns %s", node, client),
		fmt.Sprintf("ip -n %s link add ends type veth peer name eth0 netns %s", node, ends),
		fmt.Sprintf("ip -n %s addr add 169.254.1.1/32 dev client", node),
		fmt.Sprintf("ip -n %s addr add 169.254.1.1/32 dev ends", node),
	)
	for _, ns := range []string{node, client, ends} {
		err = errors.Join(err, runLines(ctx, fmt.Sprintf("ip -n %s link set lo up", ns), fmt.Sprintf("ip -n %s link set eth0 up", ns)))
	}
	err = errors.Join(err, runLines(ctx,
		fmt.Sprintf("ip -n %s link set client up", node),
		fmt.Sprintf("ip -n %s link set ends up", node),
		fmt.Sprintf("ip -n %s addr add 169.254.1.2/32 dev eth0", client),
		fmt.Sprintf("ip -n %s addr add 169.254.1.3/32 dev eth0", ends),
		fmt.Sprintf("ip -n %s route add %s via 169.254.1.2 dev client onlink", node, clientRange),
		fmt.Sprintf("ip -n %s route add %s via 169.254.1.3 dev ends onlink", node, endpointRange),
		fmt.Sprintf("ip -n %s route add default via 169.254.1.1 dev eth0 onlink", client),
		fmt.Sprintf("ip -n %s route add default via 169.254.1.1 dev eth0 onlink", ends),
		fmt.Sprintf("ip -n %s route add local %s dev lo", client, clientRange),
		fmt.Sprintf("ip -n %s route add local %s dev lo", ends, endpointRange),
	), n.node.Sysctl("ipv4/ip_forward", "1"), n.listen())
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// close removes the node. What runs on it is to be stopped before.
func (n *proxyNode) close() error {
	if n.listener >= 0 {
		_ = unix.Close(n.listener) // nothing is lost with it
	}
	return errors.Join(n.node.Remove(), n.client.Remove(), n.endpoints.Remove())
}

// runLines runs commands without quoted words, until one fails.
func runLines(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

const endpointPort = 8080

// listen makes all endpoints answer.
func (n *proxyNode) listen() error {
	return n.endpoints.Do(func() (err error) {
		if n.listener, err = tcpSocket(); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(n.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(n.listener, &unix.SockaddrInet4{Port: endpointPort}), unix.Listen(n.listener, 128))
	})
}

// A call is a connection that was made and ended again.
type call struct {
	took    time.Duration // connect(2): from the first packet to the answer
	reached netip.Addr    // the endpoint
}

// call connects from a client to an address, in the thread of inClient. It gives up after patience.
func (n *proxyNode) call(from netip.Addr, to netip.AddrPort, patience time.Duration) (c call, err error) {
	fd, err := tcpSocket()
	if err != nil {
		return c, err
	}
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), // thousands of connections leave nothing behind
		unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}))
	if err != nil {
		return c, errors.Join(err, unix.Close(fd))
	}
	start := time.Now()
	for {
		// A signal of Go's scheduler interrupts the wait, since there is a timeout; the same call again goes on waiting (connect(2)).
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EISCONN) {
		err = nil
	}
	c.took = time.Since(start)
	if err == nil {
		c.reached, err = n.accept(fd)
	}
	return c, errors.Join(err, unix.Close(fd))
}

// accept takes the other end of a connection and says where it is. Ends of connections that were given up come first.
func (n *proxyNode) accept(client int) (netip.Addr, error) {
	mine, err := unix.Getsockname(client)
	if err != nil {
		return netip.Addr{}, err
	}
	for {
		fd, peer, err := unix.Accept4(n.listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("accept a connection: %w", err)
		}
		name, err := unix.Getsockname(fd)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return netip.Addr{}, err
		}
		if from, to := peer.(*unix.SockaddrInet4), mine.(*unix.SockaddrInet4); *from == *to {
			return netip.AddrFrom4(name.(*unix.SockaddrInet4).Addr), nil
		}
	}
}

// inClient calls f on a thread that is in the client's namespace.
func (n *proxyNode) inClient(f func() error) error { return n.client.Do(f) }

// until calls an address until the answer is as wanted, and returns when it was. It begins anew after pause.
func (n *proxyNode) until(to netip.AddrPort, wanted func(call) bool, pause time.Duration) (at time.Time, err error) {
	const patience = 5 * time.Millisecond
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		c, err := n.call(firstClient, to, patience)
		now := time.Now()
		switch {
		case err == nil && wanted(c):
			return now, nil
		case now.After(end):
			return now, fmt.Errorf("%s: %s did not answer as it should in %s: %v", n.name, to, limit, err)
		}
	}
}
