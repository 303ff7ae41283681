package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/ipam"
)

// Allocator allocates addresses of one network. Its methods may be called concurrently, by any number of goroutines and
// processes. It holds nothing open between calls.
type Allocator struct {
	cfg     ipam.Config
	network string
	dir     string // of the network
	log     *slog.Logger
	now     func() time.Duration // since boot
	wall    func() time.Time     // for the eyes of people only
	bootID  string
}

// Option changes what Open sets up.
type Option func(*Allocator)

// WithLogger has repairs and damaged records reported; without it they are silent.
func WithLogger(log *slog.Logger) Option { return func(a *Allocator) { a.log = log } }

// WithClock replaces the clock that quarantine is measured with. It must be one that all processes share and that does
// not go back; unless set it is CLOCK_BOOTTIME.
func WithClock(sinceBoot func() time.Duration) Option {
	return func(a *Allocator) { a.now = sinceBoot }
}

// Open returns the allocator of the CNI network with the given name. It reads the machine's boot id and touches nothing on
// disk: the store is made by the first Allocate.
func Open(cfg ipam.Config, network string, options ...Option) (*Allocator, error) {
	if err := ipam.ValidateNetwork(network); err != nil {
		return nil, err
	}
	a := &Allocator{
		cfg: cfg, network: network, dir: filepath.Join(cfg.DataDir, network),
		log: slog.New(slog.DiscardHandler), now: bootTime, wall: time.Now,
	}
	id, err := readSmall("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	a.bootID = strings.TrimSpace(string(id))
	for _, o := range options {
		o(a)
	}
	return a, nil
}

// bootTime is the time since boot, time spent in suspend included.
func bootTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails only for a clock or a pointer that is not valid
	return time.Duration(ts.Nano())
}

func (a *Allocator) path(elem ...string) string {
	return a.dir + "/" + strings.Join(elem, "/")
}

// Names of owners and addresses are single, safe path elements: Owner.Validate excludes slashes, and a colon in either part.
func ownerName(o ipam.Owner) string { return o.ContainerID + ":" + o.IfName }

func parseOwnerName(name string) (ipam.Owner, bool) {
	id, ifName, ok := strings.Cut(name, ":")
	o := ipam.Owner{ContainerID: id, IfName: ifName}
	return o, ok && o.Validate() == nil
}

func (a *Allocator) leasePath(o ipam.Owner) string { return a.path("leases", ownerName(o)) }

func (a *Allocator) claimPath(ip netip.Addr) string { return a.path("addresses", ip.String()) }

// Allocate gives the owner one address of each range set, or none at all, and returns when the lease is recorded. An owner that holds
// a lease gets the same again, unless it asks for addresses that are not in it.
//
// Errors wrap ipam.ErrExhausted when a range set has no address left, ipam.ErrUnavailable when a requested address is
// taken, reserved or in no range, and ipam.ErrBusy when ctx ended before the store could be locked.
func (a *Allocator) Allocate(ctx context.Context, req ipam.Request) (ipam.Lease, error) {
	if err := req.Owner.Validate(); err != nil {
		return ipam.Lease{}, err
	}
	var lease ipam.Lease
	err := a.locked(ctx, true, func(s *session) error {
		var err error
		failpoint.Hit("ipam-allocate-locked")
		lease, err = s.allocate(req)
		if errors.Is(err, fs.ErrNotExist) { // somebody removed a directory
			if err := s.makeDirs(); err != nil {
				return err
			}
			lease, err = s.allocate(req)
		}
		return err
	})
	if err != nil {
		return ipam.Lease{}, fmt.Errorf("allocate addresses for %s in network %s: %w", req.Owner, a.network, err)
	}
	return lease, nil
}

func (s *session) allocate(req ipam.Request) (ipam.Lease, error) {
	held, err := s.held(req)
	if err == nil || !errors.Is(err, ipam.ErrNotFound) {
		return held, err
	}
	picks, err := s.choose(req)
	if err != nil {
		return ipam.Lease{}, err
	}
	failpoint.Hit("ipam-allocate-chosen")
	lease := ipam.Lease{
		Owner: req.Owner, Netns: req.Netns, NetnsInode: netnsInode(req.Netns), Pod: req.Pod,
		Created: s.wall().Truncate(time.Millisecond),
	}
	for _, p := range picks {
		lease.Addresses = append(lease.Addresses, ipam.Address{
			Prefix: netip.PrefixFrom(p.ip, p.rng.Subnet.Bits()), Gateway: p.rng.Gateway,
		})
	}
	return lease, s.commit(lease, picks)
}

