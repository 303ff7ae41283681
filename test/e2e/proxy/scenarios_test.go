package proxy

// scenario is a history of objects, and what packets meet after each of its steps. Each has a namespace, addresses and ports of its own.
type scenario struct {
	name  string
	steps []step
}

// step is a change and its consequences.
type step struct {
	apply  string // manifests of what is there from then on
	remove string // manifests of what is no more
	probes []probe
}

// after makes a scenario of one step.
func after(name, apply string, probes ...probe) scenario {
	return scenario{name: name, steps: []step{{apply: apply, probes: probes}}}
}

// scenarios are all there are. A probe is made with IPv4 and with IPv6 if it names an address that exists in both families.
func scenarios() []scenario {
	var all []scenario
	for _, part := range [][]scenario{insideScenarios(), portScenarios(), outsideScenarios(), policyScenarios(), endpointScenarios(),
		topologyScenarios(), reportScenarios(), changeScenarios()} {
		all = append(all, part...)
	}
	return all
}

// insideScenarios are about ClusterIPs.
func insideScenarios() []scenario {
	return []scenario{
		after("ClusterIP", inside()+backed("a b c"),
			probe{"a", "tcp $vip:80", "a~ b c"}, // a reaches itself
			probe{"d", "tcp $vip:80", "a b c"},
			probe{"c", "tcp $vip:80", "a b c~"},
			probe{"node1", "tcp $vip:80", "a~ b~ c~"},
			probe{"node2", "tcp $vip:80", "a~ b~ c~"},
			probe{"out1", "tcp $vip:80", "a~ b~ c~"}),
		after("a pod alone behind its own Service", inside()+backed("a"), probe{"a", "tcp $vip:80", "a~"}, probe{"b", "tcp $vip:80", "a"}),
		after("an endpoint that is a node", inside()+backed("node1"),
			probe{"a", "tcp $vip:80", "node1"}, probe{"node2", "tcp $vip:80", "node1"}, probe{"out2", "tcp $vip:80", "node1~"}),
		after("no endpoint", inside(), probe{"a", "tcp $vip:80", refused}, probe{"node1", "tcp $vip:80", refused}, probe{"out1", "tcp $vip:80", refused}),
		after("no endpoint of UDP", service("web", dual, "ports: [{port: 80, protocol: UDP}]")+slice{ports: "{port: 8080, protocol: UDP}"}.yaml(),
			probe{"a", "udp $vip:80", refused}, probe{"node1", "udp $vip:80", refused}, probe{"out1", "udp $vip:80", refused}),
		after("another port of a ClusterIP", inside()+backed("a"),
			probe{"a", "tcp $vip:81", refused}, probe{"a", "udp $vip:80", refused}, probe{"node1", "tcp $vip:81", refused},
			probe{"node1", "udp $vip:81", refused}, probe{"out1", "tcp $vip:81", refused}),
		after("a ClusterIP that nobody has", "",
			probe{"a", "tcp $free:80", dropped}, probe{"node1", "tcp $free:80", dropped}, probe{"out1", "udp $free:80", dropped}),
		after("headless", service("web", "clusterIP: None, externalIPs: [$ext4], ports: [{port: 80, targetPort: 8080}]")+backed("a"),
			probe{"a", "tcp $ext4:80", world}, probe{"node1", "tcp $ext4:80", world}),
		after("ExternalName", service("web", "type: ExternalName, externalName: example.org, externalIPs: [$ext4], ports: [{port: 80}]")+backed("a"),
			probe{"a", "tcp $ext4:80", world}, probe{"node1", "tcp $ext4:80", world}),
		after("IPv4 alone", service("web", "ipFamilies: [IPv4], clusterIP: $vip4, externalIPs: [$ext4, '$ext6'], ports: [{port: 80}]")+backed("a b"),
			probe{"c", "tcp $vip4:80", "a b"}, probe{"c", "tcp $ext4:80", "a~ b~"}, probe{"c", "tcp $ext6:80", world}, probe{"c", "tcp $vip6:80", dropped}),
		after("IPv6 alone", service("web", "ipFamilies: [IPv6], clusterIP: '$vip6', externalIPs: [$ext4, '$ext6'], ports: [{port: 80}]")+backed("a b"),
			probe{"c", "tcp $vip6:80", "a b"}, probe{"c", "tcp $ext6:80", "a~ b~"}, probe{"c", "tcp $ext4:80", world}, probe{"c", "tcp $vip4:80", dropped}),
		after("IPv6 first", service("web", "ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack, clusterIP: '$vip6', "+
			"clusterIPs: ['$vip6', $vip4], ports: [{port: 80}]")+backed("b"), probe{"c", "tcp $vip:80", "b"}),
		after("another proxy's", "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: $ns, labels: {service.kubernetes.io/service-proxy-name: mesh}}\n"+
			"spec: {"+dual+", externalIPs: [$ext4], ports: [{port: 80, targetPort: 8080}]}\n"+backed("a"),
			probe{"b", "tcp $vip:80", dropped}, probe{"b", "tcp $ext4:80", world}, probe{"node1", "tcp $vip:80", dropped}),
		after("affinity", inside("sessionAffinity: ClientIP")+backed("a b c d"),
			probe{"a", "sticky $vip:80", "a~ b c d"}, probe{"c", "sticky $vip:80", "a b c~ d"},
			probe{"node1", "sticky $vip:80", "a~ b~ c~ d~"}, probe{"out1", "sticky $vip:80", "a~ b~ c~ d~"}),
		after("affinity for a second", inside("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}")+backed("a b c d"),
			probe{"d", "sticky $vip:80", "a b c d~"}, probe{"b", "forgets $vip:80", again}),
	}
}

