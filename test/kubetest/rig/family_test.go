package rig

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// TestFamilies has clusters of one family, and one whose first family is IPv6.
func TestFamilies(t *testing.T) {
	if testing.Short() {
		t.Skip("three sites take half a minute")
	}
	v4, v6 := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/56")
	for _, tt := range []struct {
		name     string
		ipv6     bool
		pods     []netip.Prefix
		services []netip.Prefix
	}{
		{"IPv4", false, []netip.Prefix{v4}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
		{"IPv6", true, []netip.Prefix{v6}, []netip.Prefix{netip.MustParsePrefix("fd00:96::/112")}},
		{"IPv6 and IPv4", true, []netip.Prefix{v6, v4}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := kubetest.StartSite(t, kubetest.SiteOptions{Machines: 1, IPv6: tt.ipv6, Cluster: kubetest.Options{
				ServiceCIDRs: tt.services, Controllers: &kubetest.Controllers{PodCIDRs: tt.pods}}})
			connect(t, s)
			m := s.Machines[0]
			must(t, s.Cluster.Apply(t.Context(), pod("server", m, "[netexec]")+"  hostNetwork: true\n---"+pod("client", m, "[pause]")))
			addrs := running(t, s, "server", "client")
			if addrs[0][0].Is6() != tt.ipv6 || addrs[1][0].Is6() != tt.ipv6 || len(addrs[1]) != len(tt.pods) {
				t.Errorf("the Pods have the addresses %v", addrs)
			}
			testExec(t, s, addrs[0][0])
			if got, err := inPod(t.Context(), s, "client", "grep", "nameserver", "/etc/resolv.conf"); err != nil || got != "nameserver "+s.Cluster.DNSAddr().String() {
				t.Errorf("the Pod asks %q, %v", got, err)
			}
		})
	}
}
