package hostfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tempSuffix ends the names of files that are being written. libcni reads *.conf, *.conflist and *.json of its directory
// only, so it never sees one.
const tempSuffix = ".twill-tmp"

// write makes the file at path hold data. It reports whether anything had to be changed. Missing directories are made.
func write(path string, data []byte, mode fs.FileMode) (bool, error) {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) && hasMode(path, mode) {
		return false, nil
	}
	return true, replace(path, bytes.NewReader(data), mode)
}

// install makes the file at path a copy of the one at source. It reports whether anything had to be changed.
func install(path, source string, mode fs.FileMode) (changed bool, err error) {
	from, err := os.Open(source)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	same, err := sameContent(path, from)
	if err != nil {
		return false, err
	}
	if same && hasMode(path, mode) {
		return false, nil
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return false, fmt.Errorf("read %s: %w", source, err)
	}
	return true, replace(path, from, mode)
}

func hasMode(path string, mode fs.FileMode) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm() == mode
}

// sameContent reports whether the file at path has the content of from. A file that cannot be read has not.
func sameContent(path string, from *os.File) (bool, error) {
	have, err := os.Open(path)
	if err != nil {
		return false, nil
	}
	defer have.Close() // opened for reading: closing cannot lose anything
	a, errA := have.Stat()
	b, errB := from.Stat()
	if errA != nil || errB != nil || a.Size() != b.Size() {
		return false, errB
	}
	const chunk = 64 << 10
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for {
		nA, errA := io.ReadFull(have, bufA)
		nB, errB := io.ReadFull(from, bufB)
		if !bytes.Equal(bufA[:nA], bufB[:nB]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			ended := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
			return ended, nil
		}
	}
}

// replace writes a new file beside path, forces it to the disk and renames it. A power cut leaves the old file or the new one.
func replace(path string, content io.Reader, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := sweep(path); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, tempPrefix(path)+"*"+tempSuffix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, temp.Close(), remove(temp.Name()))
		}
	}()
	if _, err := io.Copy(temp, content); err != nil {
		return err
	}
	if err := errors.Join(temp.Chmod(mode), temp.Sync()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return errors.Join(temp.Close(), syncDir(dir))
}

func tempPrefix(path string) string { return "." + filepath.Base(path) + "." }

// sweep removes what an earlier process that was killed while it wrote left behind. Younger leftovers may be another process's
// work: nodes of a lab can share a plugin directory.
func sweep(path string) error {
	const old = time.Minute
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find leftovers of %s: %w", path, err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix(path)) || !strings.HasSuffix(e.Name(), tempSuffix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > old {
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove deletes a file; one that is gone already is no error.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
