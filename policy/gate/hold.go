package gate

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// holdPause is how long to wait for the next try; a plugin holds the lock for about a millisecond.
const holdPause = 2 * time.Millisecond

// Hold keeps all others that call it, of this run directory, from changing what the kernel holds of local pods, until release is called. It waits as long as ctx
// lasts. A process that dies gives it up.
//
// The daemon holds it from before it looks at the records of attachments until what it makes of them is in the kernel, each time that it writes to the local
// maps; a plugin holds it while it removes elements itself (see package attach for what that is good for).
func Hold(ctx context.Context, runDir string) (release func(), err error) {
	path := LockPath(runDir)
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	for {
		err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = syscall.Close(fd) }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			_ = syscall.Close(fd)
			return nil, fmt.Errorf("lock %s: %w", path, err)
		case !pause(ctx, holdPause):
			_ = syscall.Close(fd)
			return nil, fmt.Errorf("lock %s, which another process holds: %w", path, context.Cause(ctx))
		}
	}
}
