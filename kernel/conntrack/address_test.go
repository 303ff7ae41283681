package conntrack

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlushAddrs(t *testing.T) {
	tests := []struct {
		name  string
		addrs []string
		want  []string // that stay
	}{
		{"destination", []string{"198.51.100.2"}, []string{"tcp 198.51.100.1 53", "udp 10.5.1.7 5353", "udp 198.51.100.1 53", "udp 198.51.100.1 53", "udp 198.51.100.1 54",
			"udp 2001:db8::1 53", "udp 2001:db8::2 53"}},
		{"endpoint behind a translation, and destination", []string{"10.5.1.7"}, []string{"tcp 198.51.100.1 53", "udp 198.51.100.1 53", "udp 198.51.100.1 54",
			"udp 198.51.100.2 53", "udp 2001:db8::1 53", "udp 2001:db8::2 53"}},
		{"client", []string{"192.0.2.100"}, []string{"udp 2001:db8::1 53", "udp 2001:db8::2 53"}},
		{"both families", []string{"192.0.2.100", "2001:db8::2"}, []string{"udp 2001:db8::1 53"}},
		{"mapped", []string{"::ffff:192.0.2.100", "2001:db8::100"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t)
			before := fill(t)
			var addrs []netip.Addr
			for _, a := range tt.addrs {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			n, err := FlushAddrs(t.Context(), addrs)
			if err != nil || n != len(before)-len(tt.want) {
				t.Errorf("removed %d, error %v; want %d", n, err, len(before)-len(tt.want))
			}
			if diff := cmp.Diff(tt.want, entries(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		inNamespace(t)
		if n, err := FlushAddrs(t.Context(), []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}); n != 0 || err != nil {
			t.Errorf("removed %d, error %v", n, err)
		}
	})
}
