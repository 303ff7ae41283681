// Command scratch runs a program the way a container made from a scratch image runs it: its root directory holds the image and, mounted
// into it, /proc, /sys and /run of the host, in a mount namespace of its own.
//
//	scratch [--caps] ROOT PROGRAM [ARG...]
//
// With --caps the program has CAP_NET_ADMIN and cannot get more, although it runs as root.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scratch:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	runtime.LockOSThread() // for ever: this thread becomes the program
	limited := args[0] == "--caps"
	if limited {
		args = args[1:]
	}
	root, program := args[0], args[1]
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts apart: %w", err)
	}
	for _, dir := range []string{"/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, filepath.Join(root, dir), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot %s: %w", root, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	if limited {
		if err := limit(); err != nil {
			return err
		}
	}
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, args[1:], os.Environ()))
}

// limit takes everything else out of the bounding set: what root gets by execve is what is left in it (capabilities(7)).
func limit() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if c == unix.CAP_NET_ADMIN {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}
