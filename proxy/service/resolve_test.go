package service_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

func TestTypes(t *testing.T) {
	two := sliceList{pods("10.244.1.5", "10.244.2.5")}
	runAll(t, []resolution{
		{
			name: "ClusterIP", svc: web(), slices: two,
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster"},
		},
		{
			name: "NodePort", slices: two,
			svc: web(func(s *store.Service) { s.Type, s.Ports[0].NodePort = store.ServiceNodePort, 30080 }),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
			},
		},
		{
			name: "LoadBalancer", slices: two, svc: web(balanced),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
				"LoadBalancer TCP 203.0.113.5:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
			},
		},
		{
			name: "LoadBalancer without node ports", slices: two,
			svc: web(balanced, func(s *store.Service) { s.Ports[0].NodePort = 0 }),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"LoadBalancer TCP 203.0.113.5:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
			},
		},
		{
			name: "ipMode Proxy", slices: two,
			svc: web(balanced, func(s *store.Service) { s.Ingress[0].Proxy = true }),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
			},
		},
		{
			name: "external addresses", slices: two,
			svc: web(func(s *store.Service) { s.ExternalIPs = addrs("198.51.100.9", "198.51.100.8") }),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"ExternalIP TCP 198.51.100.8:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
				"ExternalIP TCP 198.51.100.9:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
			},
		},
		{name: "nothing"},
		{name: "endpoints without a Service", slices: two},
		{name: "headless by clusterIP None", svc: web(func(s *store.Service) { s.ClusterIPs, s.Headless = nil, true }), slices: two},
		{name: "headless by label", svc: web(func(s *store.Service) { s.Headless = true }), slices: two},
		{name: "without ClusterIP as yet", svc: web(func(s *store.Service) { s.ClusterIPs = nil }), slices: two},
		{name: "ExternalName", svc: web(func(s *store.Service) { s.Type, s.ExternalName = store.ServiceExternalName, "x.example" }), slices: two},
		{name: "of another proxy", svc: web(func(s *store.Service) { s.ProxyName = "mesh" }), slices: two},
		{
			name: "of the proxy that this is", svc: web(func(s *store.Service) { s.ProxyName = "mesh" }), slices: two,
			node: func(n *service.Node) { n.ProxyName = "mesh" },
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster"},
		},
		{name: "of the usual proxy, which this is not", svc: web(), slices: two, node: func(n *service.Node) { n.ProxyName = "mesh" }},
		{
			name: "without EndpointSlices", svc: web(balanced),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: reject; masquerade always",
				"LoadBalancer TCP 203.0.113.5:80: reject; masquerade always",
			},
		},
		{
			name: "an external address that is the load balancer's too", slices: sliceList{pods("10.244.1.5")},
			svc: web(func(s *store.Service) {
				s.Type, s.ExternalIPs = store.ServiceLoadBalancer, addrs("203.0.113.5")
				s.Ingress = []store.Ingress{{Addr: netip.MustParseAddr("203.0.113.5")}}
				s.SourceRanges = prefixes("198.51.100.0/24")
			}),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster",
				"LoadBalancer TCP 203.0.113.5:80: 10.244.1.5:8080@; masquerade always; from [198.51.100.0/24]",
			},
		},
		{
			name: "affinity", slices: sliceList{pods("10.244.1.5")},
			svc:  web(func(s *store.Service) { s.AffinityTimeout = 3 * time.Hour }),
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster; affinity 3h0m0s"},
		},
		{
			name: "masquerade all", slices: sliceList{pods("10.244.1.5")}, svc: web(),
			node: func(n *service.Node) { n.MasqueradeAll = true },
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade always"},
		},
	})
}

