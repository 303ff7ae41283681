package main

import (
	"path/filepath"

	"github.com/twill-cni/twill/test/kubetest"
)

// Names of images that tests of the network group ask for beside kubetest's standard ones (test/utils/image/manifest.go of Kubernetes
// v1.37). Another version of Kubernetes has other tags: "e2e.test --list-images" says which.
const (
	nginxImage   = "registry.k8s.io/e2e-test-images/nginx:1.27.0-2"
	invalidImage = "registry.k8s.io/e2e-test-images/regression-issue-74839:1.5"
)

// images returns images that do what the tests expect of those of that name, made of this machine's programs.
func images(programs string) []kubetest.Image {
	return []kubetest.Image{
		// The tests of EndpointSlices look at where it would listen, and never ask it anything.
		{Name: nginxImage, Busybox: true, Entrypoint: []string{"httpd", "-f", "-p", "80"}},
		// A server that sends segments outside of the window of its connections.
		{Name: invalidImage, Files: map[string]string{"/boom-server": filepath.Join(programs, "regression-issue-74839")}, Entrypoint: []string{"/boom-server"}},
	}
}
