package attach

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
)

// Del removes the attachment and everything that belongs to it. It needs neither network namespace nor prevResult, and is no
// error when some or all of it is gone. It goes on past errors as far as that is safe, so that a repeated DEL has less to do.
func (p *Plugin) Del(ctx context.Context, req Request) error {
	return p.remove(ctx, req.Config.Name, req.Owner)
}

// remove removes in the reverse order of ADD, so that no host port leads to, and no lease gives out, an address that a link
// still has.
func (p *Plugin) remove(ctx context.Context, network string, owner kernel.PodOwner) error {
	if err := p.unlink(ctx, network, owner); err != nil {
		return err
	}
	if err := p.IPAM.Release(ctx, owner); err != nil {
		return err
	}
	failpoint.Hit("del-lease")
	err := p.Records.Remove(owner)
	failpoint.Hit("del-record")
	return err
}

// unlink removes everything but lease and record.
func (p *Plugin) unlink(ctx context.Context, network string, owner kernel.PodOwner) error {
	r, found, err := p.Records.Get(owner)
	if errors.Is(err, ErrBusy) {
		return err
	}
	if err := p.Records.Retire(owner); err != nil {
		return err
	}
	failpoint.Hit("del-retired")
	if err != nil || !found { // a record that cannot be read is as good as none: the names tell what to remove
		r, found = Record{Network: network, Shaper: shaper(network, owner)}, false
	}
	var errs []error
	if !found {
		errs = append(errs, p.unmapLeased(ctx, owner))
	} else if len(r.PortMappings) > 0 && len(r.Addresses) > 0 { // none were made before the addresses were recorded
		errs = append(errs, p.HostPorts.Remove(ctx, r.mappings()))
	}
	failpoint.Hit("del-hostports")
	if r.Shaper != "" {
		_, err := p.Kernel.Unshape(r.Shaper, owner)
		errs = append(errs, notForeign(err))
	}
	failpoint.Hit("del-shape")
	if found {
		_, err = p.Kernel.RemovePair(r.HostLink, owner)
		errs = append(errs, notForeign(err)) // a stale record: the name was given to another one since
	} else {
		errs = append(errs, p.removePairByName(network, owner))
	}
	failpoint.Hit("del-pair")
	return errors.Join(errs...)
}

// unmapLeased removes the host ports that no record tells of: all that lead to the addresses of the owner's lease. An address that
// is not leased any more may be another pod's, so nothing but the lease counts.
func (p *Plugin) unmapLeased(ctx context.Context, owner kernel.PodOwner) error {
	leased, err := p.IPAM.Leased(ctx, owner)
	if err != nil || len(leased) == 0 {
		return err
	}
	targets, err := p.HostPorts.Targets()
	return errors.Join(err, p.unmap(ctx, targets, leased))
}

// unmap removes the host ports that lead to any of the addresses.
func (p *Plugin) unmap(ctx context.Context, targets []hostport.Pod, addresses []netip.Addr) error {
	var errs []error
	for _, pod := range targets {
		if slices.Contains(addresses, pod.Addresses[0].Addr()) {
			errs = append(errs, p.HostPorts.Remove(ctx, pod))
		}
	}
	return errors.Join(errs...)
}

// removePairByName removes the link that has one of the names which the attachment's may have. As far as names are taken by
// other attachments, ours may have the next.
func (p *Plugin) removePairByName(network string, owner kernel.PodOwner) error {
	for try := range nameTries {
		_, err := p.Kernel.RemovePair(hostLink(network, owner, try), owner)
		if !errors.Is(err, kernel.ErrForeignLink) {
			return err
		}
	}
	return nil
}

func notForeign(err error) error {
	if errors.Is(err, kernel.ErrForeignLink) {
		return nil
	}
	return err
}
