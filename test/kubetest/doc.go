// Package kubetest gives tests and benchmarks a real Kubernetes API: kube-apiserver on an etcd of its own, and real kube-proxies on the nodes
// that a test makes. There is no kubelet, no scheduler and no controller manager: a test writes the Nodes, Pods and EndpointSlices that it
// wants to have, and nothing writes others (but the Service "kubernetes" of the API server itself).
//
//	            namespace of the control plane                          namespace of a node
//	etcd ── unix socket ── kube-apiserver Addr:6443 ── network ──┬── kube-proxy, or the daemon under test
//	                            │                                └── ...
//	                        client of this package, kubectl
//
// The network is the test's: Addr is an address that the control plane's namespace has, and that the nodes reach. With ctl/lab, that is the
// underlay, where the lab has its etcd, too:
//
//	gateway, _ := l.UnderlayGateway()
//	cluster := kubetest.Start(t, kubetest.Options{Namespace: l.Underlay().Path(), Addr: gateway})
//
// The programs are those that "make kube" builds from their Go modules, in TWILL_KUBE or .cache/kube of the repository. kube-proxy's nftables
// mode runs nft(8).
//
// One change, walked through: Apply cuts the YAML into objects, asks the API server where objects of that kind live, and sends each as a
// server-side apply (and its status, where there is one, as a patch of the status). When it returns, etcd has the change and the API server
// is about to send it to those who watch. Nothing says when a kube-proxy has put it into the kernel: a test asks with packets.
//
// What it costs, on two processors that have little else to do: a cluster can be used after 3 s (kube-apiserver computes for 2.6 s, and one of
// its start hooks waits a second before it begins), a kube-proxy has written its first rules after about 0.5 s, a Service takes 10 ms, most of
// them for its address, an EndpointSlice 5 ms. Tests may share a cluster; benchmarks should.
//
// Every process ends with the test, also when the test is killed: the kernel sends it SIGKILL when the thread ends that started it
// (PR_SET_PDEATHSIG, prctl(2)).
package kubetest
