//go:build linux

package linux

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// probeName is that of a link which is never made.
const probeName = "twill-probe"

// ProbeLink returns nil when the kernel can make links of a kind, of which it loads the module if need be; the error wraps
// kernel.ErrUnsupported when it cannot. It makes none: the link that it asks for has a MAC that none may have, which the kernel looks at when
// it has found the kind (rtnl_newlink, and the validate function of each kind).
func (h *Handle) ProbeLink(kind string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = probeName, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	probe := &netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}
	err := h.links.LinkAdd(probe)
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("make a link of kind %s: %w: %w", kind, kernel.ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("make a link of kind %s: %w", kind, err)
	}
	return h.links.LinkDel(probe) // no kernel gets here
}
