//go:build linux

package linux

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// CheckBridge returns an error that wraps kernel.ErrInTheWay when the bridge of that name serves somebody else: it bears no mark of Twill's, has
// ports, and has an address that is in none of the subnets. To take it over would take that address, the gateway of what is behind the ports, away. A
// bridge with addresses of these subnets has been the same pods' under another program, as after flannel; one without ports serves nobody.
// It changes nothing.
func (h *Handle) CheckBridge(ctx context.Context, name string, subnets []netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	at := slices.IndexFunc(all, func(l linkMessage) bool { return l.name == name })
	if at < 0 || all[at].kind != "bridge" || strings.HasPrefix(all[at].alias, kernel.LinkAlias) {
		return nil
	}
	ports := portsOf(all[at].index, all)
	addresses, err := globalAddresses(ctx, h.conn, all[at].index)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, a := range addresses {
		ours := slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
		if !ours && len(ports) > 0 {
			return fmt.Errorf("bridge %s has the address %s, which is of none of this node's subnets (%v), and %d ports (%s): pods of another network are on it. "+
				"Nothing is changed until they are gone: drain the node, or move them and run `ip link delete %s`: %w",
				name, a, subnets, len(ports), some(ports), name, kernel.ErrInTheWay)
		}
	}
	return nil
}

// some names the first few.
func some(names []string) string {
	const few = 3
	if len(names) > few {
		return strings.Join(names[:few], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}