func TestPorts(t *testing.T) {
	several := web(func(s *store.Service) {
		s.Ports = []store.ServicePort{
			{Name: "http", Protocol: store.TCP, Port: 80},
			{Name: "dns", Protocol: store.UDP, Port: 53},
			{Name: "dns-tcp", Protocol: store.TCP, Port: 53},
			{Name: "assoc", Protocol: store.SCTP, Port: 53},
		}
	})
	slice := func(name, addr string, ports ...store.EndpointPort) *store.EndpointSlice {
		s := podsIn(name, addr)
		s.Ports = ports
		return s
	}
	http := func(n uint16) store.EndpointPort {
		return store.EndpointPort{Name: "http", Protocol: store.TCP, Port: n}
	}
	runAll(t, []resolution{
		{
			name: "several, each on the endpoints that have it", svc: several,
			slices: sliceList{
				slice("web-1", "10.244.1.5", http(8080), store.EndpointPort{Name: "dns", Protocol: store.UDP, Port: 5353}),
				slice("web-2", "10.244.2.5", http(9090), store.EndpointPort{Name: "assoc", Protocol: store.SCTP, Port: 5454},
					store.EndpointPort{Name: "dns-tcp", Protocol: store.TCP, Port: 5353}),
			},
			want: []string{
				"ClusterIP TCP 10.96.0.7:53: 10.244.2.5:5353; masquerade off-cluster",
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:9090; masquerade off-cluster",
				"ClusterIP UDP 10.96.0.7:53: 10.244.1.5:5353@; masquerade off-cluster",
				"ClusterIP SCTP 10.96.0.7:53: 10.244.2.5:5454; masquerade off-cluster",
			},
		},
		{
			name: "a named target port that differs by endpoint", svc: web(),
			slices: sliceList{slice("web-1", "10.244.1.5", http(8080)), slice("web-2", "10.244.1.6", http(8081))},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.1.6:8081@; masquerade off-cluster"},
		},
		{
			name: "the same name with another protocol is another port", svc: web(),
			slices: sliceList{slice("web-1", "10.244.1.5", store.EndpointPort{Name: "http", Protocol: store.UDP, Port: 8080})},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster",
				`warning: port "http" has no endpoints: no EndpointSlice of the Service has a TCP port of that name`,
			},
		},
		{
			name: "one without a name", svc: web(func(s *store.Service) { s.Ports[0].Name = "" }),
			slices: sliceList{slice("web-1", "10.244.1.5", store.EndpointPort{Protocol: store.TCP, Port: 8080})},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "one without a name that no slice knows", svc: web(func(s *store.Service) { s.Ports[0].Name = "" }),
			slices: sliceList{pods("10.244.1.5")},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster",
				"warning: port TCP 80 has no endpoints: no EndpointSlice of the Service has a TCP port of that name",
			},
		},
		{
			name: "without a number", svc: web(), slices: sliceList{slice("web-1", "10.244.1.5", http(0))},
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster",
				`warning: port "http" has no endpoints: no EndpointSlice of the Service has a TCP port of that name`,
			},
		},
		{
			name: "no warning while there are no endpoints", svc: web(), slices: sliceList{{Name: objectName("web-1"), Service: "web"}},
			want: []string{"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster"},
		},
	})
}

