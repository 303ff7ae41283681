package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MachineOptions say what a machine is like. The zero value of each field but Name and Underlay stands for its default.
type MachineOptions struct {
	Name     string // of the host and of its Node
	Underlay *Underlay
	Images   []Image  // that its containerd has from the start
	Archives []string // of more of them: see Import
	IPv6     bool     // its Node's first address is of IPv6, and so are Pods on its network
	Kubelet  string   // more keys of KubeletConfiguration, as YAML; they win. See kubelet's configuration API, v1beta1
	Programs string   // holds what "make kube-node" builds; default as for Options
	Timeout  time.Duration
}

// Machine is a part of this machine that looks like a machine of its own to what runs on it: processes, mounts, network, host name and
// cgroups are its own, and so are /etc, /var, /opt, /run and all other directories but those of programs and libraries, which are read-only.
// On it run containerd and kubelet. Its methods may be called concurrently, except those that start or end something.
type Machine struct {
	options MachineOptions
	host    *Host
	dir     string // its root directory is dir/root
	cgroups []cgroup

	cell       *cell
	containerd *process
	kubelet    *process
}

var machines atomic.Int64

// LaunchMachine starts a machine with containerd and waits until that has the images. kubelet is not started, since it needs a cluster:
// StartKubelet. When it fails, nothing is left.
func LaunchMachine(ctx context.Context, options MachineOptions) (*Machine, error) {
	m := &Machine{options: options, host: &Host{}}
	err := m.make(ctx)
	if err == nil {
		err = m.Boot(ctx)
	}
	if err == nil {
		err = m.Import(ctx, options.Archives...)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("launch machine %s: %w", options.Name, err), m.Close())
	}
	return m, nil
}

// make makes what stays when the machine is restarted.
func (m *Machine) make(ctx context.Context) error {
	m.options.Timeout = cmp.Or(m.options.Timeout, defaultTimeout)
	var err error
	if m.options.Programs, err = programs(m.options.Programs, machinePrograms); err != nil {
		return err
	}
	if m.host, err = m.options.Underlay.next(); err != nil {
		return err
	}
	sweep()
	// It says whose it is, for sweep.
	name := fmt.Sprintf("%s%s-%d-%s", machinePrefix, owner(), machines.Add(1), m.options.Name)
	m.dir = filepath.Join(os.TempDir(), name)
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	if err := makeRoot(filepath.Join(m.dir, "root"), m.options.Name); err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	if len(m.options.Images) > 0 {
		store, err := imageStore(ctx, m.options.Programs, m.options.Images)
		if err == nil {
			err = m.takeImages(store)
		}
		if err != nil {
			return fmt.Errorf("make the images: %w", err)
		}
	}
	return nil
}

// Boot starts the machine, after Crash: with the files that it had, but those of /run and /tmp, and with containerd.
func (m *Machine) Boot(ctx context.Context) error {
	var err error
	if m.cgroups, err = makeCgroups(filepath.Base(m.dir)); err != nil {
		return fmt.Errorf("boot %s: %w", m.options.Name, err)
	}
	m.cell, err = startCell(cellSpec{Name: m.options.Name, Root: filepath.Join(m.dir, "root"), Programs: m.options.Programs, Cgroups: m.cgroups})
	if err != nil {
		return fmt.Errorf("boot %s: %w", m.options.Name, err)
	}
	space, err := os.Open(m.Namespace())
	if err == nil {
		err = m.options.Underlay.attach(space, m.host.Addrs)
		_ = space.Close() // it was for reading
	}
	if err == nil {
		err = m.StartContainerd(ctx)
	}
	if err != nil {
		return fmt.Errorf("boot %s: %w", m.options.Name, err)
	}
	return nil
}

// Crash ends all processes of the machine at once, as a power cut would, and waits until they and the network are gone.
func (m *Machine) Crash() error {
	if m.cell == nil {
		return nil
	}
	m.cell.kill()
	m.kubelet.kill()
	m.containerd.kill()
	m.cell = nil
	var err error
	for _, g := range m.cgroups {
		err = errors.Join(err, g.remove(m.options.Timeout))
	}
	if err != nil {
		return fmt.Errorf("crash %s: %w", m.options.Name, err)
	}
	m.cgroups = nil
	// The kernel takes a network namespace apart in its own time, if nobody else holds it.
	return await(context.Background(), m.options.Timeout, "the end of the network of "+m.options.Name, func(context.Context) error {
		if m.options.Underlay.attached(m.host.Addrs) {
			return errors.New("its link is there")
		}
		return nil
	})
}

// Close ends the machine and removes all that it was.
func (m *Machine) Close() error {
	err := m.Crash()
	for _, g := range m.cgroups { // of a machine that could not boot
		err = errors.Join(err, g.remove(m.options.Timeout))
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}

// Name returns the name of the host and its Node.
func (m *Machine) Name() string { return m.options.Name }

// Addrs returns its addresses on the underlay, IPv4 and IPv6.
func (m *Machine) Addrs() []netip.Addr { return m.host.Addrs }

// Namespace returns the file of its network namespace, until Crash. After Boot it is another one.
func (m *Machine) Namespace() string { return m.cell.space("net") }

// PID returns the number of its first process, whose namespaces are the machine's, for nsenter(1). After Boot it is another one.
func (m *Machine) PID() int { return m.cell.pid() }

// File returns where this process finds a file of the machine, which runs. A symbolic link in it to an absolute path leads astray.
func (m *Machine) File(name string) string { return m.cell.file(name) }

// Write writes a file of the machine, at once for who reads it. Its directory is made if there is none.
func (m *Machine) Write(name, text string) error {
	file := m.File(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// The name begins with a dot for those that read all files of a directory.
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".part")
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(part, file)
}

// Install copies programs to a directory of the machine.
func (m *Machine) Install(dir string, files ...string) error {
	for _, from := range files {
		text, err := os.ReadFile(from)
		if err == nil {
			err = m.Write(filepath.Join(dir, filepath.Base(from)), string(text))
		}
		if err == nil {
			err = os.Chmod(m.File(filepath.Join(dir, filepath.Base(from))), 0o755)
		}
		if err != nil {
			return fmt.Errorf("install %s on %s: %w", from, m.options.Name, err)
		}
	}
	return nil
}

// Command returns a command that runs on the machine, which must not crash or boot meanwhile. Its standard streams are the caller's to set.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.PID()), "--mount", "--uts", "--net", "--pid", "--cgroup", "--root", "--wd", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Cancel = func() error {
		// nsenter waits for the program, which is its child and would outlive it.
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
		}
		return errors.Join(err, cmd.Process.Kill())
	}
	cmd.WaitDelay = time.Second // for what the program has started, which may hold its output
	return cmd
}

// Run runs a command on the machine and returns what it printed. An error holds what it complained about.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := m.Command(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w: %s", name, m.options.Name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Log returns the end of what containerd and kubelet printed.
func (m *Machine) Log() string {
	var all strings.Builder
	for _, p := range []*process{m.containerd, m.kubelet} {
		if p != nil {
			fmt.Fprintf(&all, "%s of %s:\n%s\n", filepath.Base(p.log), m.options.Name, tail(p.log))
		}
	}
	return all.String()
}
