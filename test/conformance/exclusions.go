package main

// exclusion is a set of tests that are not run, by a regular expression of their names.
type exclusion struct {
	pattern string
	reason  string
}

// exclusions do not touch conformance tests. docs/conformance.md repeats the reasons.
var exclusions = []exclusion{
	{`\[Feature:NetworkPolicy\]`, "Twill does not enforce NetworkPolicies yet"},
	{`\[Feature:LoadBalancer\]`, "there is no cloud that would give out addresses"},
	{`\[Provider:`, "they ask a cloud provider, or log in to nodes over SSH"},
	{`\[Disruptive\]`, "they log in to nodes over SSH to restart what they have by names that are not Twill's (kube-proxy, iptables)"},
	{`\[Feature:Networking-(IPv4|IPv6|DNS)\]`, "they connect to the Internet"},
	{`\[Feature:Networking-Performance\]`, "measures, needs iperf 2 and minutes; benchmarks are in test/bench"},
	{`\[Feature:PerformanceDNS\]`, "ten thousand Services, to measure CoreDNS"},
	{`\[Feature:SCTPConnectivity\]`, "the test machines' kernels have no SCTP sockets"},
	{`\[Feature:KubeProxyNFAcct\]`, "counts packets in an nfacct object of kube-proxy's iptables mode"},
	{`\[Feature:LocalhostNodePorts\]`, "node ports on 127.0.0.1 are a feature of kube-proxy's iptables mode; its nftables mode and Twill have none"},
	{`DNS configMap nameserver`, "they write the ConfigMap of kube-dns and a CoreDNS that is installed by kubeadm"},
	{`should check kube-proxy urls`, "asks kube-proxy's own ports"},
}
