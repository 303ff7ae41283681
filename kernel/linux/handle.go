//go:build linux

package linux

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var _ kernel.Kernel = (*Handle)(nil)

// Handle reads and changes one network namespace: the one that the calling thread was in when Open was called. It
// implements kernel.Kernel. It may be used by several goroutines; calls are made one after the other.
type Handle struct {
	log *slog.Logger

	mu    sync.Mutex
	conn  *conn
	links *netlink.Handle
	netns *os.File
	asked map[string]kernel.Link // what ApplyLinks made last, by name
	sizes [kernel.NumKinds]int   // entries in the last dump of each kind, to allocate once

	sysctlDir string

	patience time.Duration // linkLocalPatience, but for tests
}

// Option changes how a Handle works.
type Option func(*Handle)

// WithSysctlDir has the kernel's settings read and written below dir in place of /proc/sys, which is read-only in a container. What the container
// mounts there from its host need be no more than /proc/sys/net: as dir + "/net".
func WithSysctlDir(dir string) Option { return func(h *Handle) { h.sysctlDir = dir } }

// Open opens a Handle on the caller's current network namespace. A goroutine that has switched its thread to another
// namespace must be locked to the thread.
func Open(log *slog.Logger, options ...Option) (*Handle, error) {
	h := &Handle{log: log, asked: map[string]kernel.Link{}, sysctlDir: defaultSysctlDir, patience: linkLocalPatience}
	for _, o := range options {
		o(h)
	}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Handle) open() (err error) {
	if err := h.checkSysctls(); err != nil {
		return err
	}
	if h.netns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	if h.conn, err = dialRoute(); err != nil {
		return err
	}
	if h.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open rtnetlink socket: %w", err)
	}
	return nil
}

// Close releases the handle's sockets. What was made in the kernel stays.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	if h.conn != nil {
		errs = append(errs, h.conn.close())
	}
	if h.links != nil {
		h.links.Close()
	}
	if h.netns != nil {
		errs = append(errs, h.netns.Close())
	}
	return errors.Join(errs...)
}

// inNamespace calls f on a thread that is in the handle's network namespace. Sockets stay in the namespace that they were
// opened in, but /proc/sys/net shows each thread its own (net/sysctl_net.c, net_ctl_header_lookup).
func (h *Handle) inNamespace(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	current, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer current.Close()
	same, err := sameFile(current, h.netns)
	if err != nil {
		return fmt.Errorf("compare network namespaces: %w", err)
	}
	if same {
		return f()
	}
	if err := unix.Setns(int(h.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(current.Fd()), unix.CLONE_NEWNET); back != nil {
		// A thread that is in the wrong namespace must never run another goroutine. Locked once more than it is
		// unlocked, it ends with this goroutine (runtime.LockOSThread).
		runtime.LockOSThread()
		err = errors.Join(err, fmt.Errorf("leave the network namespace: %w", back))
	}
	return err
}

func sameFile(a, b *os.File) (bool, error) {
	ai, err := a.Stat()
	if err != nil {
		return false, err
	}
	bi, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(ai, bi), nil
}
