package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxRecord bounds what is read of a lease record, in bytes; a real one has a few hundred.
const maxRecord = 64 << 10

// file is an open file. It exists beside os.File to spare the system calls that os.File makes for its poller.
type file struct {
	fd   int
	path string
}

// open opens path with close-on-exec, and creates it with mode 0600 where flags say so.
func open(path string, flags int) (file, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		switch err {
		case nil:
			return file{fd, path}, nil
		case unix.EINTR: // a FUSE or network file system may say so
		default:
			return file{}, fmt.Errorf("open %s: %w", path, err)
		}
	}
}

func (f file) close() { _ = unix.Close(f.fd) }

// readAt fills b and returns how much it read. That is less than asked for only at the end of the file: the kernel does not cut
// reads of a regular file short otherwise.
func (f file) readAt(b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(f.fd, b, offset)
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR {
			return 0, fmt.Errorf("read %s: %w", f.path, err)
		}
	}
}

// readSmall returns the first bytes of a file, 64 at most.
func readSmall(path string) ([]byte, error) {
	f, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.close()
	b := make([]byte, 64)
	n, err := f.readAt(b, 0)
	return b[:n], err
}

func (f file) writeAt(b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(f.fd, b, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

func (f file) truncate(size int64) error {
	if err := unix.Ftruncate(f.fd, size); err != nil {
		return fmt.Errorf("truncate %s to %d bytes: %w", f.path, size, err)
	}
	return nil
}

// identity is what tells whether two names are one file, and how many names it has.
type identity struct {
	inode   uint64
	links   uint64
	size    int64
	regular bool
}

func toIdentity(st *unix.Stat_t) identity {
	return identity{inode: st.Ino, links: uint64(st.Nlink), size: st.Size, regular: st.Mode&unix.S_IFMT == unix.S_IFREG}
}

func (f file) identity() (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return identity{}, fmt.Errorf("stat %s: %w", f.path, err)
	}
	return toIdentity(&st), nil
}

// identify is identity for a name; it does not follow a symbolic link.
func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return identity{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return toIdentity(&st), nil
}

// exists reports whether the name is there. An error other than its absence counts as presence: what cannot be looked at
// must not be handed out.
func exists(path string) bool {
	var st unix.Stat_t
	return !errors.Is(unix.Lstat(path, &st), fs.ErrNotExist)
}

func link(from, to string) error {
	if err := unix.Link(from, to); err != nil {
		return fmt.Errorf("link %s to %s: %w", from, to, err)
	}
	return nil
}

func rename(from, to string) error {
	if err := unix.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s to %s: %w", from, to, err)
	}
	return nil
}

// unlink removes a name; that it is not there is no error.
func unlink(path string) error {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// names lists a directory in no particular order; a directory that is not there is empty.
func names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err // a *PathError names the operation and the path
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