// portScenarios are about ports and protocols.
func portScenarios() []scenario {
	return []scenario{
		after("UDP", service("web", dual, "ports: [{port: 53, protocol: UDP}]")+slice{ports: "{port: 8080, protocol: UDP}", endpoints: "a b c"}.yaml(),
			probe{"a", "udp $vip:53", "a~ b c"}, probe{"node1", "udp $vip:53", "a~ b~ c~"}, probe{"out1", "udp $vip:53", "a~ b~ c~"},
			probe{"a", "tcp $vip:53", refused}),
		after("SCTP", service("web", dual, "type: NodePort, ports: [{port: 7777, nodePort: $np, protocol: SCTP}]")+
			slice{ports: "{port: 8080, protocol: SCTP}", endpoints: "a c"}.yaml(),
			probe{"a", "sctp $vip:7777", "a~ c"}, probe{"b", "sctp $vip:7777", "a c"}, probe{"node1", "sctp $vip:7777", "a~ c~"},
			probe{"out1", "sctp $node1:$np", "a~ c~"}, probe{"a", "tcp $vip:7777", refused}, probe{"a", "sctp $vip:7778", refused}),
		after("SCTP without endpoints", service("web", dual, "ports: [{port: 7777, protocol: SCTP}]"), probe{"a", "sctp $vip:7777", refused},
			probe{"node1", "sctp $vip:7777", refused}),
		after("one number, two protocols",
			service("web", dual, "ports: [{name: u, port: 53, protocol: UDP, nodePort: $np}, {name: t, port: 53, nodePort: $np}], type: NodePort")+
				slice{ports: "{name: u, port: 8080, protocol: UDP}, {name: t, port: 9090}", endpoints: "a c"}.yaml(),
			probe{"b", "udp $vip:53", "a c"}, probe{"b", "tcp $vip:53", "a:9090 c:9090"},
			probe{"out1", "udp $node1:$np", "a~ c~"}, probe{"out1", "tcp $node1:$np", "a:9090~ c:9090~"}),
		after("several ports", service("web", dual, "ports: [{name: http, port: 80}, {name: admin, port: 81}, {name: none, port: 82}]")+
			slice{ports: "{name: http, port: 8080}, {name: admin, port: 9090}", endpoints: "a c"}.yaml(),
			probe{"b", "tcp $vip:80", "a c"}, probe{"b", "tcp $vip:81", "a:9090 c:9090"}, probe{"b", "tcp $vip:82", refused}),
		after("a port of another number in each slice", inside()+slice{name: "one", endpoints: "a c"}.yaml()+
			slice{name: "two", ports: "{port: 9090}", endpoints: "b"}.yaml(), probe{"d", "tcp $vip:80", "a b:9090 c"}),
		after("an endpoint at two ports", inside()+slice{name: "one", endpoints: "a"}.yaml()+slice{name: "two", ports: "{port: 9090}", endpoints: "a"}.yaml(),
			probe{"d", "tcp $vip:80", "a a:9090"}),
		after("slices merged", inside()+slice{name: "one", endpoints: "a b"}.yaml()+slice{name: "two", endpoints: "b c"}.yaml()+
			slice{name: "three", endpoints: "d/gone"}.yaml(), probe{"d", "tcp $vip:80", "a b c"}),
		after("an endpoint that moves from one slice to another", inside()+slice{name: "one", endpoints: "a/gone b c/draining"}.yaml()+
			slice{name: "two", endpoints: "a b/gone c"}.yaml(), probe{"d", "tcp $vip:80", "a b c"}),
		after("a slice of another name and another protocol", inside()+slice{name: "one", ports: "{name: other, port: 8080}", endpoints: "a"}.yaml()+
			slice{name: "two", ports: "{port: 8080, protocol: UDP}", endpoints: "b"}.yaml(), probe{"d", "tcp $vip:80", refused}),
	}
}

