package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// asks are questions about TCP, UDP and ICMP.
func asks(from *prober, to []netip.Addr, allowed bool, why string) []expected {
	var all []expected
	for _, a := range to {
		for _, s := range []policytest.Service{{Protocol: store.TCP, Port: 80}, {Protocol: store.UDP, Port: 80}, {}} {
			all = append(all, expected{question{from, a, s}, allowed, why})
		}
	}
	return all
}

func wantNoneWrong(t *testing.T, all []expected) {
	t.Helper()
	if failed := wrong(all); failed != nil {
		t.Errorf("%d of %d wrong: %q", len(failed), len(all), failed[:min(len(failed), 10)])
	}
}

// TestNodes has what runs on nodes, and not in pods, reach everything but other nodes' pods that policies close: policies are those of pods.
func TestNodes(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 2})
	pods := r.addPods(t, modelPods(2))
	var nodes []*prober
	for _, n := range r.lab.Nodes() {
		p := newProber(t, n.Name, n.Netns())
		p.serve(t, n.Addrs())
		nodes = append(nodes, p)
	}
	all := store.NewSelector()
	strict := &store.ClusterNetworkPolicy{Name: "strict", Tier: store.TierAdmin, Namespaces: all,
		Egress: []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: []store.PolicyPeer{
			{Block: netip.MustParsePrefix("0.0.0.0/0")}, {Block: netip.MustParsePrefix("::/0")}}}},
		Ingress: []store.ClusterPolicyRule{{Action: store.ActionDeny, Peers: []store.PolicyPeer{{Namespaces: &all}}}}}
	changes := changesOf(policytest.Namespaces(), closes(named("x", "deny", ""), true, true), closes(named("y", "deny", ""), true, true))
	changes.ClusterPolicies["strict"] = strict
	r.apply(t, changes)

	var questions []expected
	for number, n := range r.lab.Nodes() {
		own := nodes[number]
		questions = append(questions, asks(own, r.lab.Nodes()[1-number].Addrs(), true, "from node to node")...)
		for _, p := range pods {
			if p.Node == n {
				questions = append(questions, asks(own, p.record.Addrs, true, "from a node to its pod "+p.name)...)
				questions = append(questions, asks(p.prober, n.Addrs(), false, "from a pod without egress to its node")...)
				questions = append(questions, asks(p.prober, p.record.Addrs, true, "from a pod to itself")...)
			} else if !strings.HasPrefix(p.name, "z/") { // those of z have no NetworkPolicy, and a node is no pod
				questions = append(questions, asks(own, p.record.Addrs, false, "from a node to another's pod "+p.name)...)
			} else {
				questions = append(questions, asks(own, p.record.Addrs, true, "from a node to another's pod "+p.name)...)
			}
		}
	}
	wantNoneWrong(t, questions)
}

// TestOff has everything open, and no table and no marks left, when policies are switched off; and closed again when they are on.
func TestOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 1})
	pods := r.addPods(t, modelPods(1))
	n := r.node(1)
	chatting := talk(t, "udp", pods[0], pods[1], false)
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("y", "deny", ""), true, false)))
	pair := func(allowed bool) {
		t.Helper()
		wantNoneWrong(t, asks(pods[0].prober, pods[1].record.Addrs, allowed, "x/a to y/a"))
	}
	pair(false)
	within(t, patience, func() error { return chatting.silentSince(time.Now().Add(-500 * time.Millisecond)) })
	restart := func(args ...string) {
		t.Helper()
		must(t, errors.Join(n.StopDaemon(t.Context()), n.SetDaemon(lab.NodeOptions{Args: args}), n.StartDaemon(), n.Ready(t.Context())))
	}
	restart("--policy=off")
	within(t, patience, func() error {
		if tables := sh(t, n.Netns(), "nft list tables"); strings.Contains(tables, "twill-policy") {
			return fmt.Errorf("there are the tables %s", tables)
		}
		return nil
	})
	pair(true)
	began := time.Now()
	within(t, patience, func() error { return chatting.heardSince(began) })
	restart()
	pair(false)
	within(t, patience, func() error { return chatting.silentSince(time.Now().Add(-500 * time.Millisecond)) })
}

// TestBridgeNetfilter has the daemon see to it when it starts that packets between pods of one node pass netfilter.
func TestBridgeNetfilter(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 1})
	pods := r.addPods(t, modelPods(1))
	n := r.node(1)
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("y", "deny", ""), true, false)))
	off := func() {
		t.Helper()
		for _, key := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
			must(t, n.Netns().Sysctl(key, "0"))
		}
	}
	off()
	must(t, errors.Join(n.StopDaemon(t.Context()), n.StartDaemon(), n.Ready(t.Context())))
	wantNoneWrong(t, asks(pods[0].prober, pods[1].record.Addrs, false, "x/a to y/a, with netfilter for bridges off before the daemon starts"))
	off()
	within(t, patience, func() error {
		if failed := wrong(asks(pods[0].prober, pods[1].record.Addrs, false, "x/a to y/a, with netfilter for bridges switched off")); failed != nil {
			return fmt.Errorf("%q", failed)
		}
		return nil
	})
}

// TestPathMTU has a pod learn of a narrow path beyond its node although its ingress is closed: what ICMP says is about a connection that is allowed.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{nodes: 1})
	pods := r.addPods(t, modelPods(1)[:1])
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "deny", ""), true, false)))
	// Behind the underlay's router there is a machine, on a link of 1300 bytes.
	under := r.lab.Underlay()
	sh(t, under, `ip link add narrow mtu 1300 type veth peer name beyond; ip link set beyond up; ip link set narrow up; ip addr add 192.0.2.1/24 dev narrow; ip addr add 2001:db8:7::1/64 dev narrow nodad
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
		ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev narrow; ip neigh add 2001:db8:7::9 lladdr 02:00:00:00:00:09 dev narrow`)
	v4, v6 := r.lab.UnderlayGateway()
	sh(t, r.node(1).Netns(), fmt.Sprintf("ip route add 192.0.2.0/24 via %v; ip -6 route add 2001:db8:7::/64 via %v", v4, v6))
	for _, to := range []string{"192.0.2.9", "2001:db8:7::9"} {
		within(t, patience, func() error { return pods[0].Do(func() error { return sendBig(netip.MustParseAddr(to)) }) })
	}
}

// sendBig returns nil when the kernel knows that the path is too narrow for a datagram of 1,400 bytes; otherwise it has sent one.
func sendBig(to netip.Addr) error {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if to.Is6() {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}
	if err == nil {
		err = unix.Sendto(fd, make([]byte, 1350), 0, sockaddr(netip.AddrPortFrom(to, 9)))
	}
	if errors.Is(err, unix.EMSGSIZE) {
		return nil
	}
	return errors.Join(fmt.Errorf("a datagram of 1,350 bytes was sent to %v, whose path has room for 1,300", to), err)
}
