package service_test

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

func TestExternalTrafficPolicyLocal(t *testing.T) {
	local := web(balanced, externalLocal)
	clusterIP := func(endpoints string) string {
		return "ClusterIP TCP 10.96.0.7:80: " + endpoints + "; masquerade off-cluster"
	}
	outside := func(backends string) []string {
		return []string{
			"NodePort TCP 192.0.2.1:30080: " + backends + "; masquerade never",
			"LoadBalancer TCP 203.0.113.5:80: " + backends + "; masquerade never",
		}
	}
	want := func(in, out string) []string { return append([]string{clusterIP(in)}, outside(out)...) }
	runAll(t, []resolution{
		{
			name: "a local endpoint among others", svc: local, slices: sliceList{pods("10.244.1.5", "10.244.2.5")},
			want: want("10.244.1.5:8080@ 10.244.2.5:8080", "10.244.1.5:8080@; inside: 10.244.1.5:8080@ 10.244.2.5:8080"),
		},
		{
			name: "local endpoints alone", svc: local, slices: sliceList{pods("10.244.1.5", "10.244.1.6")},
			want: want("10.244.1.5:8080@ 10.244.1.6:8080@", "10.244.1.5:8080@ 10.244.1.6:8080@"),
		},
		{
			name: "no local endpoint", svc: local, slices: sliceList{pods("10.244.2.5")},
			want: want("10.244.2.5:8080", "drop; inside: 10.244.2.5:8080"),
		},
		{
			name: "no endpoint", svc: local, slices: sliceList{pods()},
			want: want("reject", "reject"),
		},
		{
			name: "none that is ready", svc: local, slices: sliceList{pods("10.244.1.5 unready", "10.244.2.5 dying")},
			want: want("reject", "reject"),
		},
		{
			name: "the local one drains, so Cluster has the ready one and Local the draining one", svc: local,
			slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5")},
			want:   want("10.244.2.5:8080", "10.244.1.5:8080@; inside: 10.244.2.5:8080"),
		},
		{
			name: "of two local ones one drains", svc: local, slices: sliceList{pods("10.244.1.5 draining", "10.244.1.6")},
			want: want("10.244.1.6:8080@", "10.244.1.6:8080@"),
		},
		{
			name: "all drain", svc: local, slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5 draining")},
			want: want("10.244.1.5:8080@ 10.244.2.5:8080", "10.244.1.5:8080@; inside: 10.244.1.5:8080@ 10.244.2.5:8080"),
		},
		{
			name: "the last one drains elsewhere", svc: local, slices: sliceList{pods("10.244.2.5 draining")},
			want: want("10.244.2.5:8080", "drop; inside: 10.244.2.5:8080"),
		},
		{
			name:   "external addresses",
			svc:    web(externalLocal, func(s *store.Service) { s.ExternalIPs = addrs("198.51.100.9") }),
			slices: sliceList{pods("10.244.1.5", "10.244.2.5")},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"ExternalIP TCP 198.51.100.9:80: 10.244.1.5:8080@; inside: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade never",
			},
		},
		{
			name: "of each family by itself", svc: web(externalLocal, dualStack, func(s *store.Service) { s.ExternalIPs = addrs("198.51.100.9", "2001:db8:9::9") }),
			slices: sliceList{podsIn("web-1", "10.244.1.5"), podsIn("web-2", "fd00:2::5")},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster",
				"ExternalIP TCP 198.51.100.9:80: 10.244.1.5:8080@; masquerade never",
				"ExternalIP TCP [2001:db8:9::9]:80: drop; inside: [fd00:2::5]:8080; masquerade never",
				"ClusterIP TCP [fd00:96::7]:80: [fd00:2::5]:8080; masquerade off-cluster",
			},
		},
	})
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	clusterIP := func(endpoints string) []string {
		return []string{"ClusterIP TCP 10.96.0.7:80: " + endpoints + "; masquerade off-cluster"}
	}
	runAll(t, []resolution{
		{
			name: "a local endpoint", svc: web(internalLocal), slices: sliceList{pods("10.244.1.5", "10.244.2.5")},
			want: clusterIP("10.244.1.5:8080@"),
		},
		{name: "no local endpoint", svc: web(internalLocal), slices: sliceList{pods("10.244.2.5")}, want: clusterIP("drop")},
		{name: "no endpoint", svc: web(internalLocal), slices: sliceList{pods()}, want: clusterIP("reject")},
		{name: "only draining ones elsewhere", svc: web(internalLocal), slices: sliceList{pods("10.244.2.5 draining")}, want: clusterIP("drop")},
		{
			name: "a local one that drains", svc: web(internalLocal), slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5")},
			want: clusterIP("10.244.1.5:8080@"),
		},
		{
			name: "concerns the ClusterIP alone", svc: web(internalLocal, balanced), slices: sliceList{pods("10.244.2.5")},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: drop; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.2.5:8080; masquerade always",
				"LoadBalancer TCP 203.0.113.5:80: 10.244.2.5:8080; masquerade always",
			},
		},
		{
			name: "clients inside get at external addresses what Cluster gives", svc: web(internalLocal, externalLocal, balanced), slices: sliceList{pods("10.244.2.5")},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: drop; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: drop; inside: 10.244.2.5:8080; masquerade never",
				"LoadBalancer TCP 203.0.113.5:80: drop; inside: 10.244.2.5:8080; masquerade never",
			},
		},
	})
}

