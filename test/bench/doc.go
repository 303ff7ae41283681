// Command bench measures Twill beside its peers in one run and prints the ratios.
//
//	go run ./test/bench [-only cni,peers,join,idle,ipam,overlay,bgp-restart,bgp-prefixes,bgp-bfd,bgp-cold,bgp-throughput,bgp-mesh,
//		proxy-sync,proxy-change,proxy-connect,proxy-affinity,proxy-memory,policy-rate,policy-change,policy-sync,policy-add,dns,kube-pods] [-quick]
//
// It needs root, the built programs (TWILL_BIN, default bin/) and the peers' programs (TWILL_PEERS, default .cache/peers; TWILL_KUBE,
// default .cache/kube): `make bench` sees to all of them. Each measurement runs in namespaces of its own: bench starts itself again in a fresh
// network and mount namespace (sandbox.go), so that nothing of the machine is touched and nothing is left.
//
// The bgp- scenarios are labs of ctl/lab that route, with BIRD and FRR on machines beside the nodes (bgplab.go). What a rival has done is read from
// the kernel's own notifications in its namespace (bgproutes.go), never by asking the rival.
//
// The proxy- scenarios have a real API server and real kube-proxies (test/kubetest), each on a new node with a client in front of it and all
// endpoints behind it (proxynode.go). What is measured is what packets see.
//
// dns has both name servers on the node of a lab, and asks from a pod there; the API server of CoreDNS's Services is on that node, too.
//
// kube-pods is a Kubernetes of two machines with kubelets and containerd (test/kubetest), one for each rival. It needs what "make image kube-node"
// builds, too (TWILL_IMAGE, default twill-image.tar beside the programs), and is not in a sandbox: machines are made of namespaces already.
// What the network takes of a Pod's start is the time of the plugins, around which it puts a clock (kubepodnets.go).
//
// overlay and bgp-throughput show what of the way between pods is the kernel's: they make the same way by hand, with ip, bridge, nft and tc (byhand.go).
//
// The machine's speed drifts, so rivals take turns within one measurement, and what counts is the ratio of their medians.
package main
