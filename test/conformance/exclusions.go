package main

import "slices"

// exclusion is a set of tests that are not run, by a regular expression of their names.
type exclusion struct {
	pattern  string
	reason   string
	backend  string // "" is all
	policies bool   // not with -policies
}

// exclusionsOf returns those that count with a backend.
func exclusionsOf(o options, backend string) []exclusion {
	return slices.DeleteFunc(slices.Clone(exclusions), func(e exclusion) bool {
		return e.backend != "" && e.backend != backend || e.policies && o.policies
	})
}

// exclusions do not touch conformance tests. docs/conformance.md repeats the reasons.
var exclusions = []exclusion{
	{pattern: `\[Feature:NetworkPolicy\]`, policies: true, reason: "policies are off in deploy/twill.yaml: -focus=policies runs them"},
	{pattern: `\[Feature:LoadBalancer\]`, reason: "there is no cloud that would give out addresses"},
	{pattern: `\[Provider:`, reason: "they are for clouds"},
	{pattern: `\[Disruptive\]`, reason: "they restart kube-proxy or kube-apiserver, which would have to be Pods, or log in to nodes over SSH"},
	{pattern: `\[Feature:Networking-(IPv4|IPv6|DNS)\]`, reason: "they connect to the Internet"},
	{pattern: `\[Feature:Networking-Performance\]`, reason: "measures, needs iperf 2 and minutes; benchmarks are in test/bench"},
	{pattern: `\[Feature:PerformanceDNS\]`, reason: "ten thousand Services, to measure CoreDNS"},
	{pattern: `\[Feature:SCTPConnectivity\]`, reason: "the test machines' kernels have no SCTP sockets"},
	{pattern: `\[Feature:KubeProxyNFAcct\]`, reason: "counts packets in an nfacct object of kube-proxy's iptables mode"},
	{pattern: `\[Feature:LocalhostNodePorts\]`, reason: "node ports on 127.0.0.1 are a feature of kube-proxy's iptables mode; its nftables mode and Twill have none"},
	{pattern: `should set TCP CLOSE_WAIT timeout`, reason: "an hour is kube-proxy's default of conntrack.tcpCloseWaitTimeout; Twill's is the kernel's own"},
	{pattern: `HealthCheckNodePort correctly when ExternalTrafficPolicy changes`, backend: "vxlan",
		reason: "expects that the address of who is masqueraded on its way to a Pod is its node's, and through an overlay it is the overlay device's"},
}
