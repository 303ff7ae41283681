//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/delegate"
)

func TestVersion(t *testing.T) {
	n := newNode(t)
	var got struct{ SupportedVersions []string }
	if err := json.Unmarshal([]byte(n.must(call{verb: "VERSION"})), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0.4.0", "1.0.0", "1.1.0"}, got.SupportedVersions); diff != "" {
		t.Error(diff)
	}
}

func TestPodsReachEachOther(t *testing.T) {
	for name, ranges := range map[string][][]any{"IPv4": {subnet4}, "IPv6": {subnet6}, "dual stack": {subnet4, subnet6}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ranges...)
			a, b := n.add("a", nil), n.add("b", nil)
			n.echo(7)
			b.echo(7)
			if len(b.result.IPs) != len(ranges) {
				t.Fatalf("pod has addresses %+v", b.result.IPs)
			}
			for i, ip := range b.result.IPs {
				from := a.result.IPs[i].Address.Addr().String()
				for _, network := range []string{"tcp", "udp"} {
					for what, to := range map[string]netip.Addr{"pod": ip.Address.Addr(), "gateway": ip.Gateway} {
						if seen, err := a.ask(network, netip.AddrPortFrom(to, 7)); err != nil || seen != from {
							t.Errorf("%s to %s %s: seen as %q, error %v; want %s", network, what, to, seen, err, from)
						}
					}
				}
			}
			for _, p := range []pod{a, b} {
				n.must(call{verb: "CHECK", id: p.id, netns: p.path, keys: p.with(nil)})
				n.must(call{verb: "DEL", id: p.id, netns: p.path, keys: p.with(nil)})
			}
			n.wantNothingLeft()
		})
	}
}

// Whoever had the address before: neighbours that know the old MAC address must learn the new one at once.
func TestAnnouncement(t *testing.T) {
	n := newNode(t, subnet4, subnet6)
	a := n.add("a", nil)
	wanted := []string{"10.5.1.77", "fd00:5:1::77"}
	stale := net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	known := func(link string, where netns) map[string]string {
		macs := map[string]string{}
		where.do(func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
			for _, e := range all {
				macs[e.IP.String()] = e.HardwareAddr.String()
			}
			return err
		})
		return macs
	}
	places := map[string]netns{"eth0": a.netns, "cni0": n.netns}
	for link, where := range places {
		where.do(func() error {
			l, err := netlink.LinkByName(link)
			for _, ip := range wanted {
				err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: stale,
					State: netlink.NUD_STALE}))
			}
			return err
		})
	}
	b := n.add("b", map[string]any{"runtimeConfig": map[string]any{"ips": wanted}})
	for link, where := range places {
		eventually(t, "neighbours on "+link, func() bool {
			macs := known(link, where)
			return macs[wanted[0]] == b.result.Interfaces[2].MAC && macs[wanted[1]] == b.result.Interfaces[2].MAC
		})
	}
}

func TestCapabilitiesAndArgs(t *testing.T) {
	n := newNode(t, subnet4)
	tests := []struct {
		name, args string
		keys       map[string]any
		mac, addr  string
	}{
		{name: "capabilities", keys: map[string]any{"runtimeConfig": map[string]any{"mac": "02:00:00:00:00:01", "ips": []string{"10.5.1.41/24"},
			"dns": map[string]any{"servers": []string{"192.0.2.53"}}}}, mac: "02:00:00:00:00:01", addr: "10.5.1.41/24"},
		{name: "CNI_ARGS", args: "IgnoreUnknown=1;IP=10.5.1.42;MAC=02:00:00:00:00:02;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;X=y",
			mac: "02:00:00:00:00:02", addr: "10.5.1.42/24"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newNetns(t)
			out := n.must(call{verb: "ADD", id: "a", netns: p.path, args: test.args, keys: test.keys})
			for _, want := range []string{test.mac, test.addr} {
				if !strings.Contains(out, want) {
					t.Errorf("result lacks %s: %s", want, out)
				}
			}
			if test.args == "" && !strings.Contains(out, `"dns":{"nameservers":["192.0.2.53"]}`) {
				t.Errorf("result lacks dns: %s", out)
			}
			record, err := os.ReadFile(n.dir + "/run/attachments/net/a:eth0")
			if err != nil || test.args != "" && !strings.Contains(string(record), "shop/web-1") {
				t.Errorf("record %s, error %v", record, err)
			}
			n.must(call{verb: "CHECK", id: "a", netns: p.path, args: test.args, keys: map[string]any{"prevResult": json.RawMessage(out)}})
			n.must(call{verb: "DEL", id: "a"})
			n.wantNothingLeft()
		})
	}
}

