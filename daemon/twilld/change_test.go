//go:build linux

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Another node's record in the place of this one's is noticed without any other event, and the node goes on with other
// subnets.
func TestTakenSubnetIsReplaced(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.start()
	a.eventuallyReady()
	before := a.read("flannel/subnet.env")
	key := strings.Replace(strings.Replace(gatewayOf(before), ".1/", ".0-", 1), "/", "-", 1)
	c.put("subnets/"+key, `{"PublicIP":"192.0.2.50","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:50"}}`)
	begin := time.Now()
	c.eventually("a has another subnet", func() string {
		if now := a.read("flannel/subnet.env"); now == before {
			return now
		}
		return ""
	})
	a.eventuallyReady()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("another subnet after %s", took)
	}
	t.Log(time.Since(begin), a.log.String())
	base, _, _ := strings.Cut(key, "-")
	if route := a.ip("route show proto 84"); !strings.HasPrefix(route, base+"/24 ") {
		t.Errorf("no route to the pods of the node that took %s:\n%s", key, route)
	}
}

func gatewayOf(env string) string {
	_, after, _ := strings.Cut(env, "FLANNEL_SUBNET=")
	gateway, _, _ := strings.Cut(after, "\n")
	return gateway
}

// What a change of the network configuration makes superfluous is removed at the next start; subnets are kept where they fit.
func TestRestartWithAnotherConfiguration(t *testing.T) {
	tests := []struct {
		name, before, after string
		args                []string
		gone, there         []string // in what the kernel and the files say
	}{
		{"another VNI", vxlanNetwork, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":9}}`, nil,
			[]string{"flannel.1:"}, []string{"flannel.9:"}},
		{"another port", vxlanNetwork, `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":4789}}`, nil,
			[]string{"dstport 8472"}, []string{"flannel.1:", "dstport 4789"}},
		{"IPv6 switched off", dualNetwork, vxlanNetwork, nil,
			[]string{"flannel-v6.1:", "inet6 fd00", "FLANNEL_IPV6", `"fd00:`}, []string{"flannel.1:"}},
		{"IPv6 switched on", vxlanNetwork, dualNetwork, nil,
			nil, []string{"flannel.1:", "flannel-v6.1:", "inet6 fd00:5:", "FLANNEL_IPV6_SUBNET=fd00:5:", `"subnet": "fd00:5:`}},
		{"masquerading switched off", vxlanNetwork, vxlanNetwork, []string{"--ip-masq=false"},
			[]string{"masquerade fully-random", "FLANNEL_IPMASQ=true"}, []string{"FLANNEL_IPMASQ=false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.before)
			a, b := c.pair()
			gateway := a.gateways()[0]
			c.put("config", tt.after)
			for _, n := range []*testNode{a, b} {
				must(t, n.signal(syscall.SIGTERM))
				n.start(tt.args...)
			}
			a.eventuallyReady()
			b.eventuallyReady()
			c.eventuallyReach(a, b)
			c.eventuallyReach(b, a)
			have := a.ip("-d link") + a.ip("addr") + a.ip("route") + a.ip("-6 route show proto 84") + a.nft("list ruleset") +
				a.read("flannel/subnet.env") + a.read("net.d/10-twill.conflist")
			for _, want := range append(tt.there, "inet "+gateway+"/24", "FLANNEL_SUBNET="+gateway+"/24") {
				if !strings.Contains(have, want) {
					t.Errorf("no %q in\n%s", want, have)
				}
			}
			for _, old := range tt.gone {
				if strings.Contains(have, old) {
					t.Errorf("%q is still in\n%s", old, have)
				}
			}
		})
	}
}

// The capabilities that deploy/twilld.service leaves the daemon are enough.
func TestCapabilities(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/twilld.service")
	must(t, err)
	_, names, _ := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	names, _, _ = strings.Cut(names, "\n")
	bounding := "-all"
	for _, name := range strings.Fields(names) {
		bounding += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	c := newCluster(t, dualNetwork)
	a, b := c.addNode(), c.addNode()
	for _, n := range []*testNode{a, b} {
		n.wrapper = []string{"setpriv", "--no-new-privs", "--bounding-set=" + bounding}
		n.start()
	}
	a.eventuallyReady()
	b.eventuallyReady()
	c.eventuallyReach(a, b)
	if warnings := strings.Count(a.log.String(), "level=WARN"); warnings > 0 {
		t.Errorf("%d warnings:\n%s", warnings, a.log)
	}
}

// A node whose address changed while no daemon ran keeps its subnet: its pods live in it, and a second record with the MAC of its device
// would mislead the peers.
func TestAddressChangedWhileDown(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b := c.pair()
	before := a.read("flannel/subnet.env")
	must(t, a.signal(syscall.SIGTERM))
	a.ip("addr flush dev eth0")
	a.ip("addr add 192.0.2.77/24 dev eth0")
	a.start()
	a.eventuallyReady()
	if now := a.read("flannel/subnet.env"); now != before {
		t.Errorf("%s\nwas %s", now, before)
	}
	c.eventuallyReach(a, b)
	c.eventuallyReach(b, a)
}

// Two nodes that were given one name by mistake are two nodes all the same: their devices differ.
func TestSameName(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a, b, other := c.addNode(), c.addNode(), c.addNode()
	a.start("--node-name=same")
	b.start("--node-name=same")
	other.start()
	for _, n := range []*testNode{a, b, other} {
		n.eventuallyReady()
	}
	c.eventuallyReach(a, b)
	c.eventuallyReach(b, a)
	c.eventuallyReach(other, a)
	c.eventuallyReach(other, b)
}
