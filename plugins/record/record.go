//go:build linux

package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
)

// pending ends the name of a record whose ADD is not at its end. No interface's name ends like that: the kernel refuses a colon
// (dev_valid_name).
const pending = ":adding"

// oldPending is what pending once was. Records that end in it are still found, and removed with their attachment.
const oldPending = ".adding"

// Store keeps the records of one network. It may be used by many processes at a time.
type Store struct{ dir string }

// Open returns the store of a network. It does no I/O.
func Open(runDir, network string) *Store {
	return &Store{dir: filepath.Join(runDir, "attachments", network)}
}

func (s *Store) path(owner kernel.PodOwner) string {
	return s.dir + "/" + owner.ContainerID + ":" + owner.IfName
}

// entry is the record of an ADD that runs. Its files are plain descriptors: locks last until they are closed.
type entry struct {
	path string
	dir  int
	file int
}

// Begin writes the record of an ADD that starts; see attach.Records.
func (s *Store) Begin(r attach.Record) (attach.Entry, error) {
	dir, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	e := &entry{path: s.path(r.Owner()), dir: dir, file: -1}
	if err := e.create(r); err != nil {
		e.Close()
		return nil, fmt.Errorf("write attachment record %s: %w", e.path, err)
	}
	return e, nil
}

func (e *entry) create(r attach.Record) error {
	var err error
	e.file, err = unix.Open(e.path+pending, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return attach.ErrExists
	}
	if err != nil {
		e.file = -1
		return err
	}
	if err := unix.Flock(e.file, unix.LOCK_EX); err != nil {
		return err
	}
	if _, old := oldPath(e.path, r.IfName); old || unix.Access(e.path, unix.F_OK) == nil {
		return errors.Join(attach.ErrExists, unix.Unlink(e.path+pending))
	}
	if err := e.Update(r); err != nil {
		return errors.Join(err, unix.Unlink(e.path+pending))
	}
	return nil
}

// Update appends the record as it is now.
func (e *entry) Update(r attach.Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if n, err := unix.Write(e.file, line); err != nil || n != len(line) {
		return fmt.Errorf("write attachment record %s: %d of %d bytes: %w", e.path, n, len(line), err)
	}
	return nil
}

// Commit gives the record its final name.
func (e *entry) Commit() error {
	if err := unix.Rename(e.path+pending, e.path); err != nil {
		return fmt.Errorf("complete attachment record %s: %w", e.path, err)
	}
	return nil
}

// Close drops the locks.
func (e *entry) Close() {
	if e.file >= 0 {
		_ = unix.Close(e.file)
	}
	_ = unix.Close(e.dir)
}

// lock opens and locks the directory, which is made when it is missing.
func (s *Store) lock(how int) (int, error) {
	fd, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return -1, fmt.Errorf("make directory for attachment records: %w", err)
		}
		fd, err = unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open attachment records %s: %w", s.dir, err)
	}
	for {
		err = unix.Flock(fd, how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("lock attachment records %s: %w", s.dir, err)
	}
	return fd, nil
}

// Freeze holds up ADDs; see attach.Records.
func (s *Store) Freeze() (func(), error) {
	fd, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return func() { _ = unix.Close(fd) }, nil
}

// Get returns the owner's record; see attach.Records.
func (s *Store) Get(owner kernel.PodOwner) (attach.Record, bool, error) {
	path := s.path(owner)
	r, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		path += pending
		if old, ok := oldPath(s.path(owner), owner.IfName); ok {
			path = old
		}
		if err := checkIdle(path); err != nil {
			return attach.Record{}, false, err
		}
		r, err = read(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENAMETOOLONG):
		return attach.Record{}, false, nil
	case err != nil:
		return attach.Record{}, false, fmt.Errorf("read attachment record: %w", err)
	}
	return r, true, nil
}

// oldPath returns the name under which an older version's ADD left the record that belongs at path, if there is one: a file of that name
// may also be the complete record of an interface that is called so. One that cannot be read is taken for the former.
func oldPath(path, ifName string) (string, bool) {
	path += oldPending
	if unix.Access(path, unix.F_OK) != nil {
		return "", false
	}
	r, err := read(path)
	return path, err != nil || r.IfName == ifName
}

// checkIdle returns an error that wraps attach.ErrBusy while an ADD holds the file.
func checkIdle(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // there is none
	}
	defer unix.Close(fd)
	// Shared, so that two that look do not take each other for the ADD.
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("attachment record %s: %w", path, attach.ErrBusy)
	}
	return nil
}

func read(path string) (attach.Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return attach.Record{}, err
	}
	r, err := decode(data)
	if err != nil {
		return attach.Record{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// decode returns the last whole line's record. A write that was cut short leaves a line without an end.
func decode(data []byte) (attach.Record, error) {
	var r attach.Record
	dec := json.NewDecoder(bytes.NewReader(data))
	for lines := 0; ; lines++ {
		var next attach.Record
		err := dec.Decode(&next)
		switch {
		case err == nil:
			r = next
		case lines > 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
			return r, nil
		case errors.Is(err, io.EOF):
			return attach.Record{}, errors.New("the record is empty")
		default:
			return attach.Record{}, err
		}
	}
}

// Complete reports whether the owner's ADD ran to its end.
func (s *Store) Complete(owner kernel.PodOwner) bool {
	return unix.Access(s.path(owner), unix.F_OK) == nil
}

// Retire takes the final name from the owner's record, if it has one: whoever keeps host ports in place must not put back those
// that are being removed. See attach.Records.
func (s *Store) Retire(owner kernel.PodOwner) error {
	err := unix.Rename(s.path(owner), s.path(owner)+pending)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENAMETOOLONG) {
		return fmt.Errorf("retire attachment record %s: %w", s.path(owner), err)
	}
	return nil
}

// Remove removes the owner's record in whichever state it is; none is no error.
func (s *Store) Remove(owner kernel.PodOwner) error {
	paths := []string{s.path(owner), s.path(owner) + pending}
	if old, ok := oldPath(s.path(owner), owner.IfName); ok {
		paths = append(paths, old)
	}
	for _, path := range paths {
		err := unix.Unlink(path)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENAMETOOLONG) {
			return fmt.Errorf("remove attachment record %s: %w", path, err)
		}
	}
	return nil
}

// List returns all records, by owner. For one that cannot be read there is an error, and a record with the owner alone.
func (s *Store) List() ([]attach.Record, error) {
	files, err := filesOf(s.dir)
	if err != nil {
		return nil, err
	}
	var all []attach.Record
	var errs []error
	for _, path := range files {
		seen, err := see(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err, seen.Damage)
		all = append(all, seen.Record)
	}
	slices.SortFunc(all, func(a, b attach.Record) int { return strings.Compare(a.Owner().String(), b.Owner().String()) })
	return all, errors.Join(errs...)
}