// commit records the lease. Until the last rename the record's name is "pending", which tells whoever comes after a kill to undo
// what was done.
func (s *session) commit(lease ipam.Lease, picks []pick) error {
	if err := s.writePending(lease); err != nil {
		return errors.Join(err, s.settle(nil))
	}
	failpoint.Hit("ipam-allocate-written")
	err := func() error {
		for _, p := range picks {
			if err := s.onTable(p.rng, func(t *table) error { return t.takeIP(p.ip) }); err != nil {
				return err
			}
		}
		failpoint.Hit("ipam-allocate-taken")
		for i, p := range picks {
			if err := link(s.path("pending"), s.claimPath(p.ip)); err != nil {
				return err
			}
			if i == 0 {
				failpoint.Hit("ipam-allocate-first-claim")
			}
		}
		failpoint.Hit("ipam-allocate-claimed")
		return rename(s.path("pending"), s.leasePath(lease.Owner))
	}()
	if err == nil {
		failpoint.Hit("ipam-allocate-committed")
		return nil
	}
	errs := []error{err, s.settle(nil)}
	for _, p := range picks { // those that were taken and not yet claimed
		if !exists(s.claimPath(p.ip)) {
			errs = append(errs, s.putBack(p.ip))
		}
	}
	return errors.Join(errs...)
}

func (s *session) writePending(lease ipam.Lease) error {
	data, err := ipam.EncodeLease(lease)
	if err != nil {
		return err
	}
	f, err := open(s.path("pending"), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.close()
	failpoint.Hit("ipam-allocate-created")
	return f.writeAt(data, 0)
}

// held returns the lease that the owner has, and ipam.ErrNotFound when there is none.
func (s *session) held(req ipam.Request) (ipam.Lease, error) {
	rec, err := s.read(req.Owner)
	if err != nil {
		return ipam.Lease{}, err
	}
	if rec.damage != nil {
		return s.rewrite(rec, req)
	}
	return rec.lease, s.matches(rec.lease, req)
}

// matches checks that a lease is an answer to the request: all addresses asked for, and one of each range set.
func (s *session) matches(lease ipam.Lease, req ipam.Request) error {
	for _, ip := range req.IPs {
		if !leaseHas(lease, ip) {
			return fmt.Errorf("%s: %w: the owner holds %s", ip, ipam.ErrUnavailable, describe(lease))
		}
	}
	for _, set := range s.cfg.Sets {
		found := false
		for _, a := range lease.Addresses {
			_, in := set.Find(a.Prefix.Addr())
			found = found || in
		}
		if !found {
			return fmt.Errorf("the owner holds %s, which has no address of range set %s; release it first", describe(lease), describeSet(set))
		}
	}
	return nil
}

// rewrite replaces the content of a damaged record by what the names in addresses/ still tell. A record that has no address left
// is released.
func (s *session) rewrite(rec stored, req ipam.Request) (ipam.Lease, error) {
	lease := rec.lease // its addresses are those that the names tell
	if len(lease.Addresses) == 0 {
		if err := rename(s.leasePath(req.Owner), s.path("pending")); err != nil {
			return ipam.Lease{}, err
		}
		return ipam.Lease{}, errors.Join(ipam.ErrNotFound, s.settle(nil))
	}
	if err := s.matches(lease, req); err != nil {
		return ipam.Lease{}, err
	}
	lease.Netns, lease.NetnsInode, lease.Pod = req.Netns, netnsInode(req.Netns), req.Pod
	lease.Created = s.wall().Truncate(time.Millisecond)
	data, err := ipam.EncodeLease(lease)
	if err != nil {
		return ipam.Lease{}, err
	}
	f, err := open(s.leasePath(req.Owner), unix.O_WRONLY) // in place: the names in addresses/ must stay links to it
	if err != nil {
		return ipam.Lease{}, err
	}
	defer f.close()
	if err := f.writeAt(data, 0); err != nil {
		return ipam.Lease{}, err
	}
	return lease, f.truncate(int64(len(data)))
}

func leaseHas(lease ipam.Lease, ip netip.Addr) bool {
	for _, a := range lease.Addresses {
		if a.Prefix.Addr() == ip {
			return true
		}
	}
	return false
}

func describe(lease ipam.Lease) string {
	list := make([]string, len(lease.Addresses))
	for i, a := range lease.Addresses {
		list[i] = a.Prefix.Addr().String()
	}
	return strings.Join(list, " and ")
}

func describeSet(set ipam.RangeSet) string {
	list := make([]string, len(set))
	for i, r := range set {
		list[i] = r.String()
	}
	return strings.Join(list, ", ")
}

// netnsInode is the inode number behind the path of a network namespace, 0 when there is none.
func netnsInode(path string) uint64 {
	var st unix.Stat_t
	if path == "" || unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// NetnsGone reports whether the network namespace that the lease was made for has ended: its path is gone or leads to another
// one. It returns false when the lease does not tell, or the path cannot be looked at.
func NetnsGone(l ipam.Lease) bool {
	if l.Netns == "" || l.NetnsInode == 0 {
		return false
	}
	var st unix.Stat_t
	err := unix.Stat(l.Netns, &st)
	return errors.Is(err, fs.ErrNotExist) || err == nil && st.Ino != l.NetnsInode
}
