package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/ipam"
)

// LockWait is how long a CNI call waits for other processes. Each of those holds the lock for well under a millisecond, so that only one that
// was stopped can make it come to this.
const LockWait = 30 * time.Second

// errNoStore says that nothing was ever allocated in the network since boot.
var errNoStore = errors.New("the store does not exist")

// session is the time during which this process alone may change the store. Nothing of it outlives the lock.
type session struct {
	*Allocator
	tables  map[ipam.Range]*table // those opened so far
	checked bool                  // the names were compared with the records in this session
	others  []string              // host-local's networks; nil while they are not known
	freed   []netip.Addr          // names that check removed and that the tables may not know of yet
}

// locked runs fn while holding the store's lock, after whatever an earlier process left undone was put right. With create false
// and no store on disk it returns errNoStore.
func (a *Allocator) locked(ctx context.Context, create bool, fn func(*session) error) error {
	lock, err := a.acquire(ctx, create)
	if err != nil {
		return err
	}
	defer lock.close() // which unlocks, as a kill would
	s := &session{Allocator: a, tables: map[ipam.Range]*table{}}
	if err := s.newBoot(lock); err != nil {
		return err
	}
	defer s.close()
	if err := s.settle(nil); err != nil {
		return err
	}
	return fn(s)
}

// acquire opens and locks the lock file, and makes the store's directories if create says so.
//
// The lock is flock(2): the kernel drops it when its holder dies, and wakes waiters one at a time in the order in which they
// came (since Linux 5.0 a waiter queues behind the waiter it conflicts with: fs/locks.c, __locks_insert_block), so that many
// processes at once neither poll nor stampede.
func (a *Allocator) acquire(ctx context.Context, create bool) (file, error) {
	for {
		lock, err := open(a.path("lock"), unix.O_RDWR|unix.O_CREAT)
		if errors.Is(err, fs.ErrNotExist) {
			if !create {
				return file{}, errNoStore
			}
			if err := a.makeDirs(); err != nil {
				return file{}, err
			}
			continue
		}
		if err != nil {
			return file{}, err
		}
		if err := flock(ctx, lock); err != nil {
			return file{}, err
		}
		id, err := lock.identity()
		if err == nil && id.links > 0 {
			return lock, nil
		}
		lock.close() // somebody removed the directory while we waited: lock the file that has the name now
		if err != nil {
			return file{}, err
		}
	}
}

// makeDirs lets everybody see that the data directory exists, and only root what is in the network's.
func (a *Allocator) makeDirs() error {
	if err := os.MkdirAll(a.cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	for _, dir := range []string{a.dir, a.path("leases"), a.path("addresses"), a.path("slots")} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make directory of network %s: %w", a.network, err)
		}
	}
	return nil
}

// flock waits for the lock until ctx ends. On an error it has closed the file, or will as soon as the kernel lets go of it.
func flock(ctx context.Context, f file) error {
	err := unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.close()
		return fmt.Errorf("lock %s: %w", f.path, err)
	}
	done := make(chan error, 1)
	go func() {
		err := unix.Flock(f.fd, unix.LOCK_EX)
		for err == unix.EINTR {
			err = unix.Flock(f.fd, unix.LOCK_EX)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			f.close()
			return fmt.Errorf("lock %s: %w", f.path, err)
		}
		return nil
	case <-ctx.Done():
		// flock cannot be called off: the goroutine ends when the holder does, and then lets the lock go at once.
		go func() { <-done; f.close() }()
		return fmt.Errorf("lock %s: %w: %w", f.path, ipam.ErrBusy, context.Cause(ctx))
	}
}

// newBoot empties a store that was written before the machine's last boot. A boot ends every network namespace, so no lease of
// an earlier one can have a living owner. The lock file holds the id of the boot that the store belongs to.
func (s *session) newBoot(lock file) error {
	buf := make([]byte, 64)
	n, err := lock.readAt(buf, 0)
	if err != nil || string(buf[:n]) == s.bootID {
		return err
	}
	dropped := 0
	for _, dir := range []string{"slots", "leases", "addresses"} {
		list, err := names(s.path(dir))
		if err != nil {
			return fmt.Errorf("empty the store of an earlier boot: %w", err)
		}
		for _, name := range list {
			if err := unlink(s.path(dir, name)); err != nil {
				return fmt.Errorf("empty the store of an earlier boot: %w", err)
			}
		}
		if dir == "leases" {
			dropped = len(list)
		}
	}
	if err := unlink(s.path("pending")); err != nil {
		return fmt.Errorf("empty the store of an earlier boot: %w", err)
	}
	failpoint.Hit("ipam-boot-emptied")
	if err := s.makeDirs(); err != nil { // a process killed while it made them leaves some out
		return err
	}
	if n > 0 {
		s.log.Info("dropped the leases of an earlier boot", "network", s.network, "leases", dropped)
	}
	if err := lock.truncate(0); err != nil {
		return err
	}
	return lock.writeAt([]byte(s.bootID), 0)
}

// close writes the slot tables' headers back and closes them. An error is no reason to fail what was done: it leaves a table
// dirty, which the next session builds anew.
func (s *session) close() {
	var errs []error
	for _, ip := range s.freed {
		errs = append(errs, s.putBack(ip))
	}
	for _, t := range s.tables {
		errs = append(errs, t.close())
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("a slot table was left dirty and will be built anew", "network", s.network, "error", err)
	}
}
