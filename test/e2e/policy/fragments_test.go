package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// TestFragments has datagrams that are larger than the network's packets treated like others: only their first fragment has ports.
func TestFragments(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := map[string]*pod{}
	for _, p := range r.addPods(t, modelPods(2)) {
		pods[p.name] = p
	}
	r.apply(t, changesOf(policytest.Namespaces(), &store.NetworkPolicy{Name: store.ObjectName{Namespace: "y", Name: "one"}, IsolatesIngress: true,
		Ingress: []store.PolicyRule{{Ports: []store.PolicyPort{{Protocol: store.UDP, Port: listenPort}}}}}))
	for _, name := range []string{"y/a", "y/b"} {
		for _, a := range pods[name].record.Addrs {
			for port, allowed := range map[uint16]bool{listenPort: true, listenPort + 1: false} {
				to := netip.AddrPortFrom(a, port)
				var server *net.UDPConn
				must(t, pods[name].ns.Do(func() (err error) { server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(to)); return err }))
				client := dial(t, pods["x/a"].ns, "udp", to)
				err := sends(client, server, allowed)
				if err != nil {
					t.Errorf("x/a to %s at %v: %v", name, to, err)
				}
				must(t, errors.Join(client.Close(), server.Close()))
			}
		}
	}
}

// sends returns nil when large datagrams arrive as they should, or do not as they should not.
func sends(client, server net.Conn, arrive bool) error {
	const size, times = 5000, 5
	buffer := make([]byte, size)
	for range times {
		if _, err := client.Write(buffer); err != nil {
			return err
		}
		wait := quick
		if arrive {
			wait = 2 * time.Second
		}
		if err := server.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		n, err := server.Read(buffer)
		if arrive && err == nil && n == size || !arrive && err != nil {
			return nil
		}
		if !arrive {
			return fmt.Errorf("a datagram of %d bytes came", n)
		}
	}
	return fmt.Errorf("no datagram of %d bytes came", size)
}
