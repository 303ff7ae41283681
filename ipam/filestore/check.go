package filestore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/ipam"
)

// table opens the range's slot table, and builds it when it is not there or not to be trusted.
func (s *session) table(rng ipam.Range) (*table, error) {
	if t := s.tables[rng]; t != nil {
		return t, nil
	}
	path := s.path("slots", rng.String())
	t, err := newTable(path, rng, s.cfg)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeDirs(); err != nil {
			return nil, err
		}
		t, err = newTable(path, rng, s.cfg)
	}
	if err != nil {
		return nil, err
	}
	known, err := t.load()
	if errors.Is(err, errInconsistent) {
		err = s.rebuild(t, known)
	}
	if err != nil {
		t.file.close()
		return nil, err
	}
	s.tables[rng] = t
	return t, nil
}

// onTable runs fn on the range's table, and once more on a new one if it finds the table inconsistent.
func (s *session) onTable(rng ipam.Range, fn func(*table) error) error {
	t, err := s.table(rng)
	if err != nil {
		return err
	}
	err = fn(t)
	if errors.Is(err, errInconsistent) {
		if err := s.rebuild(t, false); err != nil {
			return err
		}
		err = fn(t)
	}
	if err != nil && !errors.Is(err, ipam.ErrExhausted) {
		t.broken = true
		return fmt.Errorf("slot table of range %s: %w", rng, err)
	}
	return err
}

// rebuild writes the table anew from the names in addresses/. With known its slots can be read, and the order of release is taken over
// from them; else every address below the highest leased one that is not leased counts as released just now.
func (s *session) rebuild(t *table, known bool) error {
	if !known {
		if err := s.check(); err != nil {
			return err
		}
		t.header = header{capacity: t.capacity}
	}
	leased, err := s.leasedSlots(t)
	if err != nil {
		return err
	}
	for _, at := range leased {
		t.used = max(t.used, at+1)
	}
	t.used = max(t.used, t.fresh)
	state, err := t.states(known)
	if err != nil {
		return err
	}
	now := releasedAt(s.now())
	if !known && len(leased) > 0 {
		t.fresh = t.used
		for at := range t.fresh {
			state[at] = now
		}
	}
	for at := range state { // leased before, and not by its name: released by a process that was killed
		if state[at] == stateLeased {
			state[at] = now
		}
	}
	for at := range t.fresh { // looked at and left: only gateways are
		if state[at] == stateFresh {
			state[at] = stateReleased
		}
	}
	for _, at := range leased {
		state[at] = stateLeased
	}
	for _, at := range t.reserved {
		if at < t.used {
			state[at] = stateFresh
		}
	}
	t.leased, t.checked = uint32(len(leased)), now-stateReleased
	return t.write(state)
}

// leasedSlots returns the slots of the addresses that have a name in addresses/.
func (s *session) leasedSlots(t *table) ([]uint32, error) {
	list, err := names(s.path("addresses"))
	if err != nil {
		return nil, err
	}
	var leased []uint32
	for _, name := range list {
		ip, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		if at, ok := t.rng.Offset(ip); ok && at < uint64(t.capacity) && !t.isReserved(uint32(at)) {
			leased = append(leased, uint32(at))
		}
	}
	return leased, nil
}

// states reads the state of each used slot; without known all are fresh.
func (t *table) states(known bool) ([]uint32, error) {
	state := make([]uint32, t.used)
	if !known {
		return state, nil
	}
	buf := make([]byte, slotSize*int(t.used))
	if _, err := t.readAt(buf, headerSize); err != nil {
		return nil, err
	}
	for at := range state {
		state[at] = decodeSlot(buf[at*slotSize:]).state
	}
	return state, nil
}

// write replaces the slots in use. The queue is in the order of release, and of addresses where that is the same.
func (t *table) write(state []uint32) error {
	t.touched = false
	if err := t.touch(); err != nil {
		return err
	}
	if err := t.truncate(headerSize); err != nil { // the rest reads as zero: fresh
		return err
	}
	if err := t.truncate(t.size()); err != nil {
		return err
	}
	failpoint.Hit("ipam-slots-emptied")
	var queue []uint32
	for at, st := range state {
		if st >= stateReleased {
			queue = append(queue, uint32(at))
		}
	}
	slices.SortStableFunc(queue, func(a, b uint32) int { return cmp.Compare(state[a], state[b]) })
	slots := make([]slot, len(state))
	for at := range slots {
		slots[at].state = state[at]
	}
	t.head, t.tail, t.resting = 0, 0, uint32(len(queue))
	for _, at := range queue {
		slots[at].prev = t.tail
		if t.tail == 0 {
			t.head = at + 1
		} else {
			slots[t.tail-1].next = at + 1
		}
		t.tail = at + 1
	}
	buf := make([]byte, 0, slotSize*len(slots))
	for _, sl := range slots {
		buf = appendSlot(buf, sl)
	}
	return t.writeAt(buf, headerSize)
}

