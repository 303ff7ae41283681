//go:build linux

package linux

import (
	"context"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// Listing is what the kernel holds, whoever made it, a line each, for people who look for a fault. It is not iproute2's language.
type Listing struct {
	Links     []string `json:"links"`
	Addresses []string `json:"addresses"`
	Routes    []string `json:"routes"` // of all tables but the kernel's own, local
	Neighbors []string `json:"neighbors"`
	FDB       []string `json:"fdb"`
}

// List lists up to most entries of each kind; that there are more is a line of its own. What is listed when an error comes is returned with it. It
// changes nothing.
func (h *Handle) List(ctx context.Context, most int) (Listing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var l Listing
	names := newNames(h.conn.fd)
	links, err := dumpLinks(ctx, h.conn)
	if err != nil {
		return l, fmt.Errorf("list links: %w", err)
	}
	for i := range links {
		l.Links = append(l.Links, linkLine(&links[i], names))
	}
	l.Links = cut(l.Links, most)
	addresses, err := dumpAddresses(ctx, h.conn, 0)
	if err != nil {
		return l, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, fmt.Sprintf("%s dev %s scope %d flags %#x", a.prefix, names.name(a.index), a.scope, a.flags))
	}
	l.Addresses = cut(l.Addresses, most)
	if l.Routes, err = h.listRoutes(ctx, names, most); err != nil {
		return l, fmt.Errorf("list routes: %w", err)
	}
	if l.Neighbors, err = h.listNeighbors(ctx, unix.AF_UNSPEC, names, most); err != nil {
		return l, fmt.Errorf("list neighbours: %w", err)
	}
	if l.FDB, err = h.listNeighbors(ctx, unix.AF_BRIDGE, names, most); err != nil {
		return l, fmt.Errorf("list forwarding entries: %w", err)
	}
	return l, nil
}

// cut leaves most lines, and says how many there were beyond.
func cut(lines []string, most int) []string {
	if len(lines) <= most {
		return lines
	}
	return append(lines[:most:most], fmt.Sprintf("... and %d more", len(lines)-most))
}

// lines collects those of a dump, of which it keeps most and counts the others.
type lines struct {
	kept   []string
	beyond int
	most   int
}

func (l *lines) add(line func() string) {
	if len(l.kept) >= l.most {
		l.beyond++
		return
	}
	l.kept = append(l.kept, line())
}

func (l *lines) all() []string {
	if l.beyond == 0 {
		return l.kept
	}
	return append(l.kept, fmt.Sprintf("... and %d more", l.beyond))
}

func linkLine(l *linkMessage, names *names) string {
	line := fmt.Sprintf("%d: %s mtu %d", l.index, l.name, l.mtu)
	if l.kind != "" {
		line += " kind " + l.kind
	}
	if l.up() {
		line += " up"
	} else {
		line += " down"
	}
	if l.master != 0 {
		line += " master " + names.name(l.master)
	}
	if l.alias != "" {
		line += fmt.Sprintf(" alias %q", l.alias)
	}
	return line
}

func (h *Handle) listRoutes(ctx context.Context, names *names, most int) ([]string, error) {
	found := lines{most: most}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		before := found
		_, err := dump(ctx, h.conn, nil, func(e *encoder, seq uint32) {
			found = before // a dump that was disturbed begins anew
			e.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
			e.bytes(family, 0, 0, 0, unix.RT_TABLE_UNSPEC, 0, 0, 0)
			e.u32(0)
			e.end()
		}, func(m message) (struct{}, bool, error) {
			r, err := parseRouteMessage(m.payload)
			if err != nil || r.table == unix.RT_TABLE_LOCAL || r.flags&rtmCloned != 0 {
				return struct{}{}, false, err
			}
			found.add(func() string { return routeLine(&r, names) })
			return struct{}{}, false, nil
		})
		if err != nil {
			return found.all(), err
		}
	}
	return found.all(), nil
}

// routeTypes are the names of RTN_*.
var routeTypes = [...]string{"unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw", "nat"}

func routeLine(r *routeMessage, names *names) string {
	var line strings.Builder
	if int(r.routeType) < len(routeTypes) && r.routeType != unix.RTN_UNICAST {
		line.WriteString(routeTypes[r.routeType] + " ")
	}
	dst, _ := r.prefix()
	line.WriteString(dst.String())
	for _, h := range r.hops() {
		if h.gateway.IsValid() {
			line.WriteString(" via " + h.gateway.String())
		}
		if h.index != 0 {
			line.WriteString(" dev " + names.name(h.index))
		}
		if h.onLink {
			line.WriteString(" onlink")
		}
		if h.weight > 1 {
			fmt.Fprintf(&line, " weight %d", h.weight)
		}
	}
	if r.src.IsValid() {
		line.WriteString(" src " + r.src.String())
	}
	if r.mtu != 0 {
		fmt.Fprintf(&line, " mtu %d", r.mtu)
	}
	fmt.Fprintf(&line, " proto %d metric %d table %d", r.protocol, r.metric, r.table)
	if r.protocol == kernel.RouteProtocol {
		line.WriteString(" (Twill's)")
	}
	return line.String()
}

// hops returns the next hops, as far as they can be read.
func (r *routeMessage) hops() []hop {
	if r.multiple == nil {
		return []hop{r.hop}
	}
	var all []hop
	for rest := r.multiple; len(rest) > 0; {
		h, more, err := nextHop(rest)
		if err != nil {
			break
		}
		all, rest = append(all, h), more
	}
	return all
}

func (h *Handle) listNeighbors(ctx context.Context, family uint8, names *names, most int) ([]string, error) {
	found := lines{most: most}
	_, err := dump(ctx, h.conn, nil, func(e *encoder, seq uint32) {
		found = lines{most: most}
		e.begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, seq)
		e.ndmsg(family, 0, 0, 0)
		e.end()
	}, func(m message) (struct{}, bool, error) {
		n, err := parseNeighborMessage(m.payload)
		if err == nil && (n.family == unix.AF_BRIDGE) == (family == unix.AF_BRIDGE) {
			found.add(func() string { return neighborLine(&n, names) })
		}
		return struct{}{}, false, err
	})
	return found.all(), err
}

func neighborLine(n *neighborMessage, names *names) string {
	var parts []string
	mac, hasMAC := n.lladdr.mac()
	dst, hasDst := n.dst.addr()
	if n.family == unix.AF_BRIDGE {
		parts = append(parts, net.HardwareAddr(mac[:]).String(), "dev "+names.name(n.index))
		if hasDst {
			parts = append(parts, "dst "+dst.String())
		}
	} else {
		parts = append(parts, dst.String(), "dev "+names.name(n.index))
		if hasMAC {
			parts = append(parts, "lladdr "+mac.String())
		}
	}
	parts = append(parts, fmt.Sprintf("state %#x flags %#x", n.state, n.flags))
	if n.permanent() {
		parts = append(parts, "permanent")
	}
	return strings.Join(parts, " ")
}
