package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	containerdConfig = "/etc/containerd/config.toml"
)

// containerdSettings differ from the defaults where the machine is not a whole one: it may not lower the score by which the kernel chooses
// whom to end when memory is short, and it has no AppArmor.
const containerdSettings = `version = 4
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "` + containerdSocket + `"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + PauseImage + `"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "/etc/cni/net.d"
    bin_dirs = ["/opt/cni/bin"]
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "/usr/local/bin/runc"
`

// StartContainerd starts containerd, after KillContainerd, and waits until a kubelet can be served: the socket is there some time before, and
// a kubelet that is refused ends.
func (m *Machine) StartContainerd(ctx context.Context) error {
	m.KillContainerd()
	err := m.Write(containerdConfig, containerdSettings)
	if err == nil {
		m.containerd, err = m.program("containerd", "--config", containerdConfig).start()
	}
	if err == nil {
		err = m.containerd.await(ctx, m.options.Timeout, m.runtimeAnswers)
	}
	if err != nil {
		return fmt.Errorf("start containerd on %s: %w", m.options.Name, err)
	}
	return nil
}

// runtimeAnswers asks the runtime for its version, as a kubelet does at first.
func (m *Machine) runtimeAnswers(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+m.File(containerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	err = conn.Invoke(ctx, "/runtime.v1.RuntimeService/Version", empty{}, empty{}, grpc.ForceCodec(empty{}))
	return errors.Join(err, conn.Close())
}

// empty is a message without fields, and the codec of a call whose answer does not matter.
type empty struct{}

func (empty) Name() string                { return "proto" }
func (empty) Marshal(any) ([]byte, error) { return nil, nil }
func (empty) Unmarshal([]byte, any) error { return nil }

// KillContainerd ends containerd at once and waits until its process is gone. Containers go on.
func (m *Machine) KillContainerd() { m.containerd.kill() }

// Import makes the images in archives, of OCI's or Docker's format, known to containerd: nothing is pulled, ever, so a Pod's image has to be
// one of them and its policy not Always.
func (m *Machine) Import(ctx context.Context, archives ...string) error {
	for _, file := range archives {
		if err := m.load(ctx, file); err != nil {
			return fmt.Errorf("import %s on %s: %w", file, m.options.Name, err)
		}
	}
	return nil
}

func (m *Machine) load(ctx context.Context, file string) error {
	archive, err := os.Open(file)
	if err != nil {
		return err
	}
	defer archive.Close()
	cmd := m.Command(ctx, "/usr/local/bin/ctr", "--namespace", "k8s.io", "images", "import", "-")
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = archive, &complaint
	if err := cmd.Run(); err != nil {
		return errors.Join(err, errors.New(strings.TrimSpace(complaint.String())))
	}
	return nil
}

// program returns one of the machine's.
func (m *Machine) program(name string, args ...string) program {
	return program{path: filepath.Join("/usr/local/bin", name), args: args, dir: m.dir, cell: m.cell}
}
