//go:build linux

package lab

import (
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestResolverConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		dns  types.DNS
		want string
	}{
		{"told of no name server", types.DNS{Search: []string{"cluster.local"}}, ""},
		{"name servers alone", types.DNS{Nameservers: []string{"10.244.1.1", "fd00:244:1::1"}}, "nameserver 10.244.1.1\nnameserver fd00:244:1::1\n"},
		{"all", types.DNS{Nameservers: []string{"10.244.1.1"}, Search: []string{"a.example", "example"}, Options: []string{"ndots:5", "edns0"}},
			"nameserver 10.244.1.1\nsearch a.example example\noptions ndots:5 edns0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(resolverConfig(tt.dns)); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
