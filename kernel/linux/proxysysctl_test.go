//go:build linux

package linux

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestEnsureBridgeNetfilter(t *testing.T) {
	h := open(t)
	if !exists(defaultSysctlDir + "/net/bridge") {
		if ok, err := h.EnsureBridgeNetfilter(true, true); ok || err != nil {
			t.Errorf("have %t, %v without br_netfilter", ok, err)
		}
		return
	}
	run(t, "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
	if ok, err := h.EnsureBridgeNetfilter(true, false); !ok || err != nil {
		t.Fatalf("have %t, %v", ok, err)
	}
	if ipv4, ipv6, err := h.BridgeNetfilter(); !ipv4 || ipv6 || err != nil {
		t.Errorf("have %t, %t, %v; want IPv4 alone", ipv4, ipv6, err)
	}
}

func TestEnsureConntrack(t *testing.T) {
	h := open(t)
	// Reading connection tracking's settings of a namespace needs it to be in use there.
	run(t, "nft add table ip t")
	run(t, "nft add chain ip t c {type filter hook input priority 0;}")
	run(t, "nft add rule ip t c ct state invalid drop")
	err := h.EnsureConntrack(ConntrackSettings{BeLiberal: true, TCPEstablished: time.Hour, TCPCloseWait: time.Minute, UDP: 10 * time.Second, UDPStream: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for entry, want := range map[string]string{"tcp_be_liberal": "1", "tcp_timeout_established": "3600", "tcp_timeout_close_wait": "60",
		"udp_timeout": "10", "udp_timeout_stream": "20"} {
		if have := run(t, "sysctl -n net.netfilter.nf_conntrack_"+entry); have != want {
			t.Errorf("%s is %s, want %s", entry, have, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	h := open(t)
	run(t, "ip link add v0 type veth peer name v1")
	run(t, "ip addr add 192.0.2.1/24 dev v0")
	run(t, "ip addr add 2001:db8::1/64 dev v1 nodad")
	run(t, "ip link set lo up")
	run(t, "ip link set v0 up")
	run(t, "ip link set v1 up")
	have, err := h.Addresses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(have, netip.Addr.Compare)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}; !slices.Equal(have, want) {
		t.Errorf("have %v, want %v", have, want)
	}
}