// outsideScenarios are about the addresses for clients outside of the cluster.
func outsideScenarios() []scenario {
	return []scenario{
		after("NodePort", web("type: NodePort")+backed("a b c"),
			probe{"out1", "tcp $node1:$np", "a~ b~ c~"}, probe{"out2", "tcp $node2:$np", "a~ b~ c~"},
			probe{"a", "tcp $node1:$np", "a~ b~ c~"}, probe{"a", "tcp $node2:$np", "a~ b~ c~"},
			probe{"node1", "tcp $node1:$np", "a~ b~ c~"}, probe{"node1", "tcp $node2:$np", "a~ b~ c~"},
			probe{"a", "tcp $vip:80", "a~ b c"}, probe{"out1", "udp $node1:$np", refused}, probe{"out1", "tcp $node1:$np2", refused},
			probe{"node1", "tcp 127.0.0.1:$np", refused}, probe{"node1", "tcp [::1]:$np", refused}),
		after("NodePort, at which addresses", web("type: NodePort")+backed("b"),
			probe{"out1", "tcp $second1:$np", refused}, probe{"out2", "tcp $second2:$np", "b~"},
			probe{"c", "tcp $gateway2:$np", refused}, probe{"c", "tcp $second2:$np", "b~"}),
		after("NodePort of UDP", service("web", dual, "type: NodePort, ports: [{port: 53, protocol: UDP, nodePort: $np}]")+
			slice{ports: "{port: 8080, protocol: UDP}", endpoints: "a c"}.yaml(),
			probe{"out1", "udp $node1:$np", "a~ c~"}, probe{"node1", "udp $node1:$np", "a~ c~"}),
		after("NodePort without endpoints", web("type: NodePort"), probe{"out1", "tcp $node1:$np", refused}, probe{"node1", "tcp $node1:$np", refused},
			probe{"a", "tcp $node1:$np", refused}, probe{"a", "tcp $node2:$np", refused}),
		after("externalIPs", inside("externalIPs: [$ext4, '$ext6']")+backed("a b c"),
			probe{"out1", "tcp $ext:80", "a~ b~ c~"}, probe{"a", "tcp $ext:80", "a~ b~ c~"}, probe{"node1", "tcp $ext:80", "a~ b~ c~"},
			probe{"out1", "tcp $ext:81", world}, probe{"a", "tcp $ext:81", world}, probe{"node1", "tcp $ext:81", world}),
		after("externalIPs without endpoints", inside("externalIPs: [$ext4, '$ext6']"),
			probe{"out1", "tcp $ext:80", refused}, probe{"a", "tcp $ext:80", refused}, probe{"node1", "tcp $ext:80", refused}),
		after("a node's address as externalIP", service("web", dual, "externalIPs: [$node14, '$node16'], ports: [{port: $np2, targetPort: 8080}]")+backed("c"),
			probe{"out1", "tcp $node1:$np2", "c~"}, probe{"a", "tcp $node1:$np2", "c~"}, probe{"node1", "tcp $node1:$np2", "c~"}),
		after("LoadBalancer", web("type: LoadBalancer")+vips+backed("a c"),
			probe{"out1", "tcp $lb:80", "a~ c~"}, probe{"out2", "tcp $lb:80", "a~ c~"}, probe{"b", "tcp $lb:80", "a~ c~"}, probe{"node1", "tcp $lb:80", "a~ c~"},
			probe{"out1", "tcp $node1:$np", "a~ c~"}, probe{"b", "tcp $vip:80", "a c"}, probe{"out1", "tcp $lb:81", world}),
		after("LoadBalancer that is a proxy", web("type: LoadBalancer")+proxied+backed("a c"),
			probe{"out1", "tcp $lb:80", world}, probe{"b", "tcp $lb:80", world}, probe{"node1", "tcp $lb:80", world}, probe{"out1", "tcp $node1:$np", "a~ c~"}),
		after("LoadBalancer without node ports", inside("type: LoadBalancer, allocateLoadBalancerNodePorts: false")+vips+backed("a c"),
			probe{"out1", "tcp $lb:80", "a~ c~"}, probe{"b", "tcp $lb:80", "a~ c~"}, probe{"out1", "tcp $node1:$np", refused}),
		after("LoadBalancer without endpoints", web("type: LoadBalancer")+vips, probe{"out1", "tcp $lb:80", refused}, probe{"a", "tcp $lb:80", refused}),
		after("source ranges", web("type: LoadBalancer, loadBalancerSourceRanges: [$out14/32, '$out16/128', $b4/32, '$b6/128']")+vips+backed("a c"),
			probe{"out1", "tcp $lb:80", "a~ c~"}, probe{"out2", "tcp $lb:80", dropped}, probe{"b", "tcp $lb:80", "a~ c~"},
			probe{"d", "tcp $lb:80", dropped}, probe{"node2", "tcp $lb:80", dropped},
			probe{"out2", "tcp $node2:$np", "a~ c~"}, probe{"d", "tcp $vip:80", "a c"}, probe{"out2", "tcp $vip:80", "a~ c~"}),
		after("source ranges without endpoints", web("type: LoadBalancer, loadBalancerSourceRanges: [$out14/32, '$out16/128']")+vips,
			probe{"out1", "tcp $lb:80", refused}, probe{"out2", "tcp $lb:80", dropped}),
		after("source ranges of one family", web("type: LoadBalancer, loadBalancerSourceRanges: [$out14/32]")+vips+backed("a c"),
			probe{"out1", "tcp $lb4:80", "a~ c~"}, probe{"out2", "tcp $lb4:80", dropped}, probe{"out1", "tcp $lb6:80", dropped}),
		after("source ranges do not guard externalIPs", web("type: LoadBalancer, externalIPs: [$ext4, '$ext6'], loadBalancerSourceRanges: [$out14/32, '$out16/128']")+
			vips+backed("a c"), probe{"out2", "tcp $ext:80", "a~ c~"}, probe{"out2", "tcp $lb:80", dropped}),
	}
}