// examine checks the whole store, slot tables included.
func (s *session) examine() error {
	if err := s.check(); err != nil {
		return err
	}
	for _, set := range s.cfg.Sets {
		for _, rng := range set {
			if err := s.onTable(rng, s.examineTable); err != nil {
				return err
			}
		}
	}
	return nil
}

// examineTable returns errInconsistent for a table whose slots contradict the names in addresses/, its header, or each other. Otherwise, damage to
// a slot is found when somebody comes across it.
func (s *session) examineTable(t *table) error {
	leased, err := s.leasedSlots(t)
	if err != nil {
		return err
	}
	state, err := t.states(true)
	if err != nil {
		return err
	}
	var taken, queued uint32
	for at, st := range state {
		switch {
		case st == stateLeased:
			taken++
		case st >= stateReleased:
			queued++
		case uint32(at) < t.fresh && !t.isReserved(uint32(at)):
			return errInconsistent // nobody would be offered this address
		}
	}
	for _, at := range leased {
		if int(at) >= len(state) || state[at] != stateLeased {
			return errInconsistent
		}
	}
	if taken != uint32(len(leased)) || t.leased != taken || t.resting != queued {
		return errInconsistent
	}
	var last slot
	var number, walked uint32
	for next := t.head; next != 0; walked++ {
		here, err := t.slot(next)
		if err != nil {
			return err
		}
		if here.prev != number || here.state < max(last.state, stateReleased) || walked == queued {
			return errInconsistent
		}
		last, number, next = here, next, here.next
	}
	if walked != queued || t.tail != number {
		return errInconsistent
	}
	return nil
}

// check compares leases/ with addresses/ and repairs what hands or copies have pulled apart: a lease without its names gets
// them back, names without a lease go. Kills cannot cause either. It reads every record.
func (s *session) check() error {
	if s.checked {
		return nil
	}
	s.checked = true
	list, err := names(s.path("leases"))
	if err != nil {
		return err
	}
	byInode := map[uint64]bool{}
	for _, name := range list {
		owner, ok := parseOwnerName(name)
		if !ok {
			s.log.Warn("not a lease record; it is left alone", "file", s.path("leases", name))
			continue
		}
		rec, err := s.read(owner)
		if err != nil {
			s.log.Warn("a lease record cannot be read", "error", err)
			continue
		}
		byInode[rec.id.inode] = true
		if rec.damage != nil || rec.id.links == 1+uint64(len(rec.lease.Addresses)) {
			continue
		}
		if err := s.restoreNames(rec); err != nil {
			return err
		}
	}
	return s.dropOrphans(byInode)
}

// restoreNames makes the links in addresses/ that a sound record should have.
func (s *session) restoreNames(rec stored) error {
	for _, a := range rec.lease.Addresses {
		ip := a.Prefix.Addr()
		if exists(s.claimPath(ip)) {
			continue
		}
		s.log.Warn("the name of a leased address was missing", "address", ip, "owner", rec.lease.Owner)
		if err := link(s.leasePath(rec.lease.Owner), s.claimPath(ip)); err != nil {
			return err
		}
	}
	return nil
}

// dropOrphans looks at every name in addresses/ that is not a link to a lease in leases/.
func (s *session) dropOrphans(leases map[uint64]bool) error {
	list, err := names(s.path("addresses"))
	if err != nil {
		return err
	}
	for _, name := range list {
		path := s.path("addresses", name)
		id, err := identify(path)
		if err != nil || leases[id.inode] {
			continue
		}
		ip, err := netip.ParseAddr(name)
		if err != nil {
			s.log.Warn("not the name of an address; it is left alone", "file", path)
			continue
		}
		rec, err := s.readPath(path)
		if err != nil || rec.damage != nil {
			s.log.Warn("the owner of an address cannot be told; it stays taken", "error", errors.Join(err, rec.damage))
			continue
		}
		if err := s.orphan(ip, rec, leases); err != nil {
			return err
		}
	}
	return nil
}

// orphan decides on a name whose record is not in leases/ under this inode. When the record's owner has another, damaged or copied
// record there that may stand for the same address, that one is replaced by this; else the address is free.
func (s *session) orphan(ip netip.Addr, rec stored, leases map[uint64]bool) error {
	owner := rec.lease.Owner
	other, err := s.readPath(s.leasePath(owner))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the record of an address's owner cannot be read; it stays taken", "address", ip, "error", err)
		return nil
	}
	if err != nil || other.damage == nil && !leaseHas(other.lease, ip) {
		s.log.Warn("an address without a lease is free again", "address", ip, "owner", owner)
		s.freed = append(s.freed, ip)
		return unlink(s.claimPath(ip))
	}
	s.log.Warn("a lease record was not the one that its addresses name; theirs is put in its place", "owner", owner)
	leases[rec.id.inode] = true
	if err := unlink(s.path("repair")); err != nil {
		return err
	}
	if err := link(s.claimPath(ip), s.path("repair")); err != nil {
		return err
	}
	return rename(s.path("repair"), s.leasePath(owner))
}
