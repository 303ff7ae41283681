// Package kubetest gives tests and benchmarks a real Kubernetes, in two sizes.
//
// # A cluster that is only an API
//
// Start gives kube-apiserver on an etcd of its own, and StartKubeProxy real kube-proxies on the nodes that a test makes. There is no kubelet, no
// scheduler and no controller manager: a test writes the Nodes, Pods and EndpointSlices that it wants to have, and nothing writes others (but
// the Service "kubernetes" of the API server itself).
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
//
// # A site: machines that run Pods
//
// StartSite gives a control plane with kube-controller-manager and kube-scheduler, and machines with containerd, runc and kubelet, on an
// underlay. "make kube-node" builds these programs.
//
//	             underlay: bridge 192.0.2.1, 2001:db8::1, which is everybody's default route
//	                │                           │                             │
//	control plane .2                    machine node-1 .3             machine node-2 .4
//	etcd, kube-apiserver,               kubelet, containerd,          ...
//	controllers                         Pods
//
//	func TestMain(m *testing.M) { kubetest.Init(); os.Exit(m.Run()) } // Init: the test's program is also the first process of machines
//
//	s := kubetest.StartSite(t, kubetest.SiteOptions{Machines: 2, Archives: []string{"bin/twill-image.tar"}})
//	s.Cluster.Apply(t.Context(), manifests)                   // for example a network for Pods: there is none
//	s.Cluster.AwaitReady(t.Context(), "node-1")
//	out, err := s.Cluster.Kubectl(t.Context(), "exec", "web", "--", "hostname")
//	out, err = s.Machines[0].Run(t.Context(), "ip", "route") // on the machine itself
//	s.Machines[0].Crash()                                     // then Boot and StartKubelet
//
// A machine is namespaces of processes, mounts, network, host name and cgroups, and a directory that is its root. Programs and libraries in it
// are those of the machine that the test runs on, read-only; /etc, /opt, /run, /var and all else are its own. So manifests with host paths
// (/opt/cni/bin, /run/flannel) work as they are, kubelet's mounts reach containers, a network can be tested for what it leaves, and any
// number of sites may run at a time. When the first process ends, and it does when the test's process has, the kernel ends the others and takes
// mounts and network away. Directories and empty cgroups of a test that was killed are removed by the next one.
//
//	cell.go        the namespaces, and how programs come in       root.go    the file system of a machine
//	machine.go     a machine: boot, crash, run a command          cgroup.go  its cgroups
//	containerd.go  containerd on it                               kubelet.go kubelet on it
//	image.go       container images out of local programs         images.go  pause, agnhost, busybox, CoreDNS
//	imagestore.go  what containerd made of them, kept for later   dns.go     CoreDNS in the cluster
//	underlay.go    the network between machines                   site.go    all together
//	kubeadm.go     what kubeadm wants of a machine that is to become a Node of a cluster that it makes
//
// Of a test that failed, the ends of the logs are printed. TWILL_LOGS names a directory for whole ones.
//
// No image is ever pulled. The standard ones have the names that Kubernetes' own tests use; more are given as archives (SiteOptions.Archives),
// whose Pods need imagePullPolicy Never or IfNotPresent.
//
// Two machines are registered 6 s after the start when nothing else runs, five of them kube-apiserver's and the controllers'; the first time
// takes some seconds more, for the images. A Pod runs after 1 s. A site is gone within 2 s.
//
// What is not as on a whole machine: kubelet makes no cgroups for classes of Pods (cgroupsPerQOS is false), and thinks that it set six
// settings of the kernel that are not any namespace's. The control plane is on no Node, so it reaches Pods only through
// routes that a test gives it (Site.RoutePods).
package kubetest
