package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/test/e2e/harness"
)

// repaired has somebody else change the tables, in all the ways there are, and wants them to be as they were within a second.
func repaired(t *testing.T, r *rig, v variables) {
	local := "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: $hc, loadBalancerSourceRanges: [$out14/32, '$out16/128'], sessionAffinity: ClientIP"
	other := strings.NewReplacer("web", "plain", "$vip", "$free", "$np", "$np2").Replace(web("type: NodePort") + backed("a c"))
	r.apply(t, v, web(local)+vips+backed("a b c d")+other)
	n := r.machines["node1"].node
	ns := n.Netns()
	sh(t, ns, "nft add table ip mine; nft add chain ip mine twill-proxy; nft add rule ip mine twill-proxy counter")
	mine := sh(t, ns, "nft list table ip mine")
	before := settled(t, n)
	vip, free := v["vip4"], v["free4"]
	// some is the key of an element, as the shell finds it.
	some := func(in, of string) string {
		return fmt.Sprintf("$(nft list map ip twill-proxy %s | grep -o '%s . tcp . 80 . [^ ]*' | head -n 1)", in, of)
	}
	for _, tt := range []struct{ name, line string }{
		{"both tables deleted", "nft delete table ip twill-proxy; nft delete table ip6 twill-proxy"},
		{"a table flushed", "nft flush table ip twill-proxy"},
		{"a frontend removed", fmt.Sprintf("nft delete element ip twill-proxy services '{ %s . tcp . 80 }'", free)},
		{"an endpoint removed", "nft delete element ip twill-proxy endpoints \"{ " + some("endpoints", free) + " }\""},
		{"a member removed", "nft flush map ip twill-proxy members"},
		{"a slot removed", "nft delete element ip twill-proxy slots \"{ " + some("slots", vip) + " }\""},
		{"a map emptied", "nft flush map ip6 twill-proxy endpoints"},
		{"ClusterIPs emptied", "nft flush set ip twill-proxy cluster-addresses"},
		{"source ranges emptied", "nft flush set ip twill-proxy ranges"},
		{"pods emptied", "nft flush set ip twill-proxy pods"},
		{"a frontend that nobody asked for", "nft add element ip twill-proxy services '{ 192.0.2.77 . tcp . 80 : 1 }'"},
		{"an endpoint that nobody asked for", fmt.Sprintf("nft add element ip twill-proxy endpoints '{ %s . tcp . 80 . 0:7 : 192.0.2.77 . 80 }'", free)},
		{"an endpoint turned to another", "e=\"" + some("endpoints", free) + "\"; " +
			`nft "delete element ip twill-proxy endpoints { $e }; add element ip twill-proxy endpoints { $e : 192.0.2.77 . 80 }"`},
		{"a rule added", "nft insert rule ip twill-proxy prerouting drop"},
		{"a rule removed", "nft delete rule ip twill-proxy prerouting handle $(nft -a list chain ip twill-proxy prerouting | sed -n 's/.*jump.*handle //p')"},
		{"a chain flushed", "nft flush chain ip twill-proxy postrouting"},
		{"a chain added", "nft add chain ip twill-proxy intruder '{ type filter hook forward priority 0; policy drop; }'"},
		{"a set added", "nft add set ip twill-proxy intruder '{ type ipv4_addr; }'"},
	} {
		if _, err := harness.TryShell(t.Context(), ns, tt.line); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var now string
		took := within(t, patience, func() (err error) {
			if now, err = tryContents(t.Context(), n); err == nil && now != before {
				err = fmt.Errorf("%s:\n%s", tt.name, differing(before, now))
			}
			return err
		})
		t.Logf("%s: repaired in %v", tt.name, took.Round(time.Millisecond))
		if took > time.Second {
			t.Errorf("%s: repaired only after %v", tt.name, took)
		}
	}
	if now := sh(t, ns, "nft list table ip mine"); now != mine {
		t.Errorf("another table was changed:\n%s", now)
	}
	sh(t, ns, "nft delete table ip mine")
	r.want(t, v, probe{"out1", "tcp $free:80", "a~ c~"}, probe{"b", "tcp $free:80", "a c"}, probe{"out1", "sticky $lb:80", "a b"}, probe{"out2", "tcp $lb:80", dropped})
}
