package filestore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/ipam"
)

// Release ends the owner's lease and returns true. When there was none it returns false and no error. It needs neither the
// record's content nor the range that the addresses came from.
func (a *Allocator) Release(ctx context.Context, owner ipam.Owner) (bool, error) {
	_, found, err := a.release(ctx, owner)
	return found, err
}

// release also returns what the lease was.
func (a *Allocator) release(ctx context.Context, owner ipam.Owner) (lease ipam.Lease, found bool, err error) {
	if err := owner.Validate(); err != nil {
		return ipam.Lease{}, false, err
	}
	err = a.locked(ctx, false, func(s *session) error {
		failpoint.Hit("ipam-release-locked")
		rec, err := s.read(owner)
		if err != nil {
			return err
		}
		if err := rename(s.leasePath(owner), s.path("pending")); err != nil {
			return err
		}
		failpoint.Hit("ipam-release-renamed")
		lease, found = rec.lease, true
		return s.settle(&rec)
	})
	switch {
	case errors.Is(err, errNoStore), errors.Is(err, ipam.ErrNotFound):
		return ipam.Lease{}, false, nil
	case err != nil:
		return lease, found, fmt.Errorf("release the addresses of %s in network %s: %w", owner, a.network, err)
	}
	return lease, true, nil
}

// settle ends what the record named "pending" stands for, if there is one: the lease of an Allocate that did not come to its end, or that
// of a Release. In both cases the addresses become free. known is the record if the caller has just read it.
func (s *session) settle(known *stored) error {
	var rec stored
	if known != nil {
		rec = *known
	} else {
		if !exists(s.path("pending")) {
			return nil
		}
		var err error
		if rec, err = s.readPath(s.path("pending")); err != nil {
			return err
		}
	}
	ips, err := s.claims(rec)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if err := s.putBack(ip); err != nil {
			return err
		}
		failpoint.Hit("ipam-release-slot")
		if err := unlink(s.claimPath(ip)); err != nil {
			return err
		}
		failpoint.Hit("ipam-release-claim")
	}
	if err := unlink(s.path("pending")); err != nil {
		return err
	}
	failpoint.Hit("ipam-release-unlinked")
	return nil
}

// claims returns the addresses whose names are links to the record. The record's content is believed only where the names bear it out.
func (a *Allocator) claims(rec stored) ([]netip.Addr, error) {
	if rec.id.links <= 1 {
		return nil, nil
	}
	if rec.damage == nil && rec.id.links == 1+uint64(len(rec.lease.Addresses)) {
		ips := make([]netip.Addr, 0, len(rec.lease.Addresses))
		for _, address := range rec.lease.Addresses {
			ip := address.Prefix.Addr()
			id, err := identify(a.claimPath(ip))
			if err != nil || id.inode != rec.id.inode {
				break
			}
			ips = append(ips, ip)
		}
		if len(ips) == len(rec.lease.Addresses) {
			return ips, nil
		}
	}
	return a.claimsOf(rec.id.inode)
}

// claimsOf searches all names in addresses/ for links to the inode, sorted.
func (a *Allocator) claimsOf(inode uint64) ([]netip.Addr, error) {
	list, err := names(a.path("addresses"))
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, name := range list {
		ip, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		id, err := identify(a.path("addresses", name))
		if err == nil && id.inode == inode {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return ips, nil
}

// putBack queues the address in its range's table. An address of a range that is not configured any more has none. When no range
// is known at all (ipam.ParseForRelease), every table goes, to be built anew by whoever knows the ranges.
func (s *session) putBack(ip netip.Addr) error {
	if len(s.cfg.Sets) == 0 {
		return s.dropTables()
	}
	for _, set := range s.cfg.Sets {
		if rng, ok := set.Find(ip); ok {
			return s.onTable(rng, func(t *table) error { return t.putIP(ip, s.now()) })
		}
	}
	return nil
}

func (s *session) dropTables() error {
	list, err := names(s.path("slots"))
	for _, name := range list {
		err = errors.Join(err, unlink(s.path("slots", name)))
	}
	return err
}

// Retain releases the leases of all owners that are not in valid and returns what it released. It goes on past errors and
// returns them joined. It leaves records, names and slot tables that agree with each other. As with CNI's GC, no Allocate may run between the time that valid describes and Retain's return.
func (a *Allocator) Retain(ctx context.Context, valid []ipam.Owner) ([]ipam.Lease, error) {
	keep := make(map[ipam.Owner]bool, len(valid))
	for _, o := range valid {
		keep[o] = true
	}
	list, err := names(a.path("leases"))
	if err != nil {
		return nil, fmt.Errorf("list the leases of network %s: %w", a.network, err)
	}
	slices.Sort(list)
	var freed []ipam.Lease
	var errs []error
	for _, name := range list {
		owner, ok := parseOwnerName(name)
		if !ok || keep[owner] {
			continue
		}
		lease, found, err := a.release(ctx, owner)
		if err != nil {
			errs = append(errs, err)
		}
		if found {
			freed = append(freed, lease)
		}
	}
	err = a.locked(ctx, false, (*session).examine)
	if err != nil && !errors.Is(err, errNoStore) {
		errs = append(errs, fmt.Errorf("check the store of network %s: %w", a.network, err))
	}
	return freed, errors.Join(errs...)
}
