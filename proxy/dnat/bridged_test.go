package dnat

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel/nft"
)

// Two pods of one bridge, whose packets to each other do not pass netfilter: through a Service they reach each other with the node's address.
func TestBridgedPods(t *testing.T) {
	for _, f := range families() {
		for _, masquerade := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/masquerade=%v", f.name, masquerade), func(t *testing.T) {
				f.config.MasqueradeBridged = masquerade
				r := &rig{t: t, family: f, node: newPlace(t), servers: newPlace(t), clients: newPlace(t)}
				bits, version, flags := 24, "-4", ""
				if f.config.v6() {
					bits, version, flags = 112, "-6", "nodad"
				}
				for _, p := range []*place{r.node, r.servers, r.clients} {
					p.run("ip link set lo up")
					p.set("ipv4/conf/all/rp_filter", "0")
				}
				r.node.set("ipv4/ip_forward", "1")
				r.node.set("ipv6/conf/all/forwarding", "1")
				r.node.run("ip link add cni0 type bridge\nip link set cni0 up")
				for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
					r.node.set("bridge/"+name, "0")
				}
				for addr, p := range map[string]*place{"10.1.1.8": r.clients, "10.1.1.9": r.servers} {
					r.node.run(fmt.Sprintf("ip link add v%d type veth peer name eth0 netns %d\nip link set v%[1]d master cni0 up", p.tid, p.tid))
					p.run(fmt.Sprintf("ip link set eth0 up\nip addr add %s/%d dev eth0 %s\nip %s route add default via %s", f.addr(addr), bits, flags, version, f.addr("10.1.1.1")))
				}
				r.node.run(fmt.Sprintf("ip addr add %s/%d dev cni0 %s", f.addr("10.1.1.1"), bits, flags))
				r.node.do(func() {
					var err error
					if r.handle, err = nft.Open(slog.New(slog.DiscardHandler)); err != nil {
						t.Error(err)
					}
				})
				if t.Failed() {
					t.FailNow()
				}
				t.Cleanup(func() { _ = r.handle.Close() })
				r.serve()
				r.start(svc("web", f.frontend("10.96.0.1:80", "10.1.1.9:8080")))
				direct := f.at("10.1.1.9:8080")
				for deadline := time.Now().Add(10 * time.Second); ; { // links take a moment to come up
					have := r.clients.reach(f.addr("10.1.1.8"), direct)
					if have == direct.String() {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("without a Service: %s", have)
					}
				}
				have := r.clients.reach(f.addr("10.1.1.8"), f.at("10.96.0.1:80"))
				want := "drop" // the reply comes from an address that the client did not ask
				if masquerade {
					want = f.at("10.1.1.9:8080").String() + " masqueraded"
				}
				if have != want {
					t.Errorf("have %s, want %s", have, want)
				}
			})
		}
	}
}
