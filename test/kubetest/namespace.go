package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// transport returns an http.Transport whose connections come from a network namespace. URLs name their host by IP address.
func transport(namespace string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		// One literal address is dialled on the calling goroutine, so the socket is made in the namespace.
		err = inside(namespace, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
}

// inside calls f on a thread that is in the network namespace that the file holds, and brings the thread back. For "" it just calls f.
func inside(namespace string, f func() error) (err error) {
	if namespace == "" {
		return f()
	}
	target, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer target.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the thread's own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", namespace, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it ends with this goroutine and never runs another one in the wrong place.
		return errors.Join(err, fmt.Errorf("return to the thread's own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
