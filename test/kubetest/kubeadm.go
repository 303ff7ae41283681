package kubetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// KubeletService starts kubelet on the machine as the systemd service would that comes with kubeadm (10-kubeadm.conf of kubernetes/release), after
// kubeadm has written what that reads: kubeadm leaves the start to systemd, which machines do not have, and waits until kubelet is healthy. It returns
// when kubelet is. One that ends before is started again (Restart=always there).
func (m *Machine) KubeletService(ctx context.Context) error {
	m.KillKubelet()
	flags, err := m.kubeadmFlags()
	if err != nil {
		return fmt.Errorf("start kubelet on %s: %w", m.options.Name, err)
	}
	kubelet := m.program("kubelet", append([]string{"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
		"--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=" + filepath.Join(kubeletDir, "config.yaml")}, flags...)...)
	ended := make(chan struct{})
	close(ended) // there is none yet
	err = await(ctx, m.options.Timeout, "the kubelet of "+m.options.Name, func(ctx context.Context) error {
		select {
		case <-ended:
			started, err := kubelet.start()
			if err != nil {
				return err
			}
			m.kubelet, ended = started, started.done
		default:
		}
		return m.kubeletHealthy(ctx)
	})
	if err != nil && m.kubelet != nil {
		err = fmt.Errorf("%w\n%s", err, tail(m.kubelet.log))
	}
	return err
}

// kubeadmFlags returns those of kubelet that kubeadm wrote, KUBELET_KUBEADM_ARGS="--flag=value ...", of which systemd makes a part of the command.
func (m *Machine) kubeadmFlags() ([]string, error) {
	text, err := os.ReadFile(m.File(filepath.Join(kubeletDir, "kubeadm-flags.env")))
	if err != nil {
		return nil, err
	}
	value, err := strconv.Unquote(strings.TrimPrefix(strings.TrimSpace(string(text)), "KUBELET_KUBEADM_ARGS="))
	if err != nil {
		return nil, fmt.Errorf("read kubeadm-flags.env: %w", err)
	}
	return strings.Fields(value), nil
}

// KubeadmImages returns the images of what kubeadm runs in Pods, under the names that "kubeadm config images list" prints. Their programs are in the
// directory that "make kube-node" fills; default as for Options.
func KubeadmImages(dir string, names []string) ([]Image, error) {
	dir, err := programs(dir, slices.Concat([]string{"coredns"}, controlPrograms, controllerPrograms))
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, name := range names {
		base, _, _ := strings.Cut(filepath.Base(name), ":")
		switch base {
		case "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd":
			// The manifests name the program and leave it to PATH to find it.
			images = append(images, Image{Name: name, Files: map[string]string{"/usr/bin/" + base: filepath.Join(dir, base)}})
		case "coredns":
			images = append(images, Image{Name: name, Files: map[string]string{"/coredns": filepath.Join(dir, base)}, Entrypoint: []string{"/coredns"}})
		case "pause", "kube-proxy": // every machine has the one, nobody wants the other
		default:
			return nil, fmt.Errorf("kubeadm wants image %s, for which there is no program", name)
		}
	}
	return images, nil
}
