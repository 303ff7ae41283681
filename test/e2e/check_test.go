package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/lab"
)

// finding is what `twillctl check` found.
type finding struct{ Verdict, What, Breaks, Mend string }

// checkOf runs it on a node, and checks that the exit code says whether something fails.
func checkOf(t *testing.T, l *lab.Lab, n *lab.Node) map[string][]finding {
	t.Helper()
	o := twillctl(t, "check", "--page", "10280", "--lab", l.Name(), "--lab-node", n.Name, "-o", "json")
	var all []struct {
		Check string
		Found []finding
	}
	if err := json.Unmarshal([]byte(o.stdout), &all); err != nil || o.stderr != "" {
		t.Fatalf("%v: %s\n%s", err, o.stdout, o.stderr)
	}
	failed := 0
	found := map[string][]finding{}
	for _, c := range all {
		found[c.Check] = c.Found
		for _, f := range c.Found {
			if f.Verdict == "failure" {
				failed = 1
			}
		}
	}
	if o.code != failed {
		t.Errorf("exit code %d with %+v", o.code, found)
	}
	return found
}

// twillctl check names what is done to a host, while twilld is dead.
func TestTwillctlCheck(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{Nodes: 1, PodsPerNode: 1, Proxy: "nftables"})
	n := l.Nodes()[0]
	for name, found := range checkOf(t, l, n) {
		for _, f := range found {
			if f.Verdict == "failure" {
				t.Errorf("before anything is done to it: %s: %+v", name, f)
			}
		}
	}
	must(t, n.KillDaemon(t.Context()))
	must(t, os.WriteFile(filepath.Join(n.CNIConfDir(), "05-cilium.conflist"), []byte(`{"plugins":[{"type":"cilium-cni"}]}`), 0o600))
	must(t, os.Remove(filepath.Join(n.CNIBinDir(), "twill-ipam")))
	var taken net.Listener
	must(t, n.Do(func() (err error) { taken, err = net.Listen("tcp", "127.0.0.1:10270"); return err }))
	defer taken.Close()
	var page net.Listener
	must(t, n.Do(func() (err error) { page, err = net.Listen("tcp", "127.0.0.1:10280"); return err }))
	defer page.Close()
	var measured net.PacketConn
	must(t, n.Do(func() (err error) { measured, err = net.ListenPacket("udp4", "0.0.0.0:10270"); return err }))
	defer measured.Close()
	faults := []struct{ check, verdict, what, line string }{
		{"forwarding", "failure", "net.ipv4.ip_forward is 0", "sysctl -qw net.ipv4.ip_forward=0"},
		{"rp_filter", "warning", "strict on flannel.1", "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=1"},
		{"MTU", "failure", "flannel.1 takes packets of 1450 bytes, the uplink eth0 has room for 1250", "ip link set eth0 mtu 1300"},
		{"leftovers", "warning", "Calico left links: cali123", "ip link add cali123 type bridge"},
		{"addresses", "failure", "docker0 has the network 10.244.200.0/24", "ip link add docker0 type bridge; ip addr add 10.244.200.1/24 dev docker0"},
		{"foreign rules", "failure", "FORWARD of table ip filter drops", "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'"},
		{"refusing rules", "warning", "1 of the 1 rules of chain guard of table inet mine drop or reject",
			"nft add table inet mine; nft 'add chain inet mine guard { type filter hook forward priority 5; }'; nft add rule inet mine guard ip daddr 192.0.2.99 reject"},
		{"rules of other networks", "warning", "Calico left chains: cali-FORWARD", "nft add chain ip filter cali-FORWARD"},
		{"kube-proxy", "failure", "kube-proxy has the table ip kube-proxy", "nft add table ip kube-proxy; nft add chain ip kube-proxy services"},
		{"ports", "warning", "vxlan7 is a VXLAN device with VNI 7", "ip link add vxlan7 type vxlan id 7 dstport 8472"},
		{"ports", "failure", "listens on tcp 127.0.0.1:10270", "true"},
		{"ports", "failure", "listens on tcp 127.0.0.1:10280", "true"},
		{"ports", "failure", "has udp 0.0.0.0:10270", "true"},
		{"foreign rules", "warning", "the chain input of table inet mine drops",
			"nft 'add chain inet mine input { type filter hook input priority 0; policy drop; }'; nft add rule inet mine input iif lo accept"},
		{"network configurations", "failure", "05-cilium.conflist, of cilium-cni", "true"},
		{"plugins", "failure", "twill-ipam: it is not there", "true"},
	}
	for _, f := range faults {
		sh(t, n.Netns(), f.line)
	}
	found := checkOf(t, l, n)
	people := twillctl(t, "check", "--page", "10280", "--lab", l.Name(), "--lab-node", n.Name)
	for _, f := range faults {
		named := false
		for _, got := range found[f.check] {
			named = named || got.Verdict == f.verdict && strings.Contains(got.What, f.what) && got.Breaks != "" && got.Mend != ""
		}
		if !named || !strings.Contains(people.stdout, f.what) {
			t.Errorf("%q is not named: %+v\n%s", f.what, found[f.check], people.stdout)
		}
	}
}
