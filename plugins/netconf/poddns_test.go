package netconf

import (
	"slices"
	"testing"
)

func TestPodDNS(t *testing.T) {
	own := []string{"svc.cluster.local", "cluster.local"}
	tests := []struct {
		name, cluster, pod string
		want               []string
	}{
		{"a pod's namespace", "cluster.local", "shop/web", []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}},
		{"no namespace", "cluster.local", "/web", []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}},
		{"no pod", "cluster.local", "", []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}},
		{"no cluster", "", "shop/web", own},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &Config{Cluster: test.cluster, DNS: DNS{Nameservers: []string{"10.244.1.1"}, Search: own}}
			if have := c.PodDNS(test.pod); !slices.Equal(have.Search, test.want) || len(have.Nameservers) != 1 {
				t.Errorf("have %v, want %v", have, test.want)
			}
			if len(c.DNS.Search) != 2 {
				t.Errorf("the configuration has become %v", c.DNS)
			}
		})
	}
}
