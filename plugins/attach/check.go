package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// Check compares what there is with the prevResult and the record. The error names everything that differs. Routes and
// addresses that are there beyond those are fine: plugins later in the list may have added them.
func (p *Plugin) Check(ctx context.Context, req Request) error {
	if req.Config.PrevResult == nil {
		return fmt.Errorf("CHECK needs the result of the ADD: %w", ErrPrevResult)
	}
	want, err := parseResult(req.Config.PrevResult)
	if err != nil {
		return err
	}
	if err := p.Kernel.CheckNetns(req.Netns); err != nil {
		return err
	}
	record, found, err := p.Records.Get(req.Owner)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("attachment record of %s is missing: %w", req.Owner, ErrMismatch)
	}
	have, err := p.Kernel.InspectPod(req.Netns, record.HostLink, req.Owner.IfName)
	if err != nil {
		return err
	}
	c := comparison{req: req, record: record, have: have}
	addresses, err := c.podAddresses(want)
	if err != nil {
		return err
	}
	c.links(want)
	c.addresses(addresses)
	c.routes(want)
	if record.Shaper != "" { // a redirection outlives the device that it leads to
		shapers, err := p.Kernel.Shapers()
		if err != nil {
			return err
		}
		c.have.Egress = have.Egress && shapers[record.Shaper] == req.Owner
	}
	c.shaping()
	errs := append(c.errs, p.IPAM.Check(ctx, req.Owner, addresses))
	if len(record.PortMappings) > 0 {
		errs = append(errs, p.HostPorts.Check(ctx, record.mappings()))
	}
	return errors.Join(errs...)
}

// comparison collects what differs.
type comparison struct {
	req    Request
	record Record
	have   kernel.PodState
	errs   []error
}

func (c *comparison) differs(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrMismatch))
}

// podAddresses returns the addresses that prevResult gives to the pod's interface.
func (c *comparison) podAddresses(want Result) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, ip := range want.IPs {
		if ip.Interface == nil {
			continue // another plugin's
		}
		i := *ip.Interface
		if i < 0 || i >= len(want.Interfaces) {
			return nil, fmt.Errorf("prevResult: address %s is of interface %d of %d: %w", ip.Address, i, len(want.Interfaces), ErrPrevResult)
		}
		if want.Interfaces[i].Name == c.req.Owner.IfName && want.Interfaces[i].Sandbox == c.req.Netns {
			out = append(out, ip.Address)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("prevResult: no address of interface %s in %s: %w", c.req.Owner.IfName, c.req.Netns, ErrPrevResult)
	}
	return out, nil
}

func (c *comparison) links(want Result) {
	host, pod := c.have.Host, c.have.Pod
	if pod.Name == "" {
		c.differs("interface %s is missing in %s", c.req.Owner.IfName, c.req.Netns)
	} else if !pod.Up {
		c.differs("interface %s in %s is down", pod.Name, c.req.Netns)
	}
	if host.Name == "" {
		c.differs("host link %s is missing", c.record.HostLink)
		return
	}
	switch {
	case host.Owner != c.req.Owner:
		c.differs("host link %s belongs to %s", host.Name, host.Owner)
	case pod.Name != "" && !c.have.Connected:
		c.differs("host link %s is not the other end of interface %s", host.Name, pod.Name)
	}
	if !host.Up {
		c.differs("host link %s is down", host.Name)
	}
	if c.have.Master != c.req.Config.Bridge {
		c.differs("host link %s is a port of %q, not of bridge %s", host.Name, c.have.Master, c.req.Config.Bridge)
	} else if c.have.Hairpin != c.req.Config.Hairpin {
		c.differs("host link %s has hairpin mode %t", host.Name, c.have.Hairpin)
	}
	for _, i := range want.Interfaces {
		switch {
		case i.Sandbox == "" && i.Name == host.Name:
			c.attributes("host link", i, host.MAC, host.MTU)
		case i.Sandbox == c.req.Netns && i.Name == pod.Name && pod.Name != "":
			c.attributes("interface", i, pod.MAC, pod.MTU)
		}
	}
}

func (c *comparison) attributes(what string, want Interface, mac kernel.MAC, mtu int) {
	if m, err := kernel.ParseMAC(want.MAC); err == nil && m != mac {
		c.differs("%s %s has MAC address %s, not %s", what, want.Name, mac, m)
	}
	if want.MTU == 0 {
		want.MTU = c.req.Config.MTU // before version 1.1.0
	}
	if want.MTU != 0 && want.MTU != mtu {
		c.differs("%s %s has MTU %d, not %d", what, want.Name, mtu, want.MTU)
	}
}

func (c *comparison) addresses(want []netip.Prefix) {
	for _, a := range want {
		if c.have.Pod.Name != "" && !slices.Contains(c.have.Pod.Addresses, a) {
			c.differs("interface %s has no address %s", c.have.Pod.Name, a)
		}
	}
}

// routes looks for the routes of prevResult in the main table; those that were put into other tables are not looked for.
func (c *comparison) routes(want Result) {
	if c.have.Pod.Name == "" {
		return
	}
	for _, r := range want.Routes {
		if r.Table != nil && *r.Table != mainTable {
			continue
		}
		if !slices.ContainsFunc(c.have.Pod.Routes, func(have kernel.PodRoute) bool {
			return have.Dst == r.Dst && (!r.GW.IsValid() || have.Gateway == r.GW)
		}) {
			c.differs("route %s via %s is missing in %s", r.Dst, r.GW, c.req.Netns)
		}
	}
}

const mainTable = 254 // RT_TABLE_MAIN

func (c *comparison) shaping() {
	bw := c.req.Config.Bandwidth
	if bw.Ingress.Bits > 0 && !c.have.Ingress {
		c.differs("host link %s does not shape what goes to the pod", c.record.HostLink)
	}
	if c.record.Shaper != "" && !c.have.Egress {
		c.differs("shaper %s of what comes from the pod is missing", c.record.Shaper)
	}
}
