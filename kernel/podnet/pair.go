//go:build linux

package podnet

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/failpoint"
	"github.com/twill-cni/twill/kernel"
)

const vethInfoPeer = 1 // VETH_INFO_PEER, linux/veth.h

// CreatePair makes the veth pair with one request: both addresses, MTU and the bridge are set at once, and the pod's end is made in
// the pod's namespace under its final name, so that no intermediate name is ever visible. The host end is marked with
// the owner, is a port of the bridge and is down: nothing passes before UpPair.
//
// A link that is left of the same owner is replaced; when the call fails, nothing is left. The error wraps kernel.ErrForeignLink
// or kernel.ErrInterfaceExists when a name is not free.
func (h *Handle) CreatePair(netns string, p kernel.PodPair) error {
	if err := h.CheckNetns(netns); err != nil {
		return err
	}
	err := h.newPair(p)
	if errors.Is(err, unix.EEXIST) {
		removed, rmErr := h.RemovePair(p.HostLink, p.Owner)
		switch {
		case rmErr != nil:
			return rmErr
		case !removed:
			return fmt.Errorf("create interface %s in %s: %w", p.Owner.IfName, netns, kernel.ErrInterfaceExists)
		}
		if err = h.newPair(p); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("create interface %s in %s: %w", p.Owner.IfName, netns, kernel.ErrInterfaceExists)
		}
	}
	if err != nil {
		return err
	}
	failpoint.Hit("add-pair-unmarked")
	if err := h.markPair(p); err != nil {
		_, rmErr := h.RemovePair(p.HostLink, p.Owner)
		return errors.Join(err, rmErr)
	}
	return nil
}

func (h *Handle) newPair(p kernel.PodPair) error {
	var b batch
	b.add("create veth "+p.HostLink, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, p.HostLink)
	b.attr(unix.IFLA_ADDRESS, p.HostMAC[:])
	b.u32(unix.IFLA_MTU, uint32(p.MTU))
	b.u32(unix.IFLA_MASTER, uint32(p.Bridge))
	b.open(unix.IFLA_LINKINFO)
	b.str(unix.IFLA_INFO_KIND, "veth")
	b.open(unix.IFLA_INFO_DATA)
	b.open(vethInfoPeer)
	b.buf = append(b.buf, ifinfo(0, 0, 0)...)
	b.str(unix.IFLA_IFNAME, p.Owner.IfName)
	b.attr(unix.IFLA_ADDRESS, p.PodMAC[:])
	b.u32(unix.IFLA_MTU, uint32(p.MTU))
	b.u32(unix.IFLA_NET_NS_FD, uint32(h.pod.fd))
	b.close()
	b.close()
	b.close()
	return h.host.run(&b, nil)
}

// markPair sets what a link cannot be created with (kernel: rtnl_create_link ignores IFLA_IFALIAS). The link is named by its
// name, which nobody else can hold now.
func (h *Handle) markPair(p kernel.PodPair) error {
	var b batch
	b.add("set owner of link "+p.HostLink, unix.RTM_NEWLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, p.HostLink)
	b.str(unix.IFLA_IFALIAS, p.Owner.Alias())
	b.open(unix.IFLA_AF_SPEC)
	b.open(unix.AF_INET6)
	b.attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenModeNone}) // a bridge port needs no address of its own
	b.close()
	b.close()
	b.open(unix.IFLA_LINKINFO)
	b.str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
	b.open(unix.IFLA_INFO_SLAVE_DATA)
	b.attr(unix.IFLA_BRPORT_MODE, []byte{flag(p.Hairpin)})
	b.close()
	b.close()
	return h.host.run(&b, nil)
}

const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// UpPair sets the host end up.
func (h *Handle) UpPair(hostLink string) error {
	var b batch
	b.add("set link "+hostLink+" up", unix.RTM_SETLINK, 0, ifinfo(0, unix.IFF_UP, unix.IFF_UP))
	b.str(unix.IFLA_IFNAME, hostLink)
	return h.host.run(&b, nil)
}

// DropQueued drops the packets that wait on a link, by its index, until somebody has one of the addresses there: neighbours that are being looked for keep
// some for up to three seconds (neigh_probe, arp_queue). What let them through may not be what the next one with the address lets through.
func (h *Handle) DropQueued(link int, addresses []netip.Prefix) error {
	var b batch
	for _, a := range addresses {
		b.add("forget neighbour "+a.Addr().String(), unix.RTM_DELNEIGH, 0, ndmsg(link, a.Addr(), 0))
		b.addr(unix.NDA_DST, a.Addr())
		b.allow(unix.ENOENT)
	}
	return h.host.run(&b, nil)
}

// RemovePair removes the veth pair by its host end and says whether it was there. A link of that name that is marked as another
// owner's, or is no veth, is left alone: the error wraps kernel.ErrForeignLink. One without a mark is the owner's: its ADD was
// killed between creating and marking it.
func (h *Handle) RemovePair(hostLink string, owner kernel.PodOwner) (bool, error) {
	have, ok, err := h.host.findLink(hostLink)
	if err != nil || !ok {
		return false, err
	}
	if have.kind != "veth" || have.alias != "" && have.podOwner != owner {
		return false, fmt.Errorf("link %s (%s %q): %w", hostLink, have.kind, have.alias, kernel.ErrForeignLink)
	}
	return true, h.host.deleteLink(have.index, hostLink)
}

// PodLinks returns the host ends of all pods' veth pairs.
func (h *Handle) PodLinks() ([]kernel.PodLink, error) {
	all, err := h.host.links()
	if err != nil {
		return nil, err
	}
	var pods []kernel.PodLink
	for _, l := range all {
		if l.kind == "veth" && l.podOwner.ContainerID != "" {
			pods = append(pods, l.podLink())
		}
	}
	return pods, nil
}

// PodLink returns the host end of a pod's veth pair by its name; found is false when there is none, or the link is no pod's.
func (h *Handle) PodLink(name string) (l kernel.PodLink, found bool, err error) {
	have, ok, err := h.host.findLink(name)
	if err != nil || !ok || have.kind != "veth" || have.podOwner.ContainerID == "" {
		return kernel.PodLink{}, false, err
	}
	return have.podLink(), true, nil
}

func (l link) podLink() kernel.PodLink {
	return kernel.PodLink{Name: l.name, Owner: l.podOwner, MAC: l.mac, MTU: l.mtu, Master: l.master, Up: l.up}
}
