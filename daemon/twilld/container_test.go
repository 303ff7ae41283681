//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// container is what a runtime makes of the DaemonSet: a process with few capabilities that sees the host's network, its own processes and a read-only
// file system. Runtimes do it in this order too.
type container struct {
	Capabilities []int
	Writable     []string // directories of the host, under their own names
	Sysctls      string   // where the host's /proc/sys/net is mounted
}

const inContainer = "TWILLD_TEST_CONTAINER"

// The daemon's own capabilities, one for each line of the table in docs/operations.md.
var (
	forVXLAN = []int{unix.CAP_NET_ADMIN}
	forBGP   = []int{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
)

// contain makes the node's daemons run in a container.
func (n *testNode) contain(capabilities []int) {
	n.c.t.Helper()
	for _, dir := range []string{"run", "net.d", "flannel", "bin", "host/proc/sys/net"} {
		must(n.c.t, os.MkdirAll(n.file(dir), 0o755))
	}
	n.container = &container{
		Capabilities: capabilities, Sysctls: n.file("host/proc/sys/net"),
		Writable: []string{n.file("run"), n.file("net.d"), n.file("flannel"), n.file("bin")},
	}
}

// environ is that of a process of the node.
func (n *testNode) environ() []string {
	env := append(os.Environ(), asDaemon+"=1")
	if n.container != nil {
		data, err := json.Marshal(n.container)
		must(n.c.t, err)
		env = append(env, inContainer+"="+string(data))
	}
	return env
}

func (n *testNode) attributes() *syscall.SysProcAttr {
	if n.container == nil {
		return nil
	}
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
}

// enter makes a container of the process, which is the first one of its process namespace and has a mount namespace of its own, and runs the
// program anew in it. It returns only when that fails.
func (c container) enter() error {
	runtime.LockOSThread()
	if err := c.mount(); err != nil {
		return err
	}
	if err := c.drop(); err != nil {
		return err
	}
	if err := filter(); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	if err := unix.Unshare(0); !errors.Is(err, unix.EPERM) { // it does nothing, and needs no right
		return fmt.Errorf("the filter lets unshare pass: %w", err)
	}
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, inContainer+"=") {
			env = append(env, entry)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, env)
}

func (c container) mount() error {
	steps := []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("/proc/sys/net", c.Sysctls, "", unix.MS_BIND, ""),
	}
	for _, dir := range c.Writable {
		steps = append(steps, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	}
	self, err := os.Executable() // the new /proc does not tell
	steps = append(steps, err,
		unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	for _, dir := range append(c.Writable, c.Sysctls) {
		steps = append(steps, unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	}
	if err := errors.Join(steps...); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(self), "probe"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the file system is not read-only: %w", err)
	}
	return nil
}

// drop leaves root the given capabilities, and nothing that it runs can have more.
func (c container) drop() error {
	var left [2]unix.CapUserData
	for _, capability := range c.Capabilities {
		bit := uint32(1) << (capability % 32)
		left[capability/32].Permitted |= bit
		left[capability/32].Effective |= bit
	}
	for capability := 0; capability <= unix.CAP_LAST_CAP; capability++ {
		if left[capability/32].Permitted&(1<<(capability%32)) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", capability, err)
			}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &left[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// refused are the system calls that containerd's RuntimeDefault profile refuses to a process without CAP_SYS_ADMIN and the like
// (contrib/seccomp/seccomp_default.go).
func refused() []uint32 {
	return []uint32{
		unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN,
		unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_FANOTIFY_INIT,
		unix.SYS_QUOTACTL, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_SYSLOG, unix.SYS_REBOOT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE,
		unix.SYS_DELETE_MODULE, unix.SYS_PTRACE, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_VM_READV,
		unix.SYS_PROCESS_VM_WRITEV, unix.SYS_CLOCK_SETTIME, unix.SYS_SETTIMEOFDAY, unix.SYS_GET_MEMPOLICY, unix.SYS_SET_MEMPOLICY, unix.SYS_MBIND,
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_USERFAULTFD, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEXEC_LOAD,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_SWAPON, unix.SYS_ACCT, unix.SYS_VHANGUP,
	}
}

// filter refuses those system calls (EPERM), new namespaces by clone, and clone3 (ENOSYS), whose flags no filter can see.
func filter() error {
	const (
		errno      = unix.SECCOMP_RET_ERRNO
		namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
		load       = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		bits       = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		number     = 0  // offset of struct seccomp_data.nr
		flags      = 16 // of its args[0], on a little-endian machine
	)
	ret := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	program := []unix.SockFilter{{Code: load, K: number}}
	for _, call := range refused() {
		program = append(program, unix.SockFilter{Code: equal, Jf: 1, K: call}, ret(errno|uint32(unix.EPERM)))
	}
	program = append(program,
		unix.SockFilter{Code: equal, Jf: 1, K: unix.SYS_CLONE3}, ret(errno|uint32(unix.ENOSYS)),
		unix.SockFilter{Code: equal, Jf: 3, K: unix.SYS_CLONE},
		unix.SockFilter{Code: load, K: flags},
		unix.SockFilter{Code: bits, Jf: 1, K: namespaces}, ret(errno|uint32(unix.EPERM)),
		ret(unix.SECCOMP_RET_ALLOW))
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if e != 0 {
		return e
	}
	return nil
}
