package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PrepareDir makes Dir ready for namespaces as iproute2 would: a directory that is a shared mount of its own, so that removing a name
// is seen in every mount namespace that a person's "ip netns exec" has made. When it has to make the mount, it says so in the file
// marker, for RestoreDir.
func PrepareDir(marker string) error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("prepare %s: %w", Dir, err)
	}
	unlock, err := lockDir(unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", Dir, err)
	}
	defer unlock()
	const shared = unix.MS_SHARED | unix.MS_REC
	err = unix.Mount("", Dir, "none", shared, "")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) { // EINVAL: Dir is no mount point
		return fmt.Errorf("share %s: %w", Dir, err)
	}
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		return fmt.Errorf("prepare %s: %w", Dir, err)
	}
	if err := unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", Dir, err)
	}
	if err := unix.Mount("", Dir, "none", shared, ""); err != nil {
		return fmt.Errorf("share %s: %w", Dir, err)
	}
	return nil
}

// RestoreDir takes away the mount that PrepareDir made, once no namespace is left in Dir. Without the marker it does nothing.
func RestoreDir(marker string) error {
	if _, err := os.Lstat(marker); err != nil {
		return nil
	}
	unlock, err := lockDir(unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("restore %s: %w", Dir, err)
	}
	defer unlock()
	names, err := os.ReadDir(Dir)
	if err != nil {
		return fmt.Errorf("restore %s: %w", Dir, err)
	}
	if len(names) > 0 {
		return nil
	}
	if err := unix.Unmount(Dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", Dir, err)
	}
	if err := os.Remove(marker); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore %s: %w", Dir, err)
	}
	return nil
}

// lockDir serialises changes of Dir's mount with the making of namespaces, between processes.
func lockDir(how int) (unlock func(), err error) {
	f, err := os.Open(Dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() { f.Close() }, nil
}