func TestErrors(t *testing.T) {
	n := newNode(t, subnet4)
	used := n.add("used", nil)
	fresh := newNetns(t)
	file := n.dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := n.left()
	tests := []struct {
		name string
		call call
		raw  string
		code uint
		want string
	}{
		{name: "no JSON", raw: "{", code: 6},
		{name: "wrong type", call: call{keys: map[string]any{"mtu": "big"}}, code: 6, want: "mtu"},
		{name: "unknown key", call: call{keys: map[string]any{"brigde": "cni0"}}, code: 7, want: "brigde"},
		{name: "unknown key in ipam", call: call{keys: map[string]any{"ipam": map[string]any{"type": "twill-ipam", "rnages": 1}}}, code: 7, want: "rnages"},
		{name: "no name", call: call{keys: map[string]any{"name": ""}}, code: 7, want: "name"},
		{name: "version", call: call{keys: map[string]any{"cniVersion": "9.0.0"}}, code: 1},
		{name: "prevResult", call: call{keys: map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}}}, code: 7, want: "prevResult"},
		{name: "CNI_ARGS", call: call{args: "X=1"}, code: 4, want: `"X"`},
		{name: "interface name", call: call{ifName: "a/b"}, code: 4},
		{name: "long container id", call: call{id: strings.Repeat("x", 300)}, code: 4, want: "container id"},
		{name: "missing network namespace", call: call{netns: n.dir + "/none"}, code: 3, want: "/none"},
		{name: "no network namespace", call: call{netns: file}, code: 8, want: "no network namespace"},
		{name: "the host's network namespace", call: call{netns: n.path}, code: 8, want: "of the host"},
		{name: "attachment exists", call: call{id: "used", netns: used.path}, code: 102, want: "exists"},
		{name: "interface exists", call: call{ifName: "lo"}, code: 102, want: "lo"},
		{name: "no bridge", call: call{keys: map[string]any{"bridge": "lo"}}, code: 7, want: "lo"},
		{name: "MTU too small for IPv6", call: call{keys: map[string]any{"mtu": 1000, "ipam": map[string]any{"type": "twill-ipam",
			"ranges": [][]any{subnet6}, "dataDir": n.dir + "/ipam6"}}}, code: 7, want: "mtu"},
		{name: "address taken", call: call{keys: map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.5.1.2"}}}}, code: 103, want: "10.5.1.2"},
		{name: "exhausted", call: call{keys: map[string]any{"ipam": map[string]any{"type": "twill-ipam", "dataDir": n.dir + "/ipam",
			"subnet": "10.5.1.0/24", "rangeEnd": "10.5.1.2"}}}, code: 103, want: "no free address"},
		{name: "no IPAM plugin", call: call{keys: map[string]any{"ipam": map[string]any{"type": "nowhere"}}}, code: 7, want: "nowhere"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			c.verb = "ADD"
			if c.id == "" {
				c.id = "new"
			}
			if c.netns == "" {
				c.netns = fresh.path
			}
			var err error
			if test.raw != "" {
				_, err = n.runRaw(c, []byte(test.raw))
			} else {
				_, err = n.run(c)
			}
			var printed *delegate.Error
			if !errors.As(err, &printed) || printed.Code != test.code || !strings.Contains(printed.Error(), test.want) {
				t.Errorf("have error %+v, want code %d about %q", err, test.code, test.want)
			}
			if diff := cmp.Diff(before, n.left()); diff != "" {
				t.Errorf("left behind (+):\n%s", diff)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	n := newNode(t, []any{map[string]any{"subnet": "10.5.1.0/30"}})
	start := time.Now()
	n.must(call{verb: "STATUS"})
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("STATUS took %s", took)
	}
	n.add("a", nil)
	_, err := n.run(call{verb: "STATUS"})
	var printed *delegate.Error
	if !errors.As(err, &printed) || printed.Code != 50 {
		t.Errorf("with no address left: have error %+v, want code 50", err)
	}
}

// Every bridge setting that somebody changed by hand is repaired by the next ADD.
func TestBridge(t *testing.T) {
	foreign := net.HardwareAddr{2, 0, 0, 0, 0, 0x42}
	tests := []struct {
		name  string
		spoil func() error
	}{
		{"missing", func() error { return nil }},
		{"made by somebody else", func() error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", HardwareAddr: foreign, MTU: 1400}})
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, subnet4, subnet6)
			n.do(test.spoil)
			mac := n.add("a", nil).result.Interfaces[0].MAC
			if test.name != "missing" && mac != foreign.String() {
				t.Errorf("bridge has MAC address %s, want %s", mac, foreign)
			}
			n.do(func() error {
				l, err := netlink.LinkByName("cni0")
				if err != nil {
					return err
				}
				addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
				return errors.Join(err, netlink.LinkSetDown(l), netlink.AddrDel(l, &addrs[0]), netlink.LinkSetMTU(l, 1300))
			})
			// A port with a lower address would change a bridge's own, were that not pinned.
			b := n.add("b", nil)
			if got := b.result.Interfaces[0]; got.MAC != mac || got.MTU != 1450 {
				t.Errorf("bridge is %+v, want MAC %s and MTU 1450", got, mac)
			}
			n.do(func() error {
				l, err := netlink.LinkByName("cni0")
				if err != nil {
					return err
				}
				addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
				var have []string
				for _, a := range addrs {
					if a.Scope == 0 {
						have = append(have, a.IPNet.String())
					}
				}
				if diff := cmp.Diff([]string{"10.5.1.1/24", "fd00:5:1::1/64"}, have); diff != "" {
					t.Error(diff)
				}
				if l.Attrs().MTU != 1450 || l.Attrs().Flags&net.FlagUp == 0 || l.Attrs().HardwareAddr.String() != mac {
					t.Errorf("bridge is %+v", l.Attrs())
				}
				return err
			})
		})
	}
}

