//go:build linux

package linux

import (
	"fmt"
	"strings"
	"testing"
)

// All that is there is listed, whoever made it.
func TestList(t *testing.T) {
	h := open(t)
	setUp(t, `
link add br0 type bridge
link add vx7 type vxlan id 7 dstport 4789
link set vx7 master br0
link set vx7 alias mine
link set br0 up
link set vx7 up
addr add 192.0.2.1/24 dev br0
route add 10.244.1.0/24 via 192.0.2.9 dev br0 proto 84 metric 32
route add 10.244.2.0/24 nexthop via 192.0.2.9 dev br0 weight 3 nexthop via 192.0.2.8 dev br0
route add blackhole 10.244.3.0/24
route add 10.244.4.0/24 via 192.0.2.9 dev br0 table 77
neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev br0 nud permanent
`)
	run(t, "bridge fdb append 02:00:00:00:00:07 dev vx7 dst 198.51.100.7 self permanent")
	l, err := h.List(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		lines []string
		want  string
	}{
		{l.Links, `kind vxlan up master br0 alias "mine"`},
		{l.Addresses, "192.0.2.1/24 dev br0 "},
		{l.Routes, "10.244.1.0/24 via 192.0.2.9 dev br0 proto 84 metric 32 table 254 (Twill's)"},
		{l.Routes, "10.244.2.0/24 via 192.0.2.9 dev br0 weight 3 via 192.0.2.8 dev br0 proto 3 metric 0 table 254"},
		{l.Routes, "blackhole 10.244.3.0/24 "},
		{l.Routes, "10.244.4.0/24 via 192.0.2.9 dev br0 proto 3 metric 0 table 77"},
		{l.Neighbors, "192.0.2.9 dev br0 lladdr 02:00:00:00:00:09 state 0x80 flags 0x0 permanent"},
		{l.FDB, "02:00:00:00:00:07 dev vx7 dst 198.51.100.7 state 0xc0 flags 0x2 permanent"},
	} {
		if !strings.Contains(strings.Join(tt.lines, "\n"), tt.want) {
			t.Errorf("no %q in\n%s", tt.want, strings.Join(tt.lines, "\n"))
		}
	}
	if text := strings.Join(l.Routes, "\n"); strings.Contains(text, "table 255") {
		t.Errorf("the kernel's own table is listed:\n%s", text)
	}
}

// Of very many there are some, and their number.
func TestListIsBounded(t *testing.T) {
	h := open(t)
	var lines strings.Builder
	lines.WriteString("link add br0 type bridge\nlink set br0 up\naddr add 192.0.2.1/24 dev br0\n")
	for i := range 20 {
		fmt.Fprintf(&lines, "route add 10.9.%d.0/24 dev br0\n", i)
	}
	setUp(t, lines.String())
	l, err := h.List(t.Context(), 5)
	if err != nil || len(l.Routes) != 6 || !strings.HasPrefix(l.Routes[5], "... and ") || !strings.HasSuffix(l.Routes[5], " more") {
		t.Errorf("%v: %q", err, l.Routes)
	}
}
