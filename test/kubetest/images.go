package kubetest

import (
	"path/filepath"
)

// Names of images, as Kubernetes v1.37's own tests and kubelet have them (test/utils/image/manifest.go there).
const (
	PauseImage   = "registry.k8s.io/pause:3.10.2"
	AgnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
	BusyboxImage = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2"
	GlibcImage   = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1"
	CoreDNSImage = "registry.k8s.io/coredns/coredns:v1.15.0"
)

// agnhostPrograms are those of agnhost's image that tests run and that busybox has not, or has with other options. With them comes glibc, for
// which Kubernetes' tests of DNS have an image of its own, and no musl, which theirs of agnhost has. The shell is not busybox's, which
// would run busybox's nc whatever PATH says. busybox's wget crashes where there are libraries of glibc: it is linked with another one.
var agnhostPrograms = []string{"bash", "curl", "dig", "getent", "nc", "sh", "socat", "ss", "wget"}

// StandardImages returns pause, agnhost, busybox and CoreDNS. Programs is the directory that "make kube-node" fills; default as for Options.
func StandardImages(dir string) ([]Image, error) {
	dir, err := programs(dir, []string{"pause", "agnhost", "coredns"})
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	users := map[string]string{
		// Tests of Kubernetes look for the groups of the user with number 1000.
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n",
		"/etc/group": "root:x:0:root\nnobody:x:65534:\nuser-defined-in-image:x:1000:\n" +
			"group-defined-in-image:x:50000:user-defined-in-image\n",
		"/etc/nsswitch.conf": "hosts: files dns\n",
		"/etc/services":      "domain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n",
	}
	return []Image{
		{Name: PauseImage, Files: map[string]string{"/pause": file("pause")}, Entrypoint: []string{"/pause"}},
		{
			Name: AgnhostImage, Also: []string{GlibcImage},
			Files: map[string]string{"/agnhost": file("agnhost"), "/coredns": file("coredns"),
				"/localhost.crt": file("localhost.crt"), "/localhost.key": file("localhost.key")},
			Links: map[string]string{"/agnhost-2": "agnhost", "/bin/sh": "/usr/bin/sh"},
			Texts: users, Dirs: []string{"/uploads"}, Programs: agnhostPrograms, Busybox: true,
			Entrypoint: []string{"/agnhost"}, Args: []string{"pause"},
		},
		{Name: BusyboxImage, Texts: users, Busybox: true, Args: []string{"sh"}},
		{Name: CoreDNSImage, Files: map[string]string{"/coredns": file("coredns")}, Entrypoint: []string{"/coredns"}},
	}, nil
}
