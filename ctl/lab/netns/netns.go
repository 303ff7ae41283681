package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dir is where named namespaces live (ip-netns(8)).
const Dir = "/run/netns"

// self is the namespace of the calling thread; /proc/self would be that of the process's first thread.
const self = "/proc/thread-self/ns/net"

// Namespace is a named network namespace. It holds nothing open; it may be used from many goroutines.
type Namespace struct{ name string }

// Named returns the namespace of that name, which need not exist.
func Named(name string) Namespace { return Namespace{name: name} }

// Name returns the name, which is the file's name below Dir.
func (n Namespace) Name() string { return n.name }

// Path returns the file that holds the namespace.
func (n Namespace) Path() string { return filepath.Join(Dir, n.name) }

// Exists reports whether the name is taken, be it by a namespace or by the empty file that a crash or a reboot left.
func (n Namespace) Exists() bool {
	_, err := os.Lstat(n.Path())
	return err == nil
}

// Create makes a namespace. It wraps os.ErrExist when the name is taken; then nothing is changed.
func Create(name string) (Namespace, error) {
	n := Named(name)
	unlock, err := lockDir(unix.LOCK_SH)
	if err != nil {
		return n, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	defer unlock()
	f, err := os.OpenFile(n.Path(), os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return n, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	f.Close()
	if err := inFresh(func() error { return unix.Mount(self, n.Path(), "", unix.MS_BIND, "") }); err != nil {
		return n, errors.Join(fmt.Errorf("make network namespace %s: %w", name, err), os.Remove(n.Path()))
	}
	return n, nil
}

// Remove takes the name away. Processes inside keep the namespace itself alive until they end. A namespace that does not exist is
// no error.
func (n Namespace) Remove() error {
	// A name may be mounted more than once: an rbind of Dir over itself doubles what is there. EINVAL: no mount is left.
	for {
		err := unix.Unmount(n.Path(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", n.name, err)
		}
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", n.name, err)
	}
	return nil
}

// Do calls f on a thread that is inside the namespace, and returns f's error.
func (n Namespace) Do(f func() error) error {
	target, err := os.Open(n.Path())
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer target.Close()
	return away(func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// Enter moves the calling thread into the namespace for good; it is for a program that is about to replace itself by
// another (execve). The caller has locked the thread.
func (n Namespace) Enter() error {
	target, err := os.Open(n.Path())
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.name, err)
	}
	return nil
}

// Dial connects from inside the namespace. The address must hold an IP address: looking a name up may happen on another
// thread, outside the namespace.
func (n Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		// One literal address is dialled on the calling goroutine, so the socket is made in the namespace.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Sysctl writes a value below /proc/sys/net, for example "ipv4/ip_forward".
func (n Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		// /proc/sys/net shows the namespace of the thread that looks the path up.
		return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
	})
}

func inFresh(f func() error) error {
	return away(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return f()
	})
}

// away calls f, which moves the thread to another namespace, and brings the thread back.
func away(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := os.Open(self)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the thread's own network namespace: %w", err)
	}
	defer home.Close()
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			// The thread stays locked, so that it ends with this goroutine and never runs another one in the wrong place.
			err = errors.Join(err, fmt.Errorf("return to the thread's own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}
