//go:build linux

package podnet

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// Handle works on the network namespace that it was opened in and on those of pods. It is not safe for concurrent use.
type Handle struct {
	host *socket
	home int // the host's network namespace; -1 until it is needed
	pod  *podNetns
}

// podNetns is a pod's network namespace, opened once for all the steps of one verb.
type podNetns struct {
	path   string
	fd     int
	sock   *socket     // nil until it is needed
	locals *LocalWatch // from ConfigurePod to Announce, when the pod has an IPv6 address
}

// Open returns a handle on the network namespace of the calling thread.
func Open() (*Handle, error) {
	sock, err := openSocket()
	if err != nil {
		return nil, err
	}
	return &Handle{host: sock, home: -1}, nil
}

// Close frees what the handle holds. It changes nothing in the kernel.
func (h *Handle) Close() {
	h.host.close()
	h.closePod()
	if h.home >= 0 {
		_ = unix.Close(h.home)
	}
}

func (h *Handle) closePod() {
	if h.pod == nil {
		return
	}
	if h.pod.sock != nil {
		h.pod.sock.close()
	}
	if h.pod.locals != nil {
		h.pod.locals.Close()
	}
	_ = unix.Close(h.pod.fd)
	h.pod = nil
}

// CheckNetns opens a pod's network namespace. The error wraps kernel.ErrNetnsMissing when the path leads nowhere, kernel.ErrNoNetns when it is
// something else, and kernel.ErrHostNetns when it is the host's own.
func (h *Handle) CheckNetns(path string) error {
	if h.pod != nil && h.pod.path == path {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || path == "" {
		return fmt.Errorf("network namespace %q: %w", path, kernel.ErrNetnsMissing)
	}
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	if err := h.checkNetns(fd); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	h.closePod()
	h.pod = &podNetns{path: path, fd: fd}
	return nil
}

// checkNetns compares by inode: namespaces are files of nsfs (kernel: fs/nsfs.c), and NS_GET_NSTYPE tells their kind.
func (h *Handle) checkNetns(fd int) error {
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return kernel.ErrNoNetns
	}
	if h.home < 0 {
		if h.home, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open the host's network namespace: %w", err)
		}
	}
	var pod, home unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &pod), unix.Fstat(h.home, &home)); err != nil {
		return fmt.Errorf("compare network namespaces: %w", err)
	}
	if pod.Ino == home.Ino && pod.Dev == home.Dev {
		return kernel.ErrHostNetns
	}
	return nil
}

// inPod runs f with the thread moved to the pod's network namespace, where /proc/sys/net shows the pod's settings, and with a
// socket that is bound to it.
func (h *Handle) inPod(path string, f func(*socket) error) error {
	if err := h.CheckNetns(path); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Setns(h.pod.fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	err := func() (err error) {
		if h.pod.sock == nil {
			if h.pod.sock, err = openSocket(); err != nil {
				return err
			}
		}
		return f(h.pod.sock)
	}()
	if back := unix.Setns(h.home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it ends with its goroutine and nothing else ever runs in the wrong place.
		return errors.Join(err, fmt.Errorf("return from network namespace %s: %w", path, back))
	}
	runtime.UnlockOSThread()
	return err
}
