package trace

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// fault is something broken.
type fault struct {
	name   string
	where  string // node1, pod2, underlay
	inject string
	undo   string // empty: the daemons put it right
	want   string // node and hop
}

const noMAC = "02:00:00:00:00:99"

// common are faults that both backends can have.
var common = []fault{
	{"blackhole", "node1", "ip route add blackhole POD2/32", "ip route del blackhole POD2/32", "node1 route"},
	{"unreachable", "node1", "ip route add unreachable POD2/32", "ip route del unreachable POD2/32", "node1 route"},
	{"route missing", "node1", "ip route del NET2", "", "node1 route"},
	{"route of the replies missing", "node2", "ip route del NET1", "", "node2 reply route"},
	{"policy of a foreign chain", "node2", "nft add table ip other; nft add chain ip other theirs '{ type filter hook forward priority 0; policy drop; }'", "nft delete table ip other", "node2 filter"},
	{"no forwarding", "node1", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1", "node1 forwarding"},
	{"bridge down", "node2", "ip link set cni0 down", "ip link set cni0 up", "node2 bridge"},
	{"veth out of the bridge", "node2", "ip link set VETH2 nomaster", "ip link set VETH2 master cni0", "node2 veth"},
	{"veth down", "node1", "ip link set VETH1 down", "ip link set VETH1 up", "node1 veth"},
	{"pod's link down", "pod2", "ip link set eth0 down", "ip link set eth0 up; ip route add default via GATEWAY2", "node2 pod"},
	{"pod without a route", "pod1", "ip route del default", "ip route add default via GATEWAY1", "node1 pod"},
	{"pod with a wrong neighbour", "pod1", "ip neigh replace GATEWAY1 lladdr " + noMAC + " dev eth0 nud permanent", "ip neigh del GATEWAY1 dev eth0", "node1 pod"},
	{"pod without its address", "pod2", "ip addr del POD2/24 dev eth0", "ip addr add POD2/24 dev eth0; ip route add default via GATEWAY2", "node2 pod"},
	{"wrong neighbour of the pod", "node2", "ip neigh replace POD2 lladdr " + noMAC + " dev cni0 nud permanent", "ip neigh del POD2 dev cni0", "node2 neighbour"},
	{"bridge MTU", "node2", "ip link set cni0 mtu 1300", "ip link set cni0 mtu 1500; ip link set cni0 mtu $(ip -o link show VETH2 | sed 's/.*mtu //; s/ .*//')", "node2 mtu"},
	{"uplink MTU", "node1", "ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500", "node1 mtu"},
	{"MTU of a switch", "underlay", "ip link set port2 mtu 1400", "ip link set port2 mtu 1500", "node1 mtu"},
	{"cable out", "underlay", "ip link set port1 down", "ip link set port1 up", "node1 uplink"},
	{"pod's address into a black hole", "node2", "ip route add blackhole POD2/32", "ip route del blackhole POD2/32", "node2 arrival"},
}

var vxlanFaults = []fault{
	{"FDB entry missing", "node1", "bridge fdb del MAC2 dev flannel.1 dst NODE2 self", "", "node1 fdb"},
	{"FDB entry wrong", "node1", "bridge fdb replace MAC2 dev flannel.1 dst 172.30.1.77 self permanent", "", "node1 fdb"},
	{"FDB entry of the replies missing", "node2", "bridge fdb del MAC1 dev flannel.1 dst NODE1 self", "", "node2 reply fdb"},
	{"neighbour missing", "node1", "ip neigh del VTEP2 dev flannel.1", "", "node1 neighbour"},
	{"wrong VTEP MAC", "node1", "ip neigh replace VTEP2 lladdr " + noMAC + " dev flannel.1 nud permanent", "", "node1 neighbour"},
	{"wrong VTEP MAC for replies", "node2", "ip neigh replace VTEP1 lladdr " + noMAC + " dev flannel.1 nud permanent", "", "node2 reply neighbour"},
	{"route to another node", "node1", "ip route replace NET2 via 10.244.255.0 dev flannel.1 onlink", "", "node1 route"},
	{"overlay down", "node2", "ip link set flannel.1 down", "", "node2 overlay"},
	{"overlay missing", "node1", "ip link del flannel.1", "", "node1 overlay"},
	{"overlay MTU", "node2", "ip link set flannel.1 mtu 1300", "", "node2 reply mtu"},
	{"rp_filter", "node2", "ip route add POD1/32 dev eth0; sysctl -qw net.ipv4.conf.flannel/1.rp_filter=1", "ip route del POD1/32 dev eth0; sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0", "node2 rp_filter"},
	{"underlay blackhole", "node1", "ip route add blackhole NODE2/32", "ip route del blackhole NODE2/32", "node1 underlay"},
	{"underlay neighbour", "node1", "ip neigh replace NODE2 lladdr " + noMAC + " dev eth0 nud permanent", "ip neigh del NODE2 dev eth0", "node1 underlay"},
	{"VXLAN filtered", "node2", "nft add table ip other; nft add chain ip other theirs '{ type filter hook input priority 0; }'; nft add rule ip other theirs udp dport 8472 drop", "nft delete table ip other", "node2 filter"},
}

var bgpFaults = []fault{
	{"route to another node", "node1", "ip route replace NET2 via 172.30.1.77 dev eth0 proto 84 metric 32", "", "node1 route"},
	{"wrong neighbour", "node1", "ip neigh replace NODE2 lladdr " + noMAC + " dev eth0 nud permanent", "ip neigh del NODE2 dev eth0", "node1 neighbour"},
	{"wrong neighbour of the replies", "node2", "ip neigh replace NODE1 lladdr " + noMAC + " dev eth0 nud permanent", "ip neigh del NODE1 dev eth0", "node2 reply neighbour"},
	{"rp_filter", "node2", "ip route add POD1/32 dev cni0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1", "ip route del POD1/32 dev cni0; sysctl -qw net.ipv4.conf.eth0.rp_filter=0", "node2 rp_filter"},
}

func TestVXLAN(t *testing.T) { breakAll(t, lab.VXLAN, append(vxlanFaults, common...)) }

func TestBGP(t *testing.T) { breakAll(t, lab.BGP, append(bgpFaults, common...)) }

// line is one of the table that is printed.
type line struct {
	fault, want, got string
	took             time.Duration
}

func (l line) right() bool { return l.want == l.got && l.took < most }

func breakAll(t *testing.T, backend string, faults []fault) {
	r := newRig(t, backend)
	r.wantHealthy(t, "at first")
	lines := r.breakServices(t)
	if testing.Short() {
		faults = faults[:5] // with those of the daemons, eight
	}
	r.stop(t)
	r.wantHealthy(t, "without daemons")
	for _, f := range faults {
		r.run(t, f.where, f.inject)
		got := r.trace(t, "POD2:80")
		lines = append(lines, line{f.name, f.want, got.hop(), got.took})
		if got.hop() != f.want {
			t.Logf("%s: %s", f.name, got.text)
		}
		if f.undo == "" {
			r.repair(t)
		} else {
			r.run(t, f.where, f.undo)
		}
		r.wantHealthy(t, "after "+f.name)
	}
	judge(t, backend, lines)
}

// wantHealthy waits until nothing is wrong: what was undone may take the kernel a moment.
func (r *rig) wantHealthy(t *testing.T, when string) {
	t.Helper()
	for begin := time.Now(); ; {
		got := r.trace(t, "POD2:80")
		if got.hop() == "nothing" {
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%s: %s is said to be wrong:\n%s", when, got.hop(), got.text)
		}
	}
}

// breakServices breaks what the daemons are asked about.
func (r *rig) breakServices(t *testing.T) (lines []line) {
	t.Helper()
	await := func(name, to, want string) {
		got := r.trace(t, to)
		for begin := time.Now(); got.hop() != want && time.Since(begin) < 10*time.Second; {
			got = r.trace(t, to)
		}
		lines = append(lines, line{name, want, got.hop(), got.took})
		if got.hop() != want {
			t.Logf("%s: %s", name, got.text)
		}
	}
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {clusterIP: 10.96.0.9, selector: {app: nobody}, ports: [{port: 80}]}\n"
	r.apply(t, "apply", service)
	await("no endpoint", "10.96.0.9:80", "node1 service")
	const policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed}\nspec: {podSelector: {}, policyTypes: [%s]}\n"
	for direction, node := range map[string]string{"Ingress": "node2", "Egress": "node1"} {
		r.apply(t, "apply", fmt.Sprintf(policy, direction))
		await("policy "+strings.ToLower(direction), "POD2:80", node+" policy")
	}
	r.apply(t, "delete", fmt.Sprintf(policy, "Egress"))
	r.wantHealthy(t, "without policies")
	return lines
}

// judge prints what was named, and demands that 95 % is right.
func judge(t *testing.T, backend string, lines []line) {
	t.Helper()
	right := 0
	var text strings.Builder
	for _, l := range lines {
		mark := "ok"
		if l.right() {
			right++
		} else {
			mark = "WRONG, want " + l.want
		}
		fmt.Fprintf(&text, "%-34s %-22s %6.2f s  %s\n", l.fault, l.got, l.took.Seconds(), mark)
	}
	t.Logf("%s: %d of %d faults named right, each within %v\n%s", backend, right, len(lines), most, &text)
	if 100*right < 95*len(lines) {
		t.Errorf("%d of %d faults named right, less than 95 %%", right, len(lines))
	}
}
