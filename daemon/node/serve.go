package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/store"
)

// serve registers the node and keeps the kernel in step until ctx ends. When another node took the subnets, it registers for
// others.
func (s *server) serve(ctx context.Context) error {
	for ctx.Err() == nil {
		reg := s.register(ctx)
		if reg == nil {
			return nil
		}
		s.use(reg)
		err := s.loop(ctx)
		s.use(nil)
		closeErr := reg.Close()
		if !errors.Is(err, store.ErrLost) {
			return closeErr
		}
		s.n.status.set(err)
		s.n.opts.Log.Error("another node holds this node's subnets: registering for others; pods must be made again",
			"subnet", reg.Lease().Subnet, "ipv6Subnet", reg.Lease().IPv6Subnet, "err", err)
	}
	return nil
}

func (s *server) use(reg store.Registration) {
	s.reg = reg
	s.n.status.setRegistration(reg)
}

// loop syncs whenever something is dirty. It returns nil when ctx ended, and store.ErrLost when the registration is lost.
func (s *server) loop(ctx context.Context) error {
	var (
		retry   = backoff{jitter: s.n.opts.Jitter}
		pace    pacer
		pending = markResync // what the next sync is for
		resync  = time.NewTimer(s.resyncIn())
		due     = time.NewTimer(0)
	)
	defer resync.Stop()
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-resync.C:
			s.n.mark(markResync)
			resync.Reset(s.resyncIn())
		case <-s.reg.Lost():
			return store.ErrLost
		case <-s.n.wake:
			if m := s.n.take(); m != 0 {
				pending |= m
				due.Reset(pace.wait(time.Now(), pending))
			}
		case <-due.C:
			snap := s.n.snapshot.Load()
			if snap == nil {
				s.n.status.set(errNoSnapshot)
				continue // the snapshot will wake the loop
			}
			pace.started(time.Now(), pending)
			if err := s.step(ctx, pending, *snap); err != nil {
				// The dataplane reads again what failed; reading everything each time would cost a large node dearly.
				pending = pending&^markResync | markRetry
				due.Reset(retry.next())
				continue
			}
			pending = 0
			retry.reset()
		}
	}
}

func (s *server) resyncIn() time.Duration { return resyncEvery + s.n.opts.Jitter(resyncJitter) }

// step does one sync with all that belongs to it, and tells of it.
func (s *server) step(ctx context.Context, what mark, snap store.Snapshot) error {
	begin := time.Now()
	s.n.status.begin(begin)
	report, err := s.sync(ctx, what, snap)
	if ctx.Err() != nil {
		return nil // cut short: says nothing about the node
	}
	report.Err, report.End = err, time.Now()
	report.Duration = report.End.Sub(begin)
	report.Behind = err == nil && s.behind(snap)
	s.n.status.end(report)
	s.told.synced(report)
	if s.n.opts.Observer != nil {
		s.n.opts.Observer.Synced(report)
	}
	if what&markResync != 0 {
		s.housekeep(ctx)
	}
	return err
}

// behind reports whether the node is not ready yet although a sync went well: the first one takes long, since it makes devices and installs
// plugins, and peers that registered meanwhile are not programmed. What comes after that is the way of all changes.
func (s *server) behind(synced store.Snapshot) bool {
	if s.first == 0 {
		s.first = s.n.snapshot.Load().Revision
	}
	return synced.Revision < s.first
}

// sync follows the uplink, makes the kernel hold what the snapshot asks for and announces the node.
func (s *server) sync(ctx context.Context, what mark, snap store.Snapshot) (Report, error) {
	var errs []error
	if what&(markUplink|markResync|markRetry) != 0 {
		errs = append(errs, s.followUplink())
	}
	if what&^markDrift != 0 {
		errs = append(errs, s.publish())
	}
	if what&(markResync|markRetry) != 0 {
		errs = append(errs, s.forward())
	}
	if what&markResync != 0 {
		s.n.opts.Dataplane.Resync()
	}
	state, rejected, err := s.render(snap)
	report := Report{Peers: s.reached(state.Fragments), Rejected: len(rejected), Learning: state.KeepStale, Drift: what&markDrift != 0 && what&^kernelMarks == 0}
	s.told.rejected(rejected)
	if err != nil {
		return report, errors.Join(append(errs, err)...)
	}
	s.want(state, snap.Leases, rejected)
	if err := s.leftovers(ctx); err != nil {
		return report, errors.Join(append(errs, err)...)
	}
	errs = append(errs, s.watcher.follow(s.uplink, state.Links))
	failpoint.Hit("sync-begin")
	report.Result, err = s.n.opts.Dataplane.Sync(ctx, state)
	failpoint.Hit("sync-end")
	errs = append(errs, troubled(err))
	if serves(report.Result) {
		errs = append(errs, s.announce(what))
	}
	return report, errors.Join(errs...)
}