// policyScenarios are about externalTrafficPolicy and internalTrafficPolicy.
func policyScenarios() []scenario {
	local := "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: $hc, externalIPs: [$ext4, '$ext6']"
	health := func(code int, type_ string, n int) string { return healthAnswer(code, type_, n) }
	return []scenario{
		after("external policy Local", web(local)+vips+backed("b c"),
			probe{"out1", "tcp $lb:80", "b"}, probe{"out2", "tcp $lb:80", "c"}, probe{"out1", "tcp $node1:$np", "b"}, probe{"out2", "tcp $node2:$np", "c"},
			probe{"out1", "tcp $ext:80", "b"}, probe{"out1", "tcp $vip:80", "b~ c~"},
			probe{"a", "tcp $lb:80", "b c"}, probe{"b", "tcp $lb:80", "b~ c"}, probe{"a", "tcp $node1:$np", "b c"}, probe{"a", "tcp $ext:80", "b c"},
			probe{"node1", "tcp $lb:80", "b~ c~"}, probe{"node1", "tcp $node1:$np", "b~ c~"}, probe{"node1", "tcp $node2:$np", "c"}, probe{"a", "tcp $node2:$np", "c~"},
			probe{"out1", "http $node1:$hc", health(200, "application/json", 1)}, probe{"node2", "http $node2:$hc", health(200, "application/json", 1)}),
		after("external policy Local, none here", web(local)+vips+backed("c d"),
			probe{"out1", "tcp $lb:80", dropped}, probe{"out1", "tcp $node1:$np", dropped}, probe{"out1", "tcp $ext:80", dropped}, probe{"out2", "tcp $lb:80", "c d"},
			probe{"a", "tcp $lb:80", "c d"}, probe{"a", "tcp $node1:$np", "c d"}, probe{"node1", "tcp $lb:80", "c~ d~"}, probe{"node1", "tcp $node1:$np", "c~ d~"},
			probe{"out1", "http $node1:$hc", health(503, "application/json", 0)}, probe{"out2", "http $node2:$hc", health(200, "application/json", 2)}),
		after("external policy Local, none anywhere", web(local)+vips,
			probe{"out1", "tcp $lb:80", refused}, probe{"out1", "tcp $node1:$np", refused}, probe{"a", "tcp $lb:80", refused}, probe{"node1", "tcp $lb:80", refused},
			probe{"out1", "http $node1:$hc", health(503, "application/json", 0)}),
		after("external policy Local with source ranges", web(local, "loadBalancerSourceRanges: [$out14/32, '$out16/128', $a4/32, '$a6/128']")+vips+backed("b c"),
			probe{"out1", "tcp $lb:80", "b"}, probe{"out2", "tcp $lb:80", dropped}, probe{"a", "tcp $lb:80", "b c"}, probe{"d", "tcp $lb:80", dropped}),
		after("external policy Local with affinity", web(local, "sessionAffinity: ClientIP")+vips+backed("a b c d"),
			probe{"out1", "sticky $lb:80", "a b"}, probe{"out2", "sticky $lb:80", "c d"}, probe{"a", "sticky $lb:80", "a~ b c d"}),
		after("internal policy Local", inside("internalTrafficPolicy: Local")+backed("a b c"),
			probe{"a", "tcp $vip:80", "a~ b"}, probe{"d", "tcp $vip:80", "c"}, probe{"node1", "tcp $vip:80", "a~ b~"}, probe{"out2", "tcp $vip:80", "c~"}),
		after("internal policy Local, none here", inside("internalTrafficPolicy: Local")+backed("c"),
			probe{"a", "tcp $vip:80", dropped}, probe{"node1", "tcp $vip:80", dropped}, probe{"d", "tcp $vip:80", "c"}),
		after("internal policy Local, none anywhere", inside("internalTrafficPolicy: Local"), probe{"a", "tcp $vip:80", refused}, probe{"node1", "tcp $vip:80", refused}),
		after("internal policy does not concern node ports", web("internalTrafficPolicy: Local, type: NodePort")+backed("c"),
			probe{"out1", "tcp $node1:$np", "c~"}, probe{"a", "tcp $node1:$np", "c~"}, probe{"a", "tcp $vip:80", dropped}),
		after("both policies Local", web(local, "internalTrafficPolicy: Local")+vips+backed("c"),
			probe{"out1", "tcp $lb:80", dropped}, probe{"a", "tcp $vip:80", dropped}, probe{"a", "tcp $lb:80", "c"}, probe{"out2", "tcp $lb:80", "c"}),
	}
}

