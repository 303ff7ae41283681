package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// BackendType is what a lease of this backend bears.
const BackendType = "vxlan"

// Options say which overlay a node takes part in, and as whom.
type Options struct {
	Config   Config
	Network  store.Network
	NodeName string

	// PublicIP and PublicIPv6 are published instead of the uplink's own address, unless they are zero.
	PublicIP, PublicIPv6 netip.Addr

	// MACs are the addresses of VXLAN devices that exist already, by name. They are kept: peers know them.
	MACs map[string]kernel.MAC

	// TxChecksumOffload is that of the VXLAN devices; nil leaves it as it is.
	TxChecksumOffload *bool
}

// Backend renders the overlay for one node. It keeps the fragments that it made, so its methods must not be called
// concurrently.
type Backend struct {
	opts   Options
	stacks []stack
	own    string // fingerprint of the own side that memo was rendered with
	memo   kernel.Memo[*store.Lease, entry]
}

// stack is one enabled family.
type stack struct {
	family
	link      string
	mac       kernel.MAC // of the device; zero until the first uplink is known, unless the device is there
	advertise netip.Addr // configured; zero for the uplink's own
}

// New checks that the configuration fits the network.
func New(opts Options) (*Backend, error) {
	b := &Backend{opts: opts}
	for _, f := range families() {
		if !f.enabled(&opts.Network) {
			continue
		}
		s := stack{family: f, link: f.link(opts.Config.VNI), advertise: opts.PublicIP}
		if f.ipv6 {
			s.advertise = opts.PublicIPv6
		}
		if len(s.link) > maxName {
			return nil, fmt.Errorf("network configuration: Backend.VNI %d: the device name %s is longer than the kernel's %d bytes",
				opts.Config.VNI, s.link, maxName)
		}
		if mac := opts.MACs[s.link]; mac.IsUnicast() {
			s.mac = mac
		}
		b.stacks = append(b.stacks, s)
	}
	if len(b.stacks) == 0 {
		return nil, errors.New("network configuration: neither IPv4 nor IPv6 is enabled")
	}
	return b, nil
}

// Attributes returns what the node publishes when it has this uplink. The error says what the uplink lacks.
func (b *Backend) Attributes(uplink kernel.Uplink) (store.Attributes, error) {
	attrs := store.Attributes{NodeName: b.opts.NodeName, BackendType: BackendType}
	for i := range b.stacks {
		s := &b.stacks[i]
		ends, err := b.endpoints(s, uplink)
		if err != nil {
			return store.Attributes{}, err
		}
		data, err := json.Marshal(leaseData{VNI: &b.opts.Config.VNI, VtepMAC: s.mac.String()})
		if err != nil {
			return store.Attributes{}, fmt.Errorf("encode %s lease data: %w", s.name, err)
		}
		if s.ipv6 {
			attrs.PublicIPv6, attrs.BackendV6Data = ends.public, data
		} else {
			attrs.PublicIP, attrs.BackendData = ends.public, data
		}
	}
	return attrs, nil
}

// PodMTU returns the largest packet, in bytes, that a pod can send to a pod of any other node: the smallest MTU of the VXLAN
// devices. DirectRouting does not raise it, since it differs from peer to peer.
func (b *Backend) PodMTU(uplink kernel.Uplink) (int, error) {
	mtu := maxMTU
	for i := range b.stacks {
		ends, err := b.endpoints(&b.stacks[i], uplink)
		if err != nil {
			return 0, err
		}
		mtu = min(mtu, ends.mtu)
	}
	return mtu, nil
}

// Links returns the VXLAN devices. Their only address is the base of the node's subnet, as /32 or /128: it is the source of what the node
// itself sends to pods of other nodes, and it brings no route along.
func (b *Backend) Links(uplink kernel.Uplink, self *store.Lease) ([]kernel.Link, error) {
	var links []kernel.Link
	for i := range b.stacks {
		s := &b.stacks[i]
		ends, err := b.endpoints(s, uplink)
		if err != nil {
			return nil, err
		}
		subnet := s.subnet(self)
		if !subnet.IsValid() {
			return nil, fmt.Errorf("device %s: the node's lease has no %s subnet", s.link, s.name)
		}
		links = append(links, kernel.Link{
			Name:      s.link,
			MTU:       ends.mtu,
			MAC:       s.mac,
			Up:        true,
			Addresses: []netip.Prefix{netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen())},
			VXLAN: &kernel.VXLAN{
				VNI:      b.opts.Config.VNI,
				Port:     b.opts.Config.Port,
				Uplink:   uplink.Name,
				Local:    ends.local,
				GBP:      b.opts.Config.GBP,
				Learning: b.opts.Config.Learning,
			},
			TxChecksumOffload: b.opts.TxChecksumOffload,
			Sysctls:           map[string]string{"ipv6/accept_ra": "0"}, // pods must not be able to give the node routes
		})
	}
	return links, nil
}

// ends are the node's own ends of one family's tunnels.
type ends struct {
	local  netip.Addr // the source of encapsulated packets: always an address of the uplink
	public netip.Addr // where peers send theirs; differs from local behind a NAT
	mtu    int        // of the VXLAN device
}

// endpoints also settles the address of a device that is new: from the node's name and the address under which it is first reached. So it is
// the same after a reboot, and another one than that of a node that was given the same name by mistake: peers send what is
// for a MAC to one node. Once settled it stays, wherever the node moves: peers know it.
func (b *Backend) endpoints(s *stack, uplink kernel.Uplink) (ends, error) {
	e := ends{local: uplink.Addr(s.ipv6), public: s.advertise}
	if !e.local.IsValid() {
		return ends{}, fmt.Errorf("uplink %s has no %s address, but the network has %s enabled", uplink.Name, s.name, s.name)
	}
	switch {
	case !e.public.IsValid():
		e.public = e.local
	case uplink.Has(e.public):
		e.local = e.public
	}
	outer := b.opts.Config.MTU
	if outer == 0 {
		outer = uplink.MTU
	}
	if outer > uplink.MTU {
		return ends{}, fmt.Errorf("network configuration: Backend.MTU %d is more than the %d of uplink %s", outer, uplink.MTU, uplink.Name)
	}
	e.mtu = outer - s.overhead
	if e.mtu < s.leastMTU {
		return ends{}, fmt.Errorf("MTU %d on uplink %s leaves %d bytes inside the VXLAN; %s needs %d",
			outer, uplink.Name, e.mtu, s.name, s.leastMTU)
	}
	if s.mac == (kernel.MAC{}) {
		s.mac = kernel.StableMAC("vtep", b.opts.NodeName, s.link, e.public.String())
	}
	return e, nil
}
