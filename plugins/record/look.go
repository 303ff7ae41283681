//go:build linux

package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/plugins/attach"
)

// Seen is a record as a bystander sees it.
type Seen struct {
	attach.Record
	Complete bool  // its ADD came to its end, and no DEL has begun
	Adding   bool  // its ADD runs at this moment
	Damage   error // why it cannot be read: then it has network and owner alone
}

// looks is how often the directories are listed until two listings agree.
const looks = 10

// Look returns the records of all networks below a run directory, by network and owner. It takes no lock that anybody waits for. A
// record that is there from before Look is called until after it has returned is among them, also when it changes its
// name in between: a directory that is listed while names change in it may show neither the old one nor the new one, so
// it is listed until two listings agree.
func Look(runDir string) ([]Seen, error) {
	for range looks {
		seen, err := look(runDir)
		if !errors.Is(err, fs.ErrNotExist) {
			return seen, err
		}
	}
	return nil, fmt.Errorf("list attachment records below %s: they changed during each of %d listings", runDir, looks)
}

// look returns fs.ErrNotExist when something changed meanwhile.
func look(runDir string) ([]Seen, error) {
	before, err := recordFiles(runDir)
	if err != nil {
		return nil, err
	}
	var seen []Seen
	for _, path := range before {
		s, err := see(path)
		if err != nil {
			return nil, err
		}
		seen = append(seen, s)
	}
	after, err := recordFiles(runDir)
	if err == nil && !slices.Equal(before, after) {
		err = fs.ErrNotExist
	}
	return seen, err
}

// see reads one record. The error is fs.ErrNotExist when it is not there any more.
func see(path string) (Seen, error) {
	r, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Seen{}, fs.ErrNotExist
	}
	name, adding := strings.CutSuffix(filepath.Base(path), pending)
	id, ifName, _ := strings.Cut(name, ":")
	if short, ok := strings.CutSuffix(ifName, oldPending); ok && r.IfName != ifName { // see oldPath
		ifName, adding = short, true
	}
	s := Seen{Record: r, Complete: !adding, Adding: adding && errors.Is(checkIdle(path), attach.ErrBusy)}
	if err != nil {
		s.Damage = fmt.Errorf("read attachment record: %w", err)
		s.Record = attach.Record{Network: filepath.Base(filepath.Dir(path)), ContainerID: id, IfName: ifName}
	}
	return s, nil
}

// OfNode returns the records of all networks; see attach.Records.
func (s *Store) OfNode() ([]attach.Record, error) {
	seen, err := Look(filepath.Dir(filepath.Dir(s.dir)))
	var all []attach.Record
	for _, r := range seen {
		if r.Damage == nil {
			all = append(all, r.Record)
		}
	}
	return all, err
}

// Count returns how many attachments have a record.
func Count(runDir string) (int, error) {
	files, err := recordFiles(runDir)
	return len(files), err
}

// recordFiles returns the sorted paths of all records below a run directory; none when it is not there.
func recordFiles(runDir string) ([]string, error) {
	top := filepath.Join(runDir, "attachments")
	networks, err := os.ReadDir(top)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list attachment records: %w", err)
	}
	var paths []string
	for _, network := range networks {
		files, err := filesOf(filepath.Join(top, network.Name()))
		if err != nil {
			return nil, err
		}
		paths = append(paths, files...)
	}
	return paths, nil
}

// filesOf returns the sorted paths of a network's records; none when the directory is not there, or is none.
func filesOf(dir string) ([]string, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("list attachment records: %w", err)
	}
	var paths []string
	for _, f := range files {
		if strings.Contains(f.Name(), ":") {
			paths = append(paths, filepath.Join(dir, f.Name()))
		}
	}
	return paths, nil
}

// TryFreeze is Freeze for those that would rather come back than wait: ok is false when an ADD runs.
func (s *Store) TryFreeze() (release func(), ok bool, err error) {
	fd, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return func() { _ = unix.Close(fd) }, true, nil
}
