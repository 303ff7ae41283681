package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/lab/process"
)

// Destroy removes the lab of that name, be it whole, half made, or left by a process that was killed: it needs no more than what is on
// disk. From options it takes Name, StateDir and Log. It reports whether there was anything to remove.
func Destroy(ctx context.Context, options Options) (bool, error) {
	name := cmp.Or(options.Name, defaultName)
	if err := checkName("lab", name); err != nil {
		return false, err
	}
	dir := directory(filepath.Join(cmp.Or(options.StateDir, defaultStateDir), name))
	if !dir.exists() {
		return false, nil
	}
	unlock, err := dir.lock()
	if err != nil {
		return false, fmt.Errorf("remove lab %s: %w", name, err)
	}
	defer unlock()
	log := options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return true, dir.remove(ctx, log)
}

// remove takes everything away, the directory last: as long as anything is left, the journal is there to try again.
func (d directory) remove(ctx context.Context, log *slog.Logger) error {
	if err := d.clear(ctx, log); err != nil {
		return fmt.Errorf("remove lab %s: %w", filepath.Base(string(d)), err)
	}
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove lab %s: %w", filepath.Base(string(d)), err)
	}
	if err := netns.RestoreDir(mountMarker); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(string(d))) // only when this was the last lab: otherwise it is not empty
	return nil
}

// clear removes everything of the lab but its directory itself.
func (d directory) clear(ctx context.Context, log *slog.Logger) error {
	namespaces, err := d.namespaces()
	if err != nil {
		return err
	}
	if err := endProcesses(ctx, namespaces, log); err != nil {
		return err
	}
	var failed []error
	for _, ns := range namespaces {
		failed = append(failed, ns.Remove())
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	names, err := os.ReadDir(string(d))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the lab's directory: %w", err)
	}
	for _, e := range names {
		failed = append(failed, os.RemoveAll(filepath.Join(string(d), e.Name())))
	}
	return errors.Join(failed...)
}

// endProcesses kills whatever lives in the namespaces: daemons, etcd, plugins at work, people's shells. A process that was being started
// while the list was made appears in the next one, so it ends when a list is empty.
func endProcesses(ctx context.Context, namespaces []netns.Namespace, log *slog.Logger) error {
	paths := make([]string, len(namespaces))
	for i, ns := range namespaces {
		paths[i] = ns.Path()
	}
	for {
		found, err := process.Inside(paths)
		if err != nil || len(found) == 0 {
			return err
		}
		log.Debug("ending the lab's processes", "count", len(found))
		var failed []error
		for _, id := range found {
			failed = append(failed, id.Signal(syscall.SIGKILL))
		}
		for _, id := range found {
			failed = append(failed, id.Wait(ctx))
		}
		if err := errors.Join(failed...); err != nil {
			return fmt.Errorf("end the lab's processes: %w", err)
		}
	}
}
