// Conformance runs upstream's own end-to-end tests of Kubernetes, those of its network group (sig-network), on a cluster whose only network
// component is Twill: there is no other CNI plugin and no kube-proxy.
//
//	kubetest.Site                                          e2e.test, several processes of it
//	  control plane  etcd, kube-apiserver, controllers  <──  in the control plane's network namespace
//	  node-1 ...     containerd, kubelet                     clients of the API server; what they say goes to a log,
//	                 twill (a DaemonSet of deploy/)          what came out to a JUnit file
//	                 coredns, the tests' Pods
//
// e2e.test is the package k8s.io/kubernetes/test/e2e as it is, built in the module below e2e, which has its own go.mod since the tests need
// more than the product and more than test/kube. ginkgo, also of that module, starts it once per process, hands out the tests, and runs those
// that are marked [Serial] alone, after the others.
//
// One run, walked through: for each backend, a site is launched whose machines have the images that the tests ask for (images.go: nothing is
// pulled), Twill is installed as docs/kubernetes.md tells a reader to do it, CoreDNS once there is a Pod network; ginkgo runs the tests that
// the focus names, without those of exclusions.go; the JUnit file becomes a table (report.go), and the site goes away. The exit code is 1 when
// a test failed or nothing was run.
package main
