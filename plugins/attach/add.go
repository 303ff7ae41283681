package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/netconf"
)

// add is an ADD that runs: what it has made, and how that is undone.
type add struct {
	*Plugin
	req    Request
	record Record
	answer Answer                        // of the daemon, about policies
	asked  bool                          // IPAM may have made a lease
	undo   []func(context.Context) error // of what uses the lease
}

// Add attaches the pod and returns what the runtime is to know. When it fails, everything that it made is undone, in reverse;
// what cannot be undone is told in the error and its record is kept, so that a DEL or GC can end it.
func (p *Plugin) Add(ctx context.Context, req Request) (Result, error) {
	if req.Config.PrevResult != nil {
		return Result{}, fmt.Errorf("twill makes the pod's interface and must be the first plugin of its list: %w", ErrPrevResult)
	}
	if err := p.Kernel.CheckNetns(req.Netns); err != nil {
		return Result{}, err
	}
	a := &add{Plugin: p, req: req, record: plan(req), answer: ungated{}}
	entry, err := a.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer entry.Close()
	failpoint.Hit("add-record")
	defer func() { a.answer.Close() }()
	result, err := a.run(ctx, entry)
	if err != nil {
		return Result{}, errors.Join(err, a.rollBack(context.WithoutCancel(ctx)))
	}
	return result, nil
}

// plan says what the ADD is going to make.
func plan(req Request) Record {
	r := Record{Network: req.Config.Name, ContainerID: req.Owner.ContainerID, IfName: req.Owner.IfName, Netns: req.Netns,
		Pod: req.Args.Pod, PodUID: req.Args.PodUID, Labels: req.Config.Labels, Ports: req.Config.Ports,
		Bridge: req.Config.Bridge, HostLink: hostLink(req.Config.Name, req.Owner, 0), PortMappings: req.Config.PortMappings}
	if req.Config.Bandwidth.Egress.Bits > 0 {
		r.Shaper = shaper(r.Network, req.Owner)
	}
	return r
}

// begin writes the record. What an ADD of the same attachment left behind when it was killed is removed first.
func (a *add) begin(ctx context.Context) (Entry, error) {
	entry, err := a.Records.Begin(a.record)
	if !errors.Is(err, ErrExists) {
		return entry, err
	}
	if a.Records.Complete(a.req.Owner) {
		left, _, getErr := a.Records.Get(a.req.Owner)
		if getErr == nil && a.isThere(left.HostLink) {
			return nil, fmt.Errorf("add %s to network %s: %w", a.req.Owner, a.record.Network, err)
		}
	}
	if err := a.remove(ctx, a.record.Network, a.req.Owner); err != nil {
		return nil, fmt.Errorf("remove what an earlier ADD of %s left: %w", a.req.Owner, err)
	}
	return a.Records.Begin(a.record)
}

// isThere reports whether the host link exists: after a reboot, a record may be all that is left.
func (a *add) isThere(hostLink string) bool {
	links, err := a.Kernel.PodLinks()
	return err != nil || slices.ContainsFunc(links, func(l kernel.PodLink) bool { return l.Name == hostLink })
}

// onFailure notes how a step is undone. What undoes a step also copes with one that failed or did not begin.
func (a *add) onFailure(undo func(context.Context) error) { a.undo = append(a.undo, undo) }

