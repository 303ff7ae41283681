package kerneltest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

func linkObject(name string) string { return "link " + name }

func fdbObject(key kernel.FDBKey) string { return fmt.Sprintf("fdb %s dev %s", key.MAC, key.Link) }

func neighborObject(key kernel.NeighborKey) string {
	return fmt.Sprintf("neighbor %s dev %s", key.IP, key.Link)
}

func routeObject(key kernel.RouteKey) string {
	if key.Metric != 0 && !(key.Metric == 1024 && key.Dst.Addr().Is6()) {
		return fmt.Sprintf("route %s metric %d", key.Dst, key.Metric)
	}
	return "route " + key.Dst.String()
}

// Dump returns all that the kernel holds as text: one line per object, sorted, foreign objects marked.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	line := func(origin Origin, parts ...string) {
		if origin == Foreign {
			parts = append(parts, "foreign")
		}
		lines = append(lines, strings.Join(parts, " ")+"\n")
	}
	for _, l := range k.links {
		line(l.origin, linkText(l.value)...)
	}
	for key, e := range k.fdb {
		line(e.origin, fdbObject(key), "dst", e.value.Dst.String())
	}
	for key, n := range k.neighbors {
		line(n.origin, neighborObject(key), "lladdr", n.value.MAC.String())
	}
	for key, r := range k.routes {
		line(r.origin, append([]string{routeObject(key)}, routeText(r.value)...)...)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func linkText(l kernel.Link) []string {
	parts := []string{linkObject(l.Name), map[bool]string{true: "up", false: "down"}[l.Up],
		fmt.Sprintf("mtu %d mac %s", l.MTU, l.MAC)}
	addrs := slices.Clone(l.Addresses)
	slices.SortFunc(addrs, netip.Prefix.Compare)
	for _, a := range addrs {
		parts = append(parts, "addr "+a.String())
	}
	if v := l.VXLAN; v != nil {
		parts = append(parts, fmt.Sprintf("vxlan id %d port %d", v.VNI, v.Port))
		if v.Uplink != "" {
			parts = append(parts, "uplink "+v.Uplink)
		}
		if v.Local.IsValid() {
			parts = append(parts, "local "+v.Local.String())
		}
		parts = appendIf(parts, v.GBP, "gbp")
		parts = appendIf(parts, v.Learning, "learning")
	}
	if l.Bridge != nil {
		parts = appendIf(append(parts, "bridge"), l.Bridge.Hairpin, "hairpin")
	}
	parts = appendIf(parts, l.TxChecksumOffload != nil && !*l.TxChecksumOffload, "tx-checksum off")
	for _, name := range slices.Sorted(maps.Keys(l.Sysctls)) {
		parts = append(parts, name+"="+l.Sysctls[name])
	}
	return parts
}

func routeText(r kernel.Route) []string {
	parts := appendIf(nil, r.Type == kernel.Blackhole, "blackhole")
	parts = appendIf(parts, r.Type == kernel.Unreachable, "unreachable")
	for _, h := range r.NextHops {
		if h.Gateway.IsValid() {
			parts = append(parts, "via "+h.Gateway.String())
		}
		if h.Link != "" {
			parts = append(parts, "dev "+h.Link)
		}
		parts = appendIf(parts, h.OnLink, "onlink")
		parts = appendIf(parts, h.Weight > 1, fmt.Sprintf("weight %d", h.Weight))
	}
	parts = appendIf(parts, r.Src.IsValid(), "src "+r.Src.String())
	return appendIf(parts, r.MTU != 0, fmt.Sprintf("mtu %d", r.MTU))
}

func appendIf(parts []string, cond bool, part string) []string {
	if cond {
		return append(parts, part)
	}
	return parts
}

// cloneLink copies l so that neither side sees the other's later changes.
func cloneLink(l kernel.Link) kernel.Link {
	l.Addresses = slices.Clone(l.Addresses)
	l.Sysctls = maps.Clone(l.Sysctls)
	l.VXLAN = clonePointer(l.VXLAN)
	l.Bridge = clonePointer(l.Bridge)
	l.TxChecksumOffload = clonePointer(l.TxChecksumOffload)
	return l
}

func clonePointer[V any](p *V) *V {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