// endpointScenarios are about endpoints' conditions.
func endpointScenarios() []scenario {
	local := "type: NodePort, externalTrafficPolicy: Local"
	return []scenario{
		after("an endpoint that terminates", inside()+backed("a/draining c d/gone"), probe{"b", "tcp $vip:80", "c"}),
		after("all endpoints terminate", inside()+backed("a/draining c/draining d/gone"), probe{"b", "tcp $vip:80", "a c"}),
		after("all endpoints are gone", web("type: NodePort")+backed("a/gone c/gone"), probe{"b", "tcp $vip:80", refused}, probe{"out1", "tcp $node1:$np", refused}),
		after("the last one here terminates", web(local)+backed("b/draining c"),
			probe{"out1", "tcp $node1:$np", "b"}, probe{"out2", "tcp $node2:$np", "c"}, probe{"a", "tcp $vip:80", "c"}, probe{"a", "tcp $node1:$np", "c"}),
		after("one here is ready, one terminates", web(local)+backed("a b/draining c"), probe{"out1", "tcp $node1:$np", "a"}, probe{"d", "tcp $vip:80", "a c"}),
		after("the one here is gone", web(local)+backed("b/gone c"), probe{"out1", "tcp $node1:$np", dropped}, probe{"a", "tcp $node1:$np", "c"}),
		after("internal policy Local and one that terminates", inside("internalTrafficPolicy: Local")+backed("b/draining c"),
			probe{"a", "tcp $vip:80", "b"}, probe{"d", "tcp $vip:80", "c"}),
		after("unready", inside()+backed("a/unready c"), probe{"b", "tcp $vip:80", "c"}),
		after("none is ready", inside()+backed("a/unready c/unready"), probe{"b", "tcp $vip:80", refused}),
		// Those who write EndpointSlices say of such a Service that its endpoints are ready. What slices say is all that counts.
		after("publishNotReadyAddresses", inside("publishNotReadyAddresses: true")+backed("a c/unready"), probe{"b", "tcp $vip:80", "a"}),
		after("a health check counts ready ones",
			web("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: $hc")+vips+backed("a b/draining c/draining"),
			probe{"out1", "http $node1:$hc", healthAnswer(200, "application/json", 1)}, probe{"out2", "http $node2:$hc", healthAnswer(503, "application/json", 0)},
			probe{"out2", "tcp $lb:80", "c"}),
	}
}

