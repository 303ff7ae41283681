//go:build linux

package linux

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

func TestCheckBridge(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("10.5.7.0/24"), netip.MustParsePrefix("fd00:5:0:7::/64")}
	const port = "link add veth1 type veth peer name pod1\nlink set veth1 master cni0\n"
	for _, tt := range []struct{ name, there, want string }{
		{"nothing", "", ""},
		{"of the same subnets, as flannel leaves it", port + "addr add 10.5.7.1/24 dev cni0\naddr add fd00:5:0:7::1/64 dev cni0", ""},
		{"of another subnet", port + "addr add 10.5.9.1/24 dev cni0", "bridge cni0 has the address 10.5.9.1/24, which is of none of this node's subnets " +
			"([10.5.7.0/24 fd00:5:0:7::/64]), and 1 ports (veth1)"},
		{"of another subnet of one family", port + "addr add 10.5.7.1/24 dev cni0\naddr add fd00:9::1/64 dev cni0", "fd00:9::1/64"},
		{"of another subnet, for nobody", "addr add 10.5.9.1/24 dev cni0", ""},
		{"without addresses", port, ""},
		{"of another subnet, the plugin's own", port + "addr add 10.5.9.1/24 dev cni0\nlink set cni0 alias " + kernel.BridgeAlias, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := open(t)
			if tt.there != "" {
				setUp(t, "link add cni0 type bridge\nlink set cni0 up\n"+tt.there)
			}
			before := kept(t, "addr")
			err := h.CheckBridge(t.Context(), "cni0", own)
			if errors.Is(err, kernel.ErrInTheWay) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("have %v, want %q", err, tt.want)
			}
			if after := kept(t, "addr"); after != before {
				t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}
