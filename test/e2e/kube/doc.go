// Package kube tests Twill where it lives: on machines with a real kubelet, containerd and runc (package test/kubetest), installed from deploy/ as
// a DaemonSet, with no kube-proxy and nothing else that makes a network. Tests speak to the Kubernetes API, and send packets from pods.
//
//	make e2e-kube                          everything
//	go test -short ./test/e2e/kube         what CI runs: a few minutes
//	go test -run 'TestVXLAN/^services$' .  one scenario, with the site that it needs
//
// TestVXLAN and TestBGP run the same scenarios, each on one site of two machines; a scenario leaves the site as it found it. What needs a
// cluster of another kind (few addresses, no pod networks, nodes with a taint, wrong settings) or ends it (uninstall) has a site of its own.
//
//	harness_test.go   the rig: a site, Twill on it, waiting, exec
//	install_test.go   what deploy/ says, as an operator would adapt it
//	objects_test.go   manifests of Pods and Services
//	traffic_test.go   numbered packets between pods while something is done; departures_test.go: new connections to outside
//	traces_test.go    what a machine holds for its pods, to find leaks
//
// TestKubeadm, TestContainerd, TestUpgrade and TestFromFlannel follow pages of docs/, whose commands they run as they stand there (page_test.go).
//
// TWILL_IMAGE is the archive that "make image" builds, TWILL_KUBE what "make kube-node" does, TWILL_HELM the helm that "make helm" does; their
// defaults are those places in the repository.
package kube