func TestManyAtATime(t *testing.T) {
	const pods = 250
	n := newNode(t, []any{map[string]any{"subnet": "10.5.0.0/22"}}, subnet6)
	outs := make([]string, pods)
	spaces := make([]netns, pods)
	for i := range spaces {
		spaces[i] = newNetns(t)
	}
	each := func(f func(i int)) {
		var wg sync.WaitGroup
		for i := range pods {
			wg.Go(func() { f(i) })
		}
		wg.Wait()
	}
	each(func(i int) {
		out, err := n.run(call{verb: "ADD", id: fmt.Sprint("c", i), netns: spaces[i].path})
		if err != nil {
			t.Error(i, err)
		}
		outs[i] = out
	})
	seen := map[string]bool{}
	for i, out := range outs {
		var p pod
		if err := json.Unmarshal([]byte(out), &p.result); err != nil {
			t.Fatal(i, err)
		}
		for _, ip := range p.result.IPs {
			if seen[ip.Address.String()] {
				t.Errorf("%s was given out twice", ip.Address)
			}
			seen[ip.Address.String()] = true
		}
	}
	if len(seen) != 2*pods {
		t.Errorf("%d addresses were given out, want %d", len(seen), 2*pods)
	}
	each(func(i int) {
		if _, err := n.run(call{verb: "DEL", id: fmt.Sprint("c", i)}); err != nil {
			t.Error(i, err)
		}
	})
	n.wantNothingLeft()
}

// The prefix of an alias is how the daemon knows the links that it puts back on the bridge.
func TestAlias(t *testing.T) {
	n := newNode(t, subnet4)
	p := n.add("a", nil)
	n.do(func() error {
		l, err := netlink.LinkByName(p.result.Interfaces[1].Name)
		if err == nil && l.Attrs().Alias != kernel.PodLinkAliasPrefix+"a/eth0" {
			t.Errorf("alias is %q", l.Attrs().Alias)
		}
		return err
	})
}
