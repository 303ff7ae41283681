package attachments

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// releaseAtOnce is how many dead pods are released before ADDs that wait get their turn.
const releaseAtOnce = 8

// scene is what there is of all attachments at one look.
type scene struct {
	records []Record
	leases  []ipam.Lease
	links   []kernel.PodLink
	shapers map[string]kernel.PodOwner // by device
	gone    func(path string, inode uint64) bool
}

// suspect is an attachment that looks dead.
type suspect struct {
	print     string // what was found; another ADD of the same owner leaves something else
	pod       string // namespace/name, for people
	uid       string // the pod's, if it is known
	addresses []netip.Prefix
	shapers   []string
}

// dead returns the attachments of the network whose network namespace and host link are gone, and owners of shapers of whom nothing else is
// left at all. What cannot be told, such as the namespace of a record that cannot be read, counts as alive.
func (s scene) dead(network string) map[kernel.PodOwner]suspect {
	dead, alive := map[kernel.PodOwner]suspect{}, map[kernel.PodOwner]bool{}
	for _, l := range s.links {
		alive[l.Owner] = true
	}
	leases := map[kernel.PodOwner]ipam.Lease{}
	for _, l := range s.leases {
		leases[kernel.PodOwner{ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName}] = l
	}
	for _, r := range s.records {
		lease, leased := leases[r.Owner()]
		if r.Network != network {
			alive[r.Owner()] = alive[r.Owner()] || !leased // its shaper is another network's business
			continue
		}
		delete(leases, r.Owner())
		if r.Adding || r.Damage != nil && !leased {
			alive[r.Owner()] = true
			continue
		}
		path, inode := r.Netns, uint64(0)
		if r.Damage != nil || lease.Netns == r.Netns {
			path, inode = lease.Netns, lease.NetnsInode
		}
		if path == "" || !s.gone(path, inode) {
			alive[r.Owner()] = true
			continue
		}
		dead[r.Owner()] = suspect{print: printOf(r, lease), pod: r.Pod, uid: r.PodUID, addresses: addressesOf(r, lease)}
	}
	for owner, lease := range leases {
		if lease.Netns == "" || !s.gone(lease.Netns, lease.NetnsInode) {
			alive[owner] = true
			continue
		}
		dead[owner] = suspect{print: printOf(Record{}, lease), pod: lease.Pod, addresses: addressesOf(Record{}, lease)}
	}
	for _, device := range slices.Sorted(maps.Keys(s.shapers)) {
		owner := s.shapers[device]
		sus := dead[owner]
		sus.shapers = append(sus.shapers, device)
		dead[owner] = sus
	}
	maps.DeleteFunc(dead, func(owner kernel.PodOwner, _ suspect) bool { return alive[owner] })
	return dead
}

// printOf tells one ADD's traces from another's.
func printOf(r Record, l ipam.Lease) string {
	return fmt.Sprint(r.Complete, r.Netns, r.HostLink, r.Addresses, r.PortMappings, l.Netns, l.NetnsInode, l.Created.UnixNano(), l.Addresses)
}

func addressesOf(r Record, l ipam.Lease) []netip.Prefix {
	if len(l.Addresses) == 0 {
		return r.Addresses
	}
	var out []netip.Prefix
	for _, a := range l.Addresses {
		out = append(out, a.Prefix)
	}
	return out
}

// strangers returns the owners of links that no record tells of.
func (s scene) strangers() map[kernel.PodOwner]bool {
	out := map[kernel.PodOwner]bool{}
	for _, l := range s.links {
		out[l.Owner] = true
	}
	for _, r := range s.records {
		delete(out, r.Owner())
	}
	return out
}

// ledger remembers since when attachments look dead, look after look.
type ledger map[kernel.PodOwner]sighting

type sighting struct {
	print string
	since time.Time
}

