package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// foreign makes objects that look much like Twill's and are not.
const foreign = `
ip link add flannel.42 type vxlan id 42 local 172.30.1.1 dev eth0 dstport 8472 nolearning
ip addr add 198.51.100.0/32 dev flannel.42
ip link set flannel.42 up
bridge fdb append 02:00:00:00:00:42 dev flannel.42 dst 172.30.1.2 self permanent
ip neigh add 198.51.100.1 dev flannel.42 lladdr 02:00:00:00:00:42 nud permanent
ip route add 198.51.100.128/25 via 198.51.100.1 dev flannel.42 onlink
ip link add cni1 type bridge
ip addr add 203.0.113.1/24 dev cni1
ip link set cni1 up
ip link add vethforeign type veth peer name vethother
ip link set vethforeign master cni1 up
ip link set vethother up
ip route add 192.0.2.0/24 via 172.30.0.1 proto static
ip route add 192.0.2.0/24 via 172.30.0.1 metric 7 proto bird
ip route add blackhole 192.0.3.0/24 table 84
ip -6 route add 2001:db8:1::/48 via fd00:30::1
ip rule add from 192.0.2.0/24 lookup 84
ip neigh add 172.30.200.1 dev eth0 lladdr 02:00:00:00:00:43 nud permanent
nft add table inet filter
nft add chain inet filter forward '{ type filter hook forward priority 0; policy accept; }'
nft add rule inet filter forward ip saddr 192.0.2.0/24 drop
nft add table ip nat
nft add chain ip nat postrouting '{ type nat hook postrouting priority 100; }'
nft add rule ip nat postrouting ip saddr 192.0.2.0/24 masquerade
nft add table inet twillight
`

// foreignState renders what foreign made.
const foreignState = `
for dev in flannel.42 cni1 vethforeign vethother eth0; do
	ip -d -o link show dev $dev | sed 's/bridge forward_delay.*numtxqueues/numtxqueues/; s/port_id.*numtxqueues/numtxqueues/'
	ip -o addr show dev $dev scope global
	ip neigh show dev $dev nud permanent
	bridge fdb show dev $dev | grep ' dst ' || true
done
ip route show table all | grep -e 192.0. -e 198.51. -e 203.0. | sort
ip -6 route show table main | grep 2001:db8
ip route show table main | grep -e default -e 172.30
ip rule
nft -s list table inet filter
nft -s list table ip nat
nft -s list table inet twillight
`

// What others made is never touched: not at the start, nor by repairs, nor by --cleanup, which removes all that is Twill's.
func TestForeignObjects(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Family: lab.DualStack, PodsPerNode: 1})
	node := l.Nodes()[0]
	must(t, node.StopDaemon(t.Context()))
	sh(t, node.Netns(), foreign)
	state := func() string { // the kernel lists a hash table in any order
		return strings.Join(slices.Sorted(strings.Lines(sh(t, node.Netns(), foreignState))), "")
	}
	before := state()
	unchanged := func(after string) {
		t.Helper()
		if now := state(); now != before {
			t.Fatalf("%s changed what is not Twill's:\n%s", after, difference(before, now))
		}
	}
	must(t, node.StartDaemon())
	must(t, node.Ready(t.Context()))
	unchanged("the start")
	healthy := programmed(t, node)
	env := injuryEnv(t, l)
	for _, in := range injuries {
		if in.name == "everything" || in.name == "all routes" || in.name == "delete the nft table" || in.name == "delete cni0" {
			line := strings.ReplaceAll(in.line, "nft flush ruleset", "nft delete table inet twill-masquerade")
			sh(t, node.Netns(), env+line)
			repaired(t, node, in, healthy)
			unchanged(in.name)
		}
	}
	put(t, l, subnetsKey+"10.244.250.0-24", peerValue("172.30.9.1"))
	within(t, recovery, hasRoute(t, node, "10.244.250.0/24", true))
	del(t, l, subnetsKey+"10.244.250.0-24")
	within(t, recovery, hasRoute(t, node, "10.244.250.0/24", false))
	unchanged("a peer that came and went")
	wantMatrix(t, l)

	must(t, node.StopDaemon(t.Context()))
	unchanged("the stop")
	key := leaseKey(t, l, node)
	out, err := node.Command(t.Context(), filepath.Join(binDir, "twilld"), "--cleanup", "--node-name="+node.Name, "--iface=eth0",
		"--etcd-endpoints="+strings.Join(l.Etcd().Endpoints(), ","), "--run-dir="+node.RunDir(), "--subnet-file="+node.SubnetFile(),
		"--cni-conf-dir="+node.CNIConfDir(), "--cni-bin-dir="+node.CNIBinDir()).CombinedOutput()
	if err != nil {
		t.Fatalf("--cleanup: %v: %s", err, out)
	}
	unchanged("--cleanup")
	if left := sh(t, node.Netns(), `ip -o link | grep -e ': flannel.1:' -e ': flannel-v6.1:' -e cni0 -e twill || true
ip route show table all proto 84; ip -6 route show table all proto 84; nft list tables | grep -e 'inet twill-' || true`); left != "" {
		t.Errorf("--cleanup left:\n%s", left)
	}
	if all, err := storedLeases(t.Context(), l); err != nil || all[key] != "" {
		t.Errorf("--cleanup left the lease %s (%v)", key, err)
	}
	for _, dir := range []string{node.CNIConfDir(), node.CNIBinDir(), node.RunDir(), node.SubnetFile()} {
		if files, err := filepath.Glob(dir + "/*"); err != nil || len(files) > 0 {
			t.Errorf("--cleanup left %v (%v)", files, err)
		}
	}
}
