package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ipam"
)

const (
	// statusWait bounds what Status waits for the lock, so that it answers within 100 ms.
	statusWait = 50 * time.Millisecond
	// statusRecheck is the number of leases up to which Status takes the time to compare an exhausted range with the disk.
	statusRecheck = 4096
)

// stored is a record as it was found.
type stored struct {
	lease  ipam.Lease // with damage: the owner by the record's name, and the addresses by the names that are links to it
	id     identity
	damage error // why the content cannot be used; wraps ipam.ErrDamaged and names the file
}

// read reads the owner's record. Without one the error wraps ipam.ErrNotFound.
func (a *Allocator) read(owner ipam.Owner) (stored, error) {
	rec, err := a.readPath(a.leasePath(owner))
	if errors.Is(err, fs.ErrNotExist) {
		return stored{}, fmt.Errorf("%w of %s in network %s", ipam.ErrNotFound, owner, a.network)
	}
	if err != nil {
		return stored{}, err
	}
	if rec.damage == nil && rec.lease.Owner != owner {
		rec.damage = fmt.Errorf("%s: %w: it is of %s", a.leasePath(owner), ipam.ErrDamaged, rec.lease.Owner)
	}
	if rec.damage == nil {
		return rec, nil
	}
	a.log.Warn("a lease record is damaged; its addresses stay taken until its owner is released", "error", rec.damage)
	ips, err := a.claims(rec)
	if err != nil {
		return stored{}, err
	}
	rec.lease = ipam.Lease{Owner: owner, Addresses: a.addresses(ips)}
	return rec, nil
}

// readPath reads a record by any of its names.
func (a *Allocator) readPath(path string) (stored, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK) // a FIFO with the name must not hang us
	if err != nil {
		return stored{}, err
	}
	defer f.close()
	rec := stored{}
	if rec.id, err = f.identity(); err != nil {
		return stored{}, err
	}
	if !rec.id.regular {
		return stored{}, fmt.Errorf("%s: %w: it is not a regular file", path, ipam.ErrDamaged)
	}
	buf := make([]byte, min(rec.id.size, maxRecord))
	n, err := f.readAt(buf, 0)
	if err == nil {
		rec.lease, err = ipam.DecodeLease(buf[:n])
	}
	if err != nil {
		rec.damage = fmt.Errorf("%s: %w", path, err)
		if !errors.Is(err, ipam.ErrDamaged) { // the disk, not the content
			rec.damage = fmt.Errorf("%w: %w", ipam.ErrDamaged, rec.damage)
		}
	}
	return rec, nil
}

// addresses gives addresses the form that they have in a lease, in the order of the range sets. One that is in no range any more has the
// full length and no gateway.
func (a *Allocator) addresses(ips []netip.Addr) []ipam.Address {
	var list []ipam.Address
	for _, set := range a.cfg.Sets {
		for _, ip := range ips {
			if rng, ok := set.Find(ip); ok {
				list = append(list, ipam.Address{Prefix: netip.PrefixFrom(ip, rng.Subnet.Bits()), Gateway: rng.Gateway})
			}
		}
	}
	for _, ip := range ips {
		if !leaseHas(ipam.Lease{Addresses: list}, ip) {
			list = append(list, ipam.Address{Prefix: netip.PrefixFrom(ip, ip.BitLen())})
		}
	}
	return list
}