// see enters a look and returns the attachments that have looked dead, and the same, for at least delay; and when the next one will
// have, zero if there is none. One that was not dead in this look, or is another one now, starts anew.
func (l ledger) see(now time.Time, dead map[kernel.PodOwner]suspect, delay time.Duration) (due []kernel.PodOwner, next time.Time) {
	maps.DeleteFunc(l, func(owner kernel.PodOwner, s sighting) bool {
		sus, still := dead[owner]
		return !still || sus.print != s.print
	})
	for owner, sus := range dead {
		s, known := l[owner]
		if !known {
			s = sighting{sus.print, now}
			l[owner] = s
		}
		at := s.since.Add(delay)
		if known && !now.Before(at) {
			due = append(due, owner)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	slices.SortFunc(due, func(a, b kernel.PodOwner) int { return strings.Compare(a.String(), b.String()) })
	return due, next
}

// look reads the scene. Links and shapers come first: what an ADD has made has a record before.
func (k *Keeper) look() (scene, error) {
	s := scene{gone: k.opts.Host.NetnsGone}
	var linkErr, shaperErr, leaseErr, recordErr error
	s.links, linkErr = k.opts.Host.PodLinks()
	s.shapers, shaperErr = k.opts.Host.Shapers()
	s.leases, leaseErr = k.opts.Host.Leases()
	s.records, recordErr = k.opts.Host.Records()
	if errors.Is(leaseErr, ipam.ErrDamaged) { // the list is whole all the same
		k.complain("lease records", leaseErr)
		leaseErr = nil
	}
	return s, errors.Join(linkErr, shaperErr, leaseErr, recordErr)
}

// releaseDead looks for dead attachments and releases those that have been dead for long enough. It returns after which time to look again.
func (k *Keeper) releaseDead(ctx context.Context) time.Duration {
	s, err := k.look()
	if errors.Is(err, ErrNoNetwork) {
		return never
	}
	k.complain("dead pods", err)
	if err != nil {
		return retryDelay
	}
	k.tellStrangers(s.strangers())
	now := time.Now()
	due, next := k.ledger.see(now, s.dead(k.opts.Network), k.opts.Delay)
	again := never
	if !next.IsZero() {
		again = next.Sub(now)
	}
	if len(due) == 0 {
		return again
	}
	more, err := k.release(ctx, due[:min(len(due), releaseAtOnce)])
	k.complain("release dead pods", err)
	switch {
	case ctx.Err() != nil:
		return never
	case err != nil:
		return retryDelay
	case more:
		return busyDelay
	case len(due) > releaseAtOnce:
		return 0
	}
	return again
}

// release looks once more while no ADD runs, and releases those of the owners that are still what they were. It reports whether that
// has to wait because ADDs run.
func (k *Keeper) release(ctx context.Context, owners []kernel.PodOwner) (busy bool, err error) {
	var errs []error
	ran, err := k.opts.Host.Exclusively(func() {
		s, err := k.look()
		if err != nil {
			errs = append(errs, err)
			return
		}
		dead := s.dead(k.opts.Network)
		for _, owner := range owners {
			sus, still := dead[owner]
			if !still || sus.print != k.ledger[owner].print || ctx.Err() != nil {
				continue
			}
			if err := k.releaseOne(ctx, owner, sus); err != nil {
				errs = append(errs, fmt.Errorf("release what is left of pod %s: %w", owner, err))
			}
		}
	})
	return !ran && err == nil, errors.Join(append(errs, err)...)
}

func (k *Keeper) releaseOne(ctx context.Context, owner kernel.PodOwner, sus suspect) error {
	if err := k.opts.Host.Release(ctx, owner); err != nil {
		return err
	}
	for _, device := range sus.shapers { // those that the record did not tell of
		if _, err := k.opts.Host.Unshape(device, owner); err != nil {
			return err
		}
	}
	delete(k.ledger, owner)
	k.opts.Observer.Released()
	k.opts.Log.Info("released what was left of a dead pod", "attachment", owner, "pod", sus.pod, "addresses", sus.addresses, "shapers", sus.shapers)
	k.tell(refOf(sus.pod, sus.uid), store.Event{Reason: reasonReleased,
		Message: "The pod's network namespace is gone, and no CNI DEL came; Twill released what was left of it"})
	return nil
}

// tellStrangers logs links without a record, once each.
func (k *Keeper) tellStrangers(now map[kernel.PodOwner]bool) {
	for owner := range now {
		if !k.strangers[owner] {
			k.opts.Log.Warn("a pod's link has no record; it is left alone", "attachment", owner)
		}
	}
	k.strangers = now
}
