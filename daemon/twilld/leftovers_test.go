//go:build linux

package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// eventuallyAmiss waits until the node is not ready for a reason that has all the parts.
func (n *testNode) eventuallyAmiss(parts ...string) {
	n.c.t.Helper()
	n.c.eventually(n.name+" says what is amiss", func() string {
		code, body := n.get("/readyz")
		for _, part := range parts {
			if code != http.StatusServiceUnavailable || !strings.Contains(body, part) {
				return body
			}
		}
		return ""
	})
}

// bridgeOf makes a bridge as the reference plugin does, with a pod on it.
func (n *testNode) bridgeOf(addr string) {
	n.c.t.Helper()
	for _, made := range []string{"link add cni0 type bridge", "link set cni0 up", "addr add " + addr + " dev cni0", "link add veth0 type veth peer name pod0",
		"link set veth0 master cni0", "link set veth0 up"} {
		n.ip(made)
	}
}

// macOf returns index, name and MAC of a link, of what ip(8) prints.
func macOf(link string) string {
	fields := strings.Fields(link)
	at := slices.Index(fields, "link/ether")
	if at < 0 {
		return link
	}
	return strings.Join([]string{fields[0], fields[1], fields[at+1], "\n"}, " ")
}

// Pods of another network keep their gateway, and the node gets no conflist, until they are gone.
func TestBridgeOfAnotherNetwork(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.bridgeOf("10.88.0.1/16")
	state := func() string {
		return a.ip("-o -4 addr show dev cni0") + a.ip("-o link show type vxlan") + a.ip("route show proto 84") + a.nft("list tables") + macOf(a.ip("-o link show cni0"))
	}
	before := state()
	a.start()
	a.eventuallyAmiss("bridge cni0 has the address 10.88.0.1/16", "veth0", "ip link delete cni0")
	if after := state(); after != before {
		t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(a.file("net.d/10-twill.conflist")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the conflist: %v", err)
	}
	a.ip("link del veth0")
	a.eventuallyReady()
	if addrs := a.ip("-br -4 addr show dev cni0"); strings.Contains(addrs, "10.88.0.1") || !strings.Contains(addrs, a.gateways()[0]) {
		t.Errorf("cni0 has %s", addrs)
	}
}

// Pods that flannel attached go on when Twill takes over: the bridge keeps its index, MAC, address and ports. The conflist that flannel left, which a
// runtime would prefer, is named; all else works meanwhile.
func TestPodsOfFlannelStay(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.bridgeOf("10.5.7.1/24")
	must(t, os.MkdirAll(a.file("flannel"), 0o755))
	must(t, os.WriteFile(a.file("flannel/subnet.env"), []byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"), 0o644))
	must(t, os.MkdirAll(a.file("net.d"), 0o755))
	foreign := a.file("net.d/10-flannel.conflist")
	must(t, os.WriteFile(foreign, []byte(`{"name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}`), 0o644))
	pods := func() string {
		return macOf(a.ip("-o link show cni0")) + a.ip("-o -4 addr show dev cni0") + macOf(a.ip("-o link show master cni0"))
	}
	before := pods()
	a.start()
	a.eventuallyAmiss(foreign+", of flannel, portmap, before 10-twill.conflist", "mv "+foreign)
	if after := pods(); after != before {
		t.Errorf("the pods' bridge is\n%s\nwas\n%s", after, before)
	}
	if links := a.ip("-br link"); !strings.Contains(links, "flannel.1") {
		t.Errorf("the node is not programmed:\n%s", links)
	}
	must(t, os.Rename(foreign, foreign+".disabled"))
	a.eventuallyReady()
	if after := pods(); after != before {
		t.Errorf("the pods' bridge is\n%s\nwas\n%s", after, before)
	}
}

// Devices that have the place of Twill's are named, with what to do, and stay.
func TestDevicesInTheWay(t *testing.T) {
	for _, tt := range []struct{ name, there, want string }{
		{"another kind", "link add flannel.1 type bridge", `link flannel.1: a device of kind "bridge" has this name; want kind "vxlan": remove or rename it`},
		{"its VNI and port", "link add vxlan0 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472", "link vxlan0 has VNI 1 and port 8472; run `ip link delete vxlan0`"},
		{"no bridge", "link add cni0 type veth peer name cni1", `link cni0: a device of kind "veth" has this name; want kind "bridge"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, vxlanNetwork)
			a := c.addNode()
			a.ip(tt.there)
			name := strings.Fields(tt.there)[2]
			before := strings.Fields(a.ip("-o link show " + name))[0]
			a.start()
			a.eventuallyAmiss(tt.want)
			if after := strings.Fields(a.ip("-o link show " + name))[0]; after != before {
				t.Errorf("%s is %s, was %s", name, after, before)
			}
			if _, err := os.Stat(a.file("net.d/10-twill.conflist")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the conflist: %v", err)
			}
			a.ip("link del " + name)
			a.eventuallyReady()
		})
	}
}

// A daemon without the right to change the network says which one it needs.
func TestWithoutCapability(t *testing.T) {
	c := newCluster(t, vxlanNetwork)
	a := c.addNode()
	a.contain(nil)
	out, err := a.run1()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, "it needs the capability NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}
