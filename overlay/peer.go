package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// routing is the backend type of nodes that announce their subnets over BGP. Those that have an overlay too publish their VTEP like a
// node of this backend, so that a cluster can go from one backend to the other node by node.
const routing = "bgp"

// leaseData is BackendData and BackendV6Data as flannel writes them. Older flannel releases write no VNI.
type leaseData struct {
	VNI     *uint32 `json:",omitempty"`
	VtepMAC string
}

// own is the node's side of every peer's fragment.
type own struct {
	self   *store.Lease
	uplink kernel.Uplink
	ends   []ends // of b.stacks
}

// entry is what a lease was rendered to. It is small, since 20,000 of them are looked at in each sync.
type entry struct {
	fragment *kernel.Fragment // nil when nothing of the lease can be used
	rejects  *[]store.Reject  // nil for none
}

// Fragments returns one fragment for each peer that can be reached, sorted by owner, and for each family of a peer that cannot, the
// reason. A lease seen before yields the fragment that it had before, unless the node's own side changed. One peer's
// bad data never affects another peer.
func (b *Backend) Fragments(uplink kernel.Uplink, self *store.Lease, leases []*store.Lease) ([]*kernel.Fragment, []store.Reject, error) {
	o := own{self: self, uplink: uplink}
	for i := range b.stacks {
		e, err := b.endpoints(&b.stacks[i], uplink)
		if err != nil {
			return nil, nil, err
		}
		o.ends = append(o.ends, e)
	}
	if print := b.fingerprint(o); print != b.own {
		b.own, b.memo = print, kernel.Memo[*store.Lease, entry]{}
	}
	entries := b.memo.Render(peers(leases, self), kernel.Renderer[*store.Lease, entry]{
		Compare: func(x, y *store.Lease) int { return x.Subnets().Compare(y.Subnets()) },
		Owner:   (*store.Lease).Key,
		Render:  func(lease *store.Lease) entry { return b.render(o, lease) },
	})
	fragments := make([]*kernel.Fragment, 0, len(entries))
	var rejects []store.Reject
	for _, e := range entries {
		if e.fragment != nil {
			fragments = append(fragments, e.fragment)
		}
		if e.rejects != nil {
			rejects = append(rejects, *e.rejects...)
		}
	}
	return fragments, rejects, nil
}

// peers returns leases, which are sorted, without the node's own.
func peers(leases []*store.Lease, self *store.Lease) []*store.Lease {
	for own := store.Find(leases, self.Subnets()); own != nil; own = store.Find(leases, self.Subnets()) {
		at := slices.Index(leases, own)
		leases = slices.Concat(leases[:at], leases[at+1:])
	}
	return leases
}

// fingerprint is equal for two own sides exactly when they give every peer the same fragment.
func (b *Backend) fingerprint(o own) string {
	print := fmt.Sprint(o.self.Subnet, o.self.IPv6Subnet)
	for _, e := range o.ends {
		print += fmt.Sprint(" ", e.public)
	}
	if b.opts.Config.DirectRouting {
		print += fmt.Sprint(" ", o.uplink.Name, o.uplink.Addresses)
	}
	return print
}

func (b *Backend) render(o own, lease *store.Lease) (e entry) {
	f := &kernel.Fragment{Owner: lease.Key()}
	var rejects []store.Reject
	for i, s := range b.stacks {
		if !s.subnet(lease).IsValid() {
			continue // a peer of one family in a dual-stack cluster
		}
		if err := b.peer(f, i, o, lease); err != nil {
			rejects = append(rejects, store.Reject{Key: f.Owner, Err: fmt.Errorf("%s: %w", s.name, err)})
		}
	}
	if len(f.Routes) > 0 {
		e.fragment = f
	}
	if len(rejects) > 0 {
		e.rejects = &rejects
	}
	return e
}

// peer adds to f what reaches the peer's pods of one family. It adds nothing when it returns an error.
func (b *Backend) peer(f *kernel.Fragment, stackIndex int, o own, lease *store.Lease) error {
	s := b.stacks[stackIndex]
	subnet, public := s.subnet(lease), s.publicIP(lease)
	if lease.BackendType != BackendType && lease.BackendType != routing {
		return fmt.Errorf("backend type is %q, not %q", lease.BackendType, BackendType)
	}
	if err := s.checkSubnet(subnet, s.subnet(o.self), s.pool(&b.opts.Network)); err != nil {
		return err
	}
	if err := s.checkPublic(public, o.ends[stackIndex].public); err != nil {
		return err
	}
	mac, err := b.vtepMAC(s, lease)
	if err != nil {
		return err
	}
	if b.opts.Config.DirectRouting && o.uplink.OnLink(public) {
		f.Routes = append(f.Routes, kernel.Route{
			Dst:      subnet,
			NextHops: []kernel.NextHop{{Gateway: public, Link: o.uplink.Name}},
		})
		return nil
	}
	f.FDB = append(f.FDB, kernel.FDBEntry{Link: s.link, MAC: mac, Dst: public})
	f.Neighbors = append(f.Neighbors, kernel.Neighbor{Link: s.link, IP: subnet.Addr(), MAC: mac})
	f.Routes = append(f.Routes, kernel.Route{
		Dst:      subnet,
		NextHops: []kernel.NextHop{{Gateway: subnet.Addr(), Link: s.link, OnLink: true}},
	})
	return nil
}

func (f family) checkSubnet(subnet, self, pool netip.Prefix) error {
	switch {
	case subnet.Addr().Is6() != f.ipv6 || subnet != subnet.Masked():
		return fmt.Errorf("%s is no %s subnet", subnet, f.name)
	case pool.Bits() > subnet.Bits() || !pool.Contains(subnet.Addr()):
		return fmt.Errorf("subnet %s is outside the network %s", subnet, pool)
	case subnet.Overlaps(self):
		return fmt.Errorf("subnet %s overlaps this node's own, %s", subnet, self)
	}
	return nil
}

func (f family) checkPublic(public, self netip.Addr) error {
	switch {
	case !public.IsValid():
		return errors.New("no public address")
	case public.Is6() != f.ipv6 || !public.IsGlobalUnicast():
		return fmt.Errorf("public address %s is no %s unicast address", public, f.name)
	case public == self:
		return fmt.Errorf("public address %s is this node's own", public)
	}
	return nil
}

func (b *Backend) vtepMAC(s stack, lease *store.Lease) (kernel.MAC, error) {
	if len(s.data(lease)) == 0 {
		return kernel.MAC{}, errors.New("no backend data")
	}
	var data leaseData
	if err := json.Unmarshal(s.data(lease), &data); err != nil {
		return kernel.MAC{}, fmt.Errorf("backend data: %w", err)
	}
	if data.VNI != nil && *data.VNI != b.opts.Config.VNI {
		return kernel.MAC{}, fmt.Errorf("VNI is %d, this network's is %d", *data.VNI, b.opts.Config.VNI)
	}
	if data.VtepMAC == "" && lease.BackendType == routing {
		return kernel.MAC{}, errors.New("the node routes with BGP and has no overlay")
	}
	mac, err := kernel.ParseMAC(data.VtepMAC)
	if err != nil {
		return kernel.MAC{}, fmt.Errorf("VtepMAC: %w", err)
	}
	if !mac.IsUnicast() || mac == s.mac {
		return kernel.MAC{}, fmt.Errorf("VtepMAC %s is not the address of another device", mac)
	}
	return mac, nil
}
