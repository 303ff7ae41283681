package kubetest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyTree copies a symbolic link, a directory with all that is in it, or a file, with copy. What does not exist is passed over.
func copyTree(from, to string, copy func(from, to string, info os.FileInfo) error) error {
	info, err := os.Lstat(from)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !info.IsDir():
		return copy(from, to, info)
	}
	entries, err := os.ReadDir(from)
	if err == nil {
		err = os.Mkdir(to, 0o700)
	}
	for _, e := range entries {
		err = errors.Join(err, copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), copy))
	}
	return errors.Join(err, own(to, info))
}

// copyFile copies content, owner and mode.
func copyFile(from, to string, info os.FileInfo) error {
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	return errors.Join(err, own(to, info))
}

// own gives a file the owner and mode of another one.
func own(file string, info os.FileInfo) error {
	at := info.Sys().(*syscall.Stat_t)
	return errors.Join(os.Lchown(file, int(at.Uid), int(at.Gid)), unix.Chmod(file, at.Mode&0o7777))
}

// linkFile makes a second name of a file, or a copy where there cannot be one.
func linkFile(from, to string, info os.FileInfo) error {
	err := os.Link(from, to)
	if errors.Is(err, unix.EXDEV) {
		return copyFile(from, to, info)
	}
	return err
}