// current reports whether the store was written since the last boot. What an earlier boot left does not count any more.
func (a *Allocator) current() (bool, error) {
	id, err := readSmall(a.path("lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return string(id) == a.bootID, err
}

// Lookup returns the owner's lease, or an error that wraps ipam.ErrNotFound. It does not wait for the lock. The lease of a damaged
// record has the owner and the addresses only.
func (a *Allocator) Lookup(owner ipam.Owner) (ipam.Lease, error) {
	if err := owner.Validate(); err != nil {
		return ipam.Lease{}, err
	}
	ok, err := a.current()
	if err != nil {
		return ipam.Lease{}, err
	}
	if !ok {
		return ipam.Lease{}, fmt.Errorf("%w of %s in network %s", ipam.ErrNotFound, owner, a.network)
	}
	rec, err := a.read(owner)
	return rec.lease, err
}

// Leases returns all leases, sorted by owner, without waiting for the lock: one that is made or released meanwhile may or may not be among
// them. Damaged records are returned as by Lookup, and each is named in the error, which wraps ipam.ErrDamaged; the list
// is whole nevertheless.
func (a *Allocator) Leases() ([]ipam.Lease, error) {
	if ok, err := a.current(); !ok || err != nil {
		return nil, err
	}
	list, err := names(a.path("leases"))
	if err != nil {
		return nil, fmt.Errorf("list the leases of network %s: %w", a.network, err)
	}
	slices.Sort(list)
	var leases []ipam.Lease
	var errs []error
	for _, name := range list {
		owner, ok := parseOwnerName(name)
		if !ok {
			continue // not a name that we gave
		}
		rec, err := a.read(owner)
		switch {
		case errors.Is(err, ipam.ErrNotFound): // released since
		case err != nil:
			errs = append(errs, err)
		default:
			if rec.damage != nil {
				errs = append(errs, rec.damage)
			}
			leases = append(leases, rec.lease)
		}
	}
	return leases, errors.Join(errs...)
}

// Free returns those of the addresses that are in the network's ranges, gateways aside, and that no lease holds. It does not wait
// for the lock: an address that is leased or released meanwhile may or may not be among them.
func (a *Allocator) Free(ips []netip.Addr) ([]netip.Addr, error) {
	current, err := a.current()
	if err != nil {
		return nil, err
	}
	var free []netip.Addr
	for _, ip := range ips {
		if !a.gives(ip) {
			continue
		}
		if current {
			_, err := identify(a.claimPath(ip))
			if err == nil {
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		free = append(free, ip)
	}
	return free, nil
}

// gives reports whether the address may ever be leased.
func (a *Allocator) gives(ip netip.Addr) bool {
	return slices.ContainsFunc(a.cfg.Sets, func(set ipam.RangeSet) bool {
		rng, ok := set.Find(ip)
		return ok && rng.Gateway != ip
	})
}

// Status returns nil when an Allocate could be served now: the data directory can be written and every range set has a free address. The
// error wraps ipam.ErrExhausted in the latter case. It answers within 100 ms: it reads a few bytes for each range, and waits for the lock only
// to make sure of an exhaustion, and only shortly.
func (a *Allocator) Status() error {
	dir := a.dir
	for {
		err := unix.Access(dir, unix.W_OK)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write to data directory %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
	for _, set := range a.cfg.Sets {
		if err := a.setStatus(set); err != nil {
			return fmt.Errorf("network %s: %w", a.network, err)
		}
	}
	return nil
}

func (a *Allocator) setStatus(set ipam.RangeSet) error {
	leased := uint32(0)
	var last *table
	for _, rng := range set {
		t, err := a.peek(rng)
		if err != nil {
			return err
		}
		if t == nil || t.leased < t.usable() {
			return nil
		}
		leased, last = leased+t.leased, t
	}
	if leased > statusRecheck {
		return fmt.Errorf("%w: %s", ipam.ErrExhausted, exhaustion(last))
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusWait)
	defer cancel()
	err := a.locked(ctx, false, func(s *session) error {
		_, err := s.chooseAny(set)
		return err
	})
	switch {
	case errors.Is(err, ipam.ErrBusy): // then what the headers said has to do
		return fmt.Errorf("%w: %s", ipam.ErrExhausted, exhaustion(last))
	case errors.Is(err, errNoStore): // removed meanwhile
		return nil
	}
	return err
}

// peek reads a table's header without the lock. It returns nil when there is none or when it is being written: then nothing
// speaks against an allocation.
func (a *Allocator) peek(rng ipam.Range) (*table, error) {
	t, err := describeTable(a.path("slots", rng.String()), rng, a.cfg), error(nil)
	if t.file, err = open(t.path, unix.O_RDONLY); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer t.file.close()
	if known, err := t.load(); !known {
		if errors.Is(err, errInconsistent) {
			return nil, nil
		}
		return nil, err
	}
	return t, nil
}