func TestConditions(t *testing.T) {
	clusterIP := func(endpoints string) []string {
		return []string{"ClusterIP TCP 10.96.0.7:80: " + endpoints + "; masquerade off-cluster"}
	}
	runAll(t, []resolution{
		{name: "unready ones", svc: web(), slices: sliceList{pods("10.244.1.5 unready", "10.244.2.5")}, want: clusterIP("10.244.2.5:8080")},
		{name: "draining ones beside a ready one", svc: web(), slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5")}, want: clusterIP("10.244.2.5:8080")},
		{name: "draining ones beside an unready one", svc: web(), slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5 unready")}, want: clusterIP("10.244.1.5:8080@")},
		{name: "serving, neither ready nor terminating", svc: web(), slices: sliceList{pods("10.244.1.5 warming", "10.244.2.5 draining")}, want: clusterIP("10.244.2.5:8080")},
		{name: "dying ones", svc: web(), slices: sliceList{pods("10.244.1.5 dying")}, want: clusterIP("reject")},
		{name: "published ones", svc: web(), slices: sliceList{pods("10.244.1.5 published")}, want: clusterIP("10.244.1.5:8080@")},
	})
}

func TestHints(t *testing.T) {
	clusterIP := func(endpoints string) []string {
		return []string{"ClusterIP TCP 10.96.0.7:80: " + endpoints + "; masquerade off-cluster"}
	}
	all := clusterIP("10.244.1.5:8080@ 10.244.2.5:8080 10.244.3.5:8080")
	runAll(t, []resolution{
		{
			name: "zones", svc: web(), want: clusterIP("10.244.1.5:8080@ 10.244.3.5:8080"),
			slices: sliceList{pods("10.244.1.5 zones=zone-1", "10.244.2.5 zones=zone-2", "10.244.3.5 zones=zone-2,zone-1")},
		},
		{
			name: "zones, one endpoint without", svc: web(), want: all,
			slices: sliceList{pods("10.244.1.5 zones=zone-1", "10.244.2.5", "10.244.3.5 zones=zone-2")},
		},
		{
			name: "zones, one endpoint without that is not ready", svc: web(), want: clusterIP("10.244.1.5:8080@"),
			slices: sliceList{pods("10.244.1.5 zones=zone-1", "10.244.2.5 unready", "10.244.3.5 zones=zone-2")},
		},
		{
			name: "zones, none for ours", svc: web(), want: all,
			slices: sliceList{pods("10.244.1.5 zones=zone-3", "10.244.2.5 zones=zone-2", "10.244.3.5 zones=zone-2")},
		},
		{
			name: "zones, none ready for ours", svc: web(), want: clusterIP("10.244.2.5:8080 10.244.3.5:8080"),
			slices: sliceList{pods("10.244.1.5 zones=zone-1 unready", "10.244.2.5 zones=zone-2", "10.244.3.5 zones=zone-2")},
		},
		{
			name: "zones, ours unknown", svc: web(), want: all, node: func(n *service.Node) { n.Zone = "" },
			slices: sliceList{pods("10.244.1.5 zones=zone-1", "10.244.2.5 zones=zone-1", "10.244.3.5 zones=zone-2")},
		},
		{
			name: "zones whose names begin alike", svc: web(), want: all,
			slices: sliceList{pods("10.244.1.5 zones=zone-10", "10.244.2.5 zones=zone-11,zone-12", "10.244.3.5 zones=zone-")},
		},
		{
			name: "nodes", svc: web(), want: clusterIP("10.244.1.5:8080@"),
			slices: sliceList{pods("10.244.1.5 nodes=node-a", "10.244.2.5 nodes=node-b", "10.244.3.5 nodes=node-c")},
		},
		{
			name: "nodes before zones", svc: web(), want: clusterIP("10.244.1.5:8080@"),
			slices: sliceList{pods("10.244.1.5 nodes=node-a zones=zone-1", "10.244.2.5 nodes=node-b zones=zone-1")},
		},
		{
			name: "nodes, none for ours, so zones", svc: web(), want: clusterIP("10.244.2.5:8080"),
			slices: sliceList{pods("10.244.2.5 nodes=node-b zones=zone-1", "10.244.3.5 nodes=node-c zones=zone-2")},
		},
		{
			name: "nodes, one endpoint without, so zones", svc: web(), want: clusterIP("10.244.1.5:8080@ 10.244.2.5:8080"),
			slices: sliceList{pods("10.244.1.5 nodes=node-a zones=zone-1", "10.244.2.5 zones=zone-1", "10.244.3.5 nodes=node-c zones=zone-2")},
		},
		{
			name: "a hint for this node on a pod of another", svc: web(), want: clusterIP("10.244.2.5:8080"),
			slices: sliceList{pods("10.244.2.5 nodes=node-a", "10.244.3.5 nodes=node-c")},
		},
		{
			name: "draining ones are taken whatever their hints", svc: web(), want: clusterIP("10.244.1.5:8080@ 10.244.3.5:8080"),
			slices: sliceList{pods("10.244.1.5 draining zones=zone-1", "10.244.3.5 draining zones=zone-2")},
		},
		{
			name: "Local does not know hints", svc: web(internalLocal), want: clusterIP("10.244.1.5:8080@"),
			slices: sliceList{pods("10.244.1.5 zones=zone-2", "10.244.2.5 zones=zone-1")},
		},
		{
			name: "trafficDistribution without hints changes nothing", want: all,
			svc:    web(func(s *store.Service) { s.Distribution, s.TopologyMode = "PreferSameZone", "Auto" }),
			slices: sliceList{pods("10.244.1.5", "10.244.2.5", "10.244.3.5")},
		},
	})
}

func TestHealthCheck(t *testing.T) {
	local := func(s *store.Service) {
		balanced(s)
		externalLocal(s)
		s.Ports[0].NodePort, s.Ingress, s.HealthCheckNodePort = 0, nil, 32000
	}
	more := func(name string, port uint16, all ...string) *store.EndpointSlice {
		s := podsIn(name, all...)
		s.Ports = []store.EndpointPort{{Name: "https", Protocol: store.TCP, Port: port}}
		return s
	}
	for _, c := range []struct {
		name   string
		svc    *store.Service
		slices sliceList
		want   *service.HealthCheck
	}{
		{"local endpoints", web(local), sliceList{pods("10.244.1.5", "10.244.1.6", "10.244.2.5")}, &service.HealthCheck{Port: 32000, LocalEndpoints: 2}},
		{"none", web(local), nil, &service.HealthCheck{Port: 32000}},
		{"elsewhere", web(local), sliceList{pods("10.244.2.5")}, &service.HealthCheck{Port: 32000}},
		{"ones that drain", web(local), sliceList{pods("10.244.1.5 draining")}, &service.HealthCheck{Port: 32000}},
		{"ones that are not ready", web(local), sliceList{pods("10.244.1.5 unready")}, &service.HealthCheck{Port: 32000}},
		{"a pod with two ports", web(local), sliceList{pods("10.244.1.5"), more("web-2", 8443, "10.244.1.5")}, &service.HealthCheck{Port: 32000, LocalEndpoints: 1}},
		{"a slice without a port", web(local), sliceList{more("web-2", 0, "10.244.1.5")}, &service.HealthCheck{Port: 32000}},
		{"a dual-stack pod", web(local, dualStack), sliceList{pods("10.244.1.5"), podsIn("web-2", "fd00:1::5")}, &service.HealthCheck{Port: 32000, LocalEndpoints: 1}},
		{"IPv6 endpoints of an IPv4 Service", web(local), sliceList{podsIn("web-2", "fd00:1::5")}, &service.HealthCheck{Port: 32000}},
		{"weight 0", web(local, func(s *store.Service) { s.Weights = map[string]uint32{"node-a": 0} }), sliceList{pods("10.244.1.5")}, &service.HealthCheck{Port: 32000}},
		{"externalTrafficPolicy Cluster", web(local, func(s *store.Service) { s.ExternalLocal = false }), sliceList{pods("10.244.1.5")}, nil},
		{"no LoadBalancer", web(local, func(s *store.Service) { s.Type = store.ServiceNodePort }), sliceList{pods("10.244.1.5")}, nil},
		{"no port", web(local, func(s *store.Service) { s.HealthCheckNodePort = 0 }), sliceList{pods("10.244.1.5")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := service.Resolve(c.svc, c.slices, testNode()).HealthCheck
			if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("health check is %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSourceRanges(t *testing.T) {
	ranges := func(all ...string) func(*store.Service) {
		return func(s *store.Service) { s.SourceRanges = prefixes(all...) }
	}
	onlyVIP := func(s *store.Service) {
		balanced(s)
		s.Ports[0].NodePort = 0
		s.Ingress = append(s.Ingress, store.Ingress{Addr: netip.MustParseAddr("2001:db8:5::5")})
	}
	inside := "ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"
	inside6 := "ClusterIP TCP [fd00:96::7]:80: [fd00:1::5]:8080@; masquerade off-cluster"
	vip := "LoadBalancer TCP 203.0.113.5:80: 10.244.1.5:8080@; masquerade always"
	vip6 := "LoadBalancer TCP [2001:db8:5::5]:80: [fd00:1::5]:8080@; masquerade always"
	both := sliceList{pods("10.244.1.5"), podsIn("web-2", "fd00:1::5")}
	runAll(t, []resolution{
		{
			name: "of both families, unordered, twice", slices: both,
			svc:  web(onlyVIP, dualStack, ranges("203.0.113.128/25", "198.51.100.7/24", "2001:db8:7::/48", "198.51.100.0/24")),
			want: []string{inside, vip + "; from [198.51.100.0/24 203.0.113.128/25]", vip6 + "; from [2001:db8:7::/48]", inside6},
		},
		{
			name: "of one family", slices: both, svc: web(onlyVIP, dualStack, ranges("198.51.100.0/24")),
			want: []string{
				inside, vip + "; from [198.51.100.0/24]", vip6 + "; from []", inside6,
				"warning: loadBalancerSourceRanges hold no IPv6 network, so no IPv6 client reaches the load balancer's address",
			},
		},
		{
			name: "everybody", slices: both, svc: web(onlyVIP, dualStack, ranges("198.51.100.0/24", "0.0.0.0/0", "2001:db8:7::/48", "::/0")),
			want: []string{inside, vip, vip6, inside6},
		},
		{
			name: "one that holds an address of node ports", slices: both,
			svc: web(onlyVIP, dualStack, ranges("192.0.2.0/24", "2001:db8:7::/48")), node: func(n *service.Node) { n.Addrs = nil },
			want: []string{inside, vip + "; from [192.0.2.0/24 203.0.113.5/32]", vip6 + "; from [2001:db8:7::/48]", inside6},
		},
		{
			name: "one that holds the node, where node ports are off", slices: both,
			svc: web(onlyVIP, dualStack, ranges("192.0.2.0/24", "2001:db8:7::/48")), node: func(n *service.Node) { n.NodePortAddrs = nil },
			want: []string{inside, vip + "; from [192.0.2.0/24 203.0.113.5/32]", vip6 + "; from [2001:db8:7::/48]", inside6},
		},
		{
			name: "one that holds the node, beside an address that others catch", slices: both,
			svc: web(onlyVIP, dualStack, ranges("192.0.2.0/24", "2001:db8:7::/48"), func(s *store.Service) {
				s.Ingress = append(s.Ingress, store.Ingress{Addr: netip.MustParseAddr("203.0.113.9"), Proxy: true})
			}),
			want: []string{inside, vip + "; from [192.0.2.0/24 203.0.113.5/32]", vip6 + "; from [2001:db8:7::/48]", inside6},
		},
		{
			name: "one that holds the node", slices: both, svc: web(onlyVIP, dualStack, ranges("192.0.2.0/24", "2001:db8:7::/48")),
			want: []string{inside, vip + "; from [192.0.2.0/24 203.0.113.5/32]", vip6 + "; from [2001:db8:7::/48]", inside6},
		},
		{
			name: "node ports and external addresses are not concerned", slices: sliceList{pods("10.244.1.5")},
			svc: web(balanced, ranges("198.51.100.0/24"), func(s *store.Service) { s.ExternalIPs = addrs("198.51.100.9") }),
			want: []string{
				inside,
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@; masquerade always",
				"ExternalIP TCP 198.51.100.9:80: 10.244.1.5:8080@; masquerade always",
				vip + "; from [198.51.100.0/24]",
			},
		},
		{
			name: "no load balancer, no warning", slices: both, svc: web(dualStack, ranges("198.51.100.0/24")),
			want: []string{inside, inside6},
		},
	})
}