// reportScenarios are about what a proxy says of itself.
func reportScenarios() []scenario {
	return []scenario{
		after("reports", "",
			probe{"node1", "http 127.0.0.1:10249/proxyMode", "200 text/plain; charset=utf-8 weight= nftables"},
			probe{"node1", "status 127.0.0.1:10249/metrics", "200"}, probe{"out1", "status $node1:10249/metrics", refused},
			probe{"out1", "status $node14:10256/healthz", "200"}, probe{"out1", "status $node14:10256/livez", "200"}),
	}
}

// topologyScenarios are about endpoints' hints.
func topologyScenarios() []scenario {
	return []scenario{
		after("zone hints", inside("trafficDistribution: PreferSameZone")+backed("a@zone-node1 b@zone-node1 c@zone-node2"),
			probe{"a", "tcp $vip:80", "a~ b"}, probe{"d", "tcp $vip:80", "c"}, probe{"node2", "tcp $vip:80", "c~"}),
		after("zone hints outside", web("type: NodePort")+backed("a@zone-node1 c@zone-node2"), probe{"out1", "tcp $node1:$np", "a~"}, probe{"out2", "tcp $node2:$np", "c~"}),
		after("an endpoint without a hint", inside()+backed("a@zone-node1 b c@zone-node2"), probe{"d", "tcp $vip:80", "a b c"}),
		after("hints for another zone alone", inside()+backed("a@zone-node1 b@zone-node1"), probe{"d", "tcp $vip:80", "a b"}),
		after("hints to the other zone", inside()+backed("a@zone-node2 c@zone-node1"), probe{"d", "tcp $vip:80", "a"}, probe{"b", "tcp $vip:80", "c"}),
		after("node hints", inside("trafficDistribution: PreferSameNode")+backed("a%node1 b%node1 c%node2"), probe{"a", "tcp $vip:80", "a~ b"}, probe{"d", "tcp $vip:80", "c"}),
		after("node hints for another node alone", inside("trafficDistribution: PreferSameNode")+backed("a%node1 b%node1"), probe{"d", "tcp $vip:80", "a b"}),
		after("hints of one that is not ready", inside()+backed("a@zone-node1 c@zone-node2 d/unready"), probe{"b", "tcp $vip:80", "a"}),
		after("hints to one that terminates", inside()+backed("a@zone-node1 c/draining@zone-node2"), probe{"d", "tcp $vip:80", "a"}),
		after("policy Local goes before hints", web("type: NodePort, externalTrafficPolicy: Local")+backed("a@zone-node2 b@zone-node2 c@zone-node1"),
			probe{"out1", "tcp $node1:$np", "a b"}, probe{"d", "tcp $vip:80", "a b"}),
	}
}