func TestMerge(t *testing.T) {
	runAll(t, []resolution{
		{
			name: "slices", svc: web(), slices: sliceList{podsIn("web-1", "10.244.2.5"), podsIn("web-2", "10.244.1.5"), podsIn("web-3", "10.244.3.5")},
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080 10.244.3.5:8080; masquerade off-cluster"},
		},
		{
			name: "duplicates", svc: web(), slices: sliceList{podsIn("web-1", "10.244.1.5", "10.244.2.5"), podsIn("web-2", "10.244.1.5", "10.244.1.5")},
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster"},
		},
		{
			name: "a new pod with the address of one that terminates", svc: web(),
			slices: sliceList{podsIn("web-1", "10.244.1.5 draining"), podsIn("web-2", "10.244.1.5")},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "a new pod, not ready, with the address of a published one that terminates", svc: web(),
			slices: sliceList{podsIn("web-1", "10.244.1.5 published"), podsIn("web-2", "10.244.1.5 unready")},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: reject; masquerade off-cluster"},
		},
		{
			name: "one that moves from slice to slice and became ready", svc: web(),
			slices: sliceList{podsIn("web-1", "10.244.1.5 unready"), podsIn("web-2", "10.244.1.5")},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "one that is ready in one slice and merely serving in another", svc: web(),
			slices: sliceList{podsIn("web-1", "10.244.1.5 warming"), podsIn("web-2", "10.244.1.5")},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "one that still serves in one slice only", svc: web(),
			slices: sliceList{podsIn("web-1", "10.244.1.5 dying"), podsIn("web-2", "10.244.1.5 draining")},
			want:   []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "IPv4-mapped addresses are IPv4", svc: web(), slices: sliceList{podsIn("web-1", "10.244.1.5"), podsIn("web-2", "::ffff:10.244.1.5")},
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
		{
			name: "an endpoint on no node is local to none", svc: web(), slices: sliceList{pods("10.244.1.5 nowhere")},
			node: func(n *service.Node) { n.Name = "" },
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080; masquerade off-cluster"},
		},
	})
}

func TestFamilies(t *testing.T) {
	both := sliceList{podsIn("web-1", "10.244.1.5", "10.244.2.5"), podsIn("web-2", "fd00:1::5")}
	runAll(t, []resolution{
		{
			name: "dual stack", svc: web(balanced, dualStack, func(s *store.Service) {
				s.Ingress = append(s.Ingress, store.Ingress{Addr: netip.MustParseAddr("2001:db8:5::5")})
				s.ExternalIPs = addrs("198.51.100.9", "2001:db8:9::9")
			}),
			slices: both,
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
				"ExternalIP TCP 198.51.100.9:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
				"LoadBalancer TCP 203.0.113.5:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade always",
				"NodePort TCP [2001:db8::1]:30080: [fd00:1::5]:8080@; masquerade always",
				"LoadBalancer TCP [2001:db8:5::5]:80: [fd00:1::5]:8080@; masquerade always",
				"ExternalIP TCP [2001:db8:9::9]:80: [fd00:1::5]:8080@; masquerade always",
				"ClusterIP TCP [fd00:96::7]:80: [fd00:1::5]:8080@; masquerade off-cluster",
			},
		},
		{
			name: "dual stack with endpoints of one family", svc: web(dualStack), slices: both[:1],
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"ClusterIP TCP [fd00:96::7]:80: reject; masquerade off-cluster",
			},
		},
		{
			name: "IPv6 alone", slices: both,
			svc: web(balanced, func(s *store.Service) { s.ClusterIPs = addrs("fd00:96::7") }),
			want: []string{
				"NodePort TCP [2001:db8::1]:30080: [fd00:1::5]:8080@; masquerade always",
				"ClusterIP TCP [fd00:96::7]:80: [fd00:1::5]:8080@; masquerade off-cluster",
				"warning: load balancer address 203.0.113.5 has no effect: the Service has no IPv4 address of its own",
			},
		},
		{
			name: "an external address of a family that the Service does not have", slices: both,
			svc: web(func(s *store.Service) { s.ExternalIPs = addrs("2001:db8:9::9") }),
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@ 10.244.2.5:8080; masquerade off-cluster",
				"warning: external address 2001:db8:9::9 has no effect: the Service has no IPv6 address of its own",
			},
		},
		{
			name: "node ports on several addresses", slices: sliceList{pods("10.244.1.5")},
			svc:  web(func(s *store.Service) { s.Type, s.Ports[0].NodePort = store.ServiceNodePort, 30080 }),
			node: func(n *service.Node) { n.NodePortAddrs = addrs("192.0.2.7", "192.0.2.1", "192.0.2.7", "2001:db8::1") },
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster",
				"NodePort TCP 192.0.2.1:30080: 10.244.1.5:8080@; masquerade always",
				"NodePort TCP 192.0.2.7:30080: 10.244.1.5:8080@; masquerade always",
			},
		},
		{
			name: "node ports on no address", slices: sliceList{pods("10.244.1.5")},
			svc:  web(func(s *store.Service) { s.Type, s.Ports[0].NodePort = store.ServiceNodePort, 30080 }),
			node: func(n *service.Node) { n.NodePortAddrs = nil },
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster"},
		},
	})
}
