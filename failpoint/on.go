//go:build failpoint

package failpoint

import (
	"os"
	"syscall"
)

// Hit kills the process when the environment variable TWILL_FAILPOINT is equal to name.
func Hit(name string) {
	if os.Getenv("TWILL_FAILPOINT") != name {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way: nothing after the failpoint may run
}
