package kubetest

import (
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What a machine's file system takes from the machine that it runs on, and may not change: programs and libraries.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// What a machine's /etc has of that of the machine that it runs on: what programs need to run. The rest is its own.
var systemFiles = []string{"alternatives", "ca-certificates.conf", "debian_version", "ethertypes", "group", "iproute2", "ld.so.cache", "ld.so.conf",
	"ld.so.conf.d", "localtime", "nsswitch.conf", "os-release", "passwd", "protocols", "rpc", "services", "ssl", "xtables"}

// makeRoot makes the directories and files of a machine that stay when it is restarted.
func makeRoot(root, name string) error {
	dirs := []string{"dev", "proc", "sys", "run", "tmp", "etc/cni/net.d", "home", "mnt", "opt/cni/bin", "root", "srv",
		"var/cache", "var/lib/machine", "var/lib/kubelet", "var/log/pods", "var/log/containers", "var/tmp"}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, file := range systemFiles {
		if err := copyTree(filepath.Join("/etc", file), filepath.Join(root, "etc", file), copyFile); err != nil {
			return err
		}
	}
	for file, text := range map[string]string{
		"etc/hostname":    name + "\n",
		"etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"etc/machine-id":  fmt.Sprintf("%x\n", md5.Sum([]byte(name))),
		"etc/resolv.conf": "# There is no name server outside of the cluster.\n",
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Symlink("/run", filepath.Join(root, "var/run"))
}

// buildRoot makes the mounts of a cell, in its mount namespace, and makes them the root of the file system.
func buildRoot(spec cellSpec) error {
	root := spec.Root
	steps := []func() error{
		// Nothing that is mounted here is seen outside, and the other way round.
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount(root, root, "", unix.MS_BIND, "") }, // a root has to be a mount
		func() error { return bindSystem(root) },
		func() error { return bind(spec.Programs, filepath.Join(root, "usr/local/bin")) },
		func() error { return unix.Mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, "") },
		func() error { return unix.Mount("sysfs", filepath.Join(root, "sys"), "sysfs", 0, "") },
		func() error { return unix.Mount("tmpfs", filepath.Join(root, "run"), "tmpfs", 0, "mode=755") },
		func() error { return unix.Mount("tmpfs", filepath.Join(root, "tmp"), "tmpfs", 0, "mode=1777") },
		func() error { return unix.Mount("bpf", filepath.Join(root, "sys/fs/bpf"), "bpf", 0, "mode=700") },
		func() error { return mountCgroups(spec) },
		func() error { return shadowTunables(root) },
		func() error { return os.Mkdir(filepath.Join(root, "run/netns"), 0o755) },
		func() error { return os.Chdir(root) },
		// Old and new root at one place, the old one above: pivot_root(2) explains.
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return os.Chdir("/") },
		// As a machine's own root is: kubelet's mounts reach containers that were started before.
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("build the file system, step %d: %w", i, err)
		}
	}
	return nil
}

func bindSystem(root string) error {
	for _, dir := range systemDirs {
		at := filepath.Join(root, dir)
		target, err := os.Readlink(dir)
		switch _, missing := os.Stat(dir); {
		case missing != nil:
			continue
		case err == nil: // /bin is /usr/bin in most distributions
			err = os.Symlink(target, at)
			if errors.Is(err, os.ErrExist) { // the machine is restarted
				err = nil
			}
		default:
			if err = os.MkdirAll(at, 0o755); err == nil {
				err = bind(dir, at)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bind makes a directory visible at another place, for reading.
func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("protect %s: %w", to, err)
	}
	return nil
}

func mountCgroups(spec cellSpec) error {
	base := "/sys/fs/cgroup"
	if len(spec.Cgroups) > 1 { // version 1 has a directory for each hierarchy
		if err := unix.Mount("tmpfs", filepath.Join(spec.Root, base), "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	for _, g := range spec.Cgroups {
		if !strings.HasPrefix(g.Mount, base) {
			continue
		}
		if err := g.mount(spec.Root); err != nil {
			return err
		}
	}
	return nil
}

// shadowTunables puts files over those settings of the kernel that no namespace keeps apart and that kubelet changes (setupKernelTunables in
// pkg/kubelet/cm): it may believe that it did.
func shadowTunables(root string) error {
	for i, file := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"kernel/keys/root_maxbytes"} {
		real := filepath.Join(root, "proc/sys", file)
		value, err := os.ReadFile(real)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		shadow := filepath.Join(root, "var/lib/machine", fmt.Sprintf("tunable%d", i))
		if err == nil {
			err = os.WriteFile(shadow, value, 0o644)
		}
		if err == nil {
			err = unix.Mount(shadow, real, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("shadow %s: %w", file, err)
		}
	}
	return nil
}