// changeScenarios are about what changes.
func changeScenarios() []scenario {
	return []scenario{
		{"endpoints come and go", []step{
			{apply: inside() + backed("a"), probes: []probe{{"b", "tcp $vip:80", "a"}}},
			{apply: backed("a c d"), probes: []probe{{"b", "tcp $vip:80", "a c d"}}},
			{apply: backed("d"), probes: []probe{{"b", "tcp $vip:80", "d"}}},
			{apply: backed(""), probes: []probe{{"b", "tcp $vip:80", refused}}},
			{apply: backed("c"), probes: []probe{{"b", "tcp $vip:80", "c"}}},
		}},
		{"a Service comes and goes", []step{
			{apply: backed("a"), probes: []probe{{"b", "tcp $vip:80", dropped}}},
			{apply: web("type: NodePort, externalIPs: [$ext4, '$ext6']"), probes: []probe{{"b", "tcp $vip:80", "a"}, {"out1", "tcp $node1:$np", "a~"}, {"b", "tcp $ext:80", "a~"}}},
			{remove: web(), probes: []probe{{"b", "tcp $vip:80", dropped}, {"out1", "tcp $node1:$np", refused}, {"b", "tcp $ext:80", world}}},
			{apply: web("type: NodePort"), probes: []probe{{"b", "tcp $vip:80", "a"}, {"out1", "tcp $node1:$np", "a~"}}},
		}},
		{"ports change", []step{
			{apply: inside() + backed("a c"), probes: []probe{{"b", "tcp $vip:80", "a c"}}},
			{apply: slice{ports: "{port: 9090}", endpoints: "a c"}.yaml(), probes: []probe{{"b", "tcp $vip:80", "a:9090 c:9090"}}},
			{apply: service("web", dual, "ports: [{port: 88}]"), probes: []probe{{"b", "tcp $vip:80", refused}, {"b", "tcp $vip:88", "a:9090 c:9090"}}},
		}},
		{"types change", []step{
			{apply: web("type: LoadBalancer") + vips + backed("a"), probes: []probe{{"out1", "tcp $lb:80", "a~"}, {"out1", "tcp $node1:$np", "a~"}}},
			{apply: web("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: $hc") + vips, probes: []probe{{"out1", "tcp $lb:80", "a"},
				{"out2", "tcp $lb:80", dropped}, {"out1", "http $node1:$hc", healthAnswer(200, "application/json", 1)}}},
			{apply: inside("type: ClusterIP"), probes: []probe{{"out1", "tcp $lb:80", world}, {"out1", "tcp $node1:$np", refused}, {"b", "tcp $vip:80", "a"},
				{"out1", "http $node1:$hc", refused}}},
		}},
		{"policies change", []step{
			{apply: web("type: NodePort") + backed("b c"), probes: []probe{{"out1", "tcp $node1:$np", "b~ c~"}, {"a", "tcp $vip:80", "b c"}}},
			{apply: web("type: NodePort, externalTrafficPolicy: Local, internalTrafficPolicy: Local"),
				probes: []probe{{"out1", "tcp $node1:$np", "b"}, {"a", "tcp $vip:80", "b"}}},
			{apply: web("type: NodePort, sessionAffinity: ClientIP"), probes: []probe{{"out1", "sticky $node1:$np", "b~ c~"}, {"a", "sticky $vip:80", "b c"}}},
			{apply: web("type: NodePort"), probes: []probe{{"out1", "tcp $node1:$np", "b~ c~"}, {"a", "tcp $vip:80", "b c"}}},
		}},
		{"affinity leaves an endpoint that is gone", []step{
			{apply: inside("sessionAffinity: ClientIP") + backed("a c"), probes: []probe{{"b", "sticky $vip:80", "a c"}, {"d", "sticky $vip:80", "a c"}}},
			{apply: backed("a"), probes: []probe{{"b", "sticky $vip:80", "a"}, {"d", "sticky $vip:80", "a"}}},
			{apply: backed("c"), probes: []probe{{"b", "sticky $vip:80", "c"}, {"d", "sticky $vip:80", "c"}}},
		}},
	}
}
