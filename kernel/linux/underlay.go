//go:build linux

package linux

import (
	"context"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// Underlay returns the unicast routes of the main table that are not Twill's: those by which next hops are reached. Those to link-local
// addresses, of which each pod's link has one, are left out. Unlike Routes it has the kernel send the whole table, since a dump can be asked for one protocol (ip_valid_fib_dump_req), not for all but one.
func (h *Handle) Underlay(ctx context.Context) ([]kernel.Route, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := newNames(h.conn.fd)
	var list []kernel.Route
	var slab hopSlab
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var err error
		list, err = dump(ctx, h.conn, list, func(e *encoder, seq uint32) {
			e.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
			e.bytes(family, 0, 0, 0, unix.RT_TABLE_MAIN, 0, 0, 0)
			e.u32(0)
			e.end()
		}, func(m message) (kernel.Route, bool, error) {
			r, err := parseRouteMessage(m.payload)
			if err != nil || !r.underlay() {
				return kernel.Route{}, false, err
			}
			route, err := r.route(names.name, &slab)
			return route, true, err
		})
		if err != nil {
			return nil, fmt.Errorf("list the underlay's routes: %w", err)
		}
	}
	return list, nil
}

// underlay reports whether Underlay returns the route.
func (r *routeMessage) underlay() bool {
	return r.mine() && r.protocol != kernel.RouteProtocol && r.routeType == unix.RTN_UNICAST && !r.dst.IsLinkLocalUnicast()
}