// leftovers asks for what another network left, until there was nothing. What appears later is drift.
func (s *server) leftovers(ctx context.Context) error {
	if s.clear || s.n.opts.Leftovers == nil {
		return nil
	}
	err := s.n.opts.Leftovers(ctx, s.reg.Lease().Subnets())
	s.clear = err == nil
	return troubled(err)
}

// troubled gives an error that only a person can mend its reason.
func troubled(err error) error {
	switch {
	case errors.Is(err, kernel.ErrUnsupported):
		return &store.Trouble{Reason: store.ReasonKernelFeatureMissing, Err: err}
	case errors.Is(err, kernel.ErrInTheWay):
		return &store.Trouble{Reason: store.ReasonLeftover, Err: err}
	}
	return err
}

// reached counts the fragments that lead somewhere: all of them, unless the backend learned them.
func (s *server) reached(fragments []*kernel.Fragment) int {
	if s.learner == nil {
		return len(fragments)
	}
	n := 0
	for _, f := range fragments {
		if slices.ContainsFunc(f.Routes, func(r kernel.Route) bool { return r.Type == kernel.Unicast }) {
			n++
		}
	}
	return n
}

// serves reports whether pods can be attached: the links and tables are there. One peer that the kernel refuses must not keep
// the node from serving the others.
func serves(r reconcile.Result) bool {
	for _, kind := range []kernel.Kind{kernel.KindLink, kernel.KindTable} {
		if c := r.Kinds[kind]; c.Programmed < c.Desired {
			return false
		}
	}
	return r.Kinds[kernel.KindLink].Desired > 0
}

func (s *server) forward() error {
	if s.n.opts.Forwarding == nil {
		return nil
	}
	if err := s.n.opts.Forwarding(s.network.EnableIPv4, s.network.EnableIPv6); err != nil {
		return fmt.Errorf("enable forwarding: %w", err)
	}
	return nil
}

// followUplink finds the uplink again. When it cannot be used, the last known one stays in force.
func (s *server) followUplink() error {
	uplink, err := s.n.opts.Uplink(s.network)
	if err != nil {
		return err
	}
	if _, err := s.backend.Attributes(uplink); err != nil {
		return err
	}
	before := s.uplink
	s.uplink = uplink
	if before.Routes = uplink.Routes; !before.Equal(uplink) {
		s.n.opts.Log.Info("the uplink changed", "link", uplink.Name, "mtu", uplink.MTU, "addresses", uplink.Addresses,
			"before", fmt.Sprint(before.Name, " ", before.MTU, " ", before.Addresses))
		s.n.opts.Store.Redial(lost(before, uplink))
	}
	return nil
}

// lost returns the addresses that the uplink had before and has no more.
func lost(before, now kernel.Uplink) []netip.Addr {
	var gone []netip.Addr
	for _, p := range before.Addresses {
		if !now.Has(p.Addr()) {
			gone = append(gone, p.Addr())
		}
	}
	return gone
}

// publish tells the cluster what changed about this node: its uplink's addresses, or the backend's settings.
func (s *server) publish() error {
	attrs, err := s.backend.Attributes(s.uplink)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(attrs, s.attrs) {
		s.n.opts.Log.Info("the node's record changes", "publicIP", attrs.PublicIP, "publicIPv6", attrs.PublicIPv6)
		s.attrs = attrs
		s.reg.Update(attrs)
	}
	return nil
}

// announce tells the host of a node that can serve.
func (s *server) announce(what mark) error {
	mtu, err := s.backend.PodMTU(s.uplink)
	if err != nil {
		return err
	}
	a := Announcement{Network: s.network, Subnets: s.reg.Lease().Subnets(), MTU: mtu}
	if what&markResync == 0 && s.told.announced(a) {
		return nil
	}
	failpoint.Hit("sync-announce")
	if err := s.n.opts.Host.Announce(a); err != nil {
		s.told.announces = false // so that the retry does not take it for done
		return fmt.Errorf("announce the node: %w", err)
	}
	s.told.announce(a)
	return nil
}

func (s *server) housekeep(ctx context.Context) {
	if s.n.opts.Housekeeping == nil {
		return
	}
	if err := s.n.opts.Housekeeping(ctx); err != nil && ctx.Err() == nil {
		s.n.opts.Log.Warn("housekeeping failed", "err", err)
	}
}