// rollBack undoes everything but what must stay because something else could not be undone.
func (a *add) rollBack(ctx context.Context) error {
	var errs []error
	for _, undo := range slices.Backward(a.undo) {
		if err := undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("roll back: %w", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // something still uses the addresses
	}
	if a.asked {
		// A delegated plugin that fails may have made something. Releasing nothing is no error.
		if err := a.IPAM.Release(ctx, a.req.Owner); err != nil {
			return fmt.Errorf("roll back: %w", err)
		}
	}
	return a.Records.Remove(a.req.Owner)
}

func (a *add) run(ctx context.Context, entry Entry) (Result, error) {
	lease, err := a.lease(ctx, entry)
	if err != nil {
		return Result{}, err
	}
	if a.Gate != nil {
		a.answer = a.Gate.Ask(a.record) // the daemon is at work while the link is made
	}
	failpoint.Hit("add-ask")
	pod := a.podConfig(lease)
	pair, bridge, err := a.link(ctx, entry, pod, lease)
	if err != nil {
		return Result{}, err
	}
	if len(a.record.PortMappings) > 0 {
		a.onFailure(func(ctx context.Context) error { return a.HostPorts.Remove(ctx, a.record.mappings()) })
		if err := a.HostPorts.Add(ctx, a.record.mappings()); err != nil {
			return Result{}, err
		}
	}
	failpoint.Hit("add-hostports")
	if err := a.Kernel.Announce(a.req.Netns, pair.HostLink, pod); err != nil {
		return Result{}, err
	}
	failpoint.Hit("add-announce")
	a.answer.Ready(ctx)
	failpoint.Hit("add-ready")
	if err := entry.Commit(); err != nil {
		return Result{}, err
	}
	failpoint.Hit("add-commit")
	return a.result(bridge, pair, pod, lease), nil
}

func (a *add) lease(ctx context.Context, entry Entry) (Lease, error) {
	lease, err := a.IPAM.Allocate(ctx, a.req)
	a.asked = !errors.Is(err, ErrNoPlugin)
	if err != nil {
		return Lease{}, err
	}
	failpoint.Hit("add-lease")
	if len(lease.Addresses) == 0 {
		return Lease{}, fmt.Errorf("IPAM plugin %s gave no address", a.req.Config.IPAM)
	}
	for _, addr := range lease.Addresses {
		a.record.Addresses = append(a.record.Addresses, addr.Prefix)
	}
	err = entry.Update(a.record)
	failpoint.Hit("add-addresses")
	return lease, err
}

// link makes the pod's link: bridge, pair, shaping, and last the pod's side. Nothing passes before the pair is set up.
func (a *add) link(ctx context.Context, entry Entry, pod kernel.PodConfig, lease Lease) (kernel.PodPair, kernel.PodBridgeState, error) {
	cfg := a.req.Config
	if cfg.MTU != 0 {
		if err := netconf.CheckMTU(cfg.MTU, pod.Addresses); err != nil {
			return kernel.PodPair{}, kernel.PodBridgeState{}, err
		}
	}
	bridge, err := a.Kernel.EnsureBridge(kernel.PodBridge{Name: cfg.Bridge, MTU: cfg.MTU, Gateways: gateways(lease)})
	if err != nil {
		return kernel.PodPair{}, bridge, err
	}
	failpoint.Hit("add-bridge")
	pair := kernel.PodPair{Owner: a.req.Owner, HostLink: a.record.HostLink, MTU: cfg.MTU, Bridge: bridge.Index, Hairpin: cfg.Hairpin,
		HostMAC: stableMAC("host", a.req), PodMAC: pod.MAC}
	if pair.MTU == 0 {
		pair.MTU = bridge.MTU
	}
	if err := netconf.CheckMTU(pair.MTU, pod.Addresses); err != nil {
		return pair, bridge, err
	}
	if err := a.createPair(entry, &pair); err != nil {
		return pair, bridge, err
	}
	failpoint.Hit("add-pair")
	if !cfg.Bandwidth.IsZero() {
		shape := kernel.PodShape{Device: a.record.Shaper, MTU: pair.MTU, Ingress: cfg.Bandwidth.Ingress, Egress: cfg.Bandwidth.Egress}
		if a.record.Shaper != "" {
			a.onFailure(func(context.Context) error {
				_, err := a.Kernel.Unshape(a.record.Shaper, pair.Owner)
				return notForeign(err)
			})
		}
		if err := a.Kernel.Shape(pair.HostLink, pair.Owner, shape); err != nil {
			return pair, bridge, err
		}
	}
	failpoint.Hit("add-shape")
	if err := a.up(ctx, pair); err != nil {
		return pair, bridge, err
	}
	failpoint.Hit("add-up")
	err = a.Kernel.ConfigurePod(a.req.Netns, pod)
	failpoint.Hit("add-pod")
	return pair, bridge, err
}

// up sets the pair up once nothing of another pod is left that opens the addresses, nor waits for somebody to have them.
func (a *add) up(ctx context.Context, pair kernel.PodPair) error {
	if err := a.answer.Closed(ctx); err != nil {
		return err
	}
	failpoint.Hit("add-closed")
	if a.Gate != nil {
		if err := a.Kernel.DropQueued(pair.Bridge, a.record.Addresses); err != nil {
			return err
		}
	}
	failpoint.Hit("add-dropped")
	return a.Kernel.UpPair(pair.HostLink)
}

// createPair makes the pair. When another attachment's link has the name, the next one is tried, and recorded before.
func (a *add) createPair(entry Entry, pair *kernel.PodPair) error {
	a.onFailure(func(context.Context) error {
		_, err := a.Kernel.RemovePair(pair.HostLink, pair.Owner)
		return notForeign(err)
	})
	for try := 1; ; try++ {
		err := a.Kernel.CreatePair(a.req.Netns, *pair)
		if !errors.Is(err, kernel.ErrForeignLink) || try == nameTries {
			return err
		}
		pair.HostLink = hostLink(a.record.Network, a.req.Owner, try)
		a.record.HostLink = pair.HostLink
		if err := entry.Update(a.record); err != nil {
			return err
		}
	}
}

// podConfig works out the pod's side. Without routes in the lease each family gets a default route by its gateway; a route
// without a gateway of its own uses that of its family.
func (a *add) podConfig(lease Lease) kernel.PodConfig {
	c := kernel.PodConfig{IfName: a.req.Owner.IfName, MAC: a.req.Config.MAC, Addresses: a.record.Addresses}
	if !a.req.Args.MAC.IsZero() {
		c.MAC = a.req.Args.MAC
	}
	if c.MAC.IsZero() {
		c.MAC = stableMAC("pod", a.req)
	}
	for _, r := range lease.Routes {
		route := kernel.PodRoute{Dst: r.Dst, Gateway: r.GW, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Scope: r.Scope}
		if r.Table != nil {
			route.Table = *r.Table
		}
		onLink := r.Scope != nil && *r.Scope == scopeLink
		if !route.Gateway.IsValid() && !onLink {
			route.Gateway = gatewayOf(lease, r.Dst.Addr().Is6())
		}
		c.Routes = append(c.Routes, route)
	}
	if len(lease.Routes) > 0 {
		return c
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if gw := gatewayOf(lease, any.Is6()); gw.IsValid() {
			c.Routes = append(c.Routes, kernel.PodRoute{Dst: netip.PrefixFrom(any, 0), Gateway: gw})
		}
	}
	return c
}

const scopeLink = 253 // RT_SCOPE_LINK, linux/rtnetlink.h

// gatewayOf returns the gateway of the lease's first address of a family, or the zero Addr.
func gatewayOf(lease Lease, ipv6 bool) netip.Addr {
	for _, a := range lease.Addresses {
		if a.Gateway.IsValid() && a.Gateway.Is6() == ipv6 {
			return a.Gateway
		}
	}
	return netip.Addr{}
}

// gateways returns the addresses that the bridge must have.
func gateways(lease Lease) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range lease.Addresses {
		if g := netip.PrefixFrom(a.Gateway, a.Prefix.Bits()); a.Gateway.IsValid() && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// stableMAC derives an address from the attachment. An address that was set explicitly is left alone by
// systemd-udevd's MACAddressPolicy.
func stableMAC(end string, req Request) kernel.MAC {
	return kernel.StableMAC(end, req.Config.Name, req.Owner.ContainerID, req.Owner.IfName)
}
