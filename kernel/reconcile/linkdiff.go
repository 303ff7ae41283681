package reconcile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// vxlanPort is the UDP port that Linux gives a VXLAN device which names none (drivers/net/vxlan, the port in use before
// RFC 7348 assigned 4789).
const vxlanPort = 8472

// linkDiff says in what have is not as want asks; nil when nothing is left to do. Each item reads "mtu is 1500, want
// 1450".
func linkDiff(want, have kernel.Link) []string {
	var diffs []string
	differs := func(cond bool, what string, is, want any) {
		if cond {
			diffs = append(diffs, fmt.Sprintf("%s is %v, want %v", what, is, want))
		}
	}
	differs(have.Unmarked, "alias", "missing", kernel.LinkAlias)
	differs(want.MTU != 0 && want.MTU != have.MTU, "mtu", have.MTU, want.MTU)
	differs(!want.MAC.IsZero() && want.MAC != have.MAC, "mac", have.MAC, want.MAC)
	differs(want.Up != have.Up, "up", have.Up, want.Up)

	wantAddrs, haveAddrs := globalAddresses(want.Addresses), globalAddresses(have.Addresses)
	differs(!slices.Equal(wantAddrs, haveAddrs), "addresses", haveAddrs, wantAddrs)

	differs(!sameVXLAN(want.VXLAN, have.VXLAN), "vxlan", vxlanText(have.VXLAN), vxlanText(want.VXLAN))
	differs(!sameBridge(want.Bridge, have.Bridge), "bridge", bridgeText(have.Bridge), bridgeText(want.Bridge))

	if offload := want.TxChecksumOffload; offload != nil && have.TxChecksumOffload != nil {
		differs(*offload != *have.TxChecksumOffload, "tx checksum offload", *have.TxChecksumOffload, *offload)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Sysctls)) {
		value, known := have.Sysctls[name]
		differs(known && value != want.Sysctls[name], "sysctl "+name, value, want.Sysctls[name])
	}
	return diffs
}

// fillUnknown completes what a dump does not tell of a link with what was last applied to it. Where nothing was
// applied yet, what is desired and unknown shows up as a difference.
func fillUnknown(want, have, applied kernel.Link) kernel.Link {
	if want.TxChecksumOffload != nil && have.TxChecksumOffload == nil {
		have.TxChecksumOffload = applied.TxChecksumOffload
		if have.TxChecksumOffload == nil {
			unlike := !*want.TxChecksumOffload
			have.TxChecksumOffload = &unlike
		}
	}
	known := maps.Clone(have.Sysctls)
	for name := range want.Sysctls {
		if _, ok := known[name]; ok {
			continue
		}
		if known == nil {
			known = map[string]string{}
		}
		known[name] = applied.Sysctls[name]
	}
	have.Sysctls = known
	return have
}

// globalAddresses returns the addresses that the desired state rules over, sorted: link-local ones are the kernel's own.
func globalAddresses(all []netip.Prefix) []netip.Prefix {
	addrs := slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	slices.SortFunc(addrs, netip.Prefix.Compare)
	return slices.Compact(addrs)
}

func sameVXLAN(want, have *kernel.VXLAN) bool {
	if want == nil || have == nil {
		return want == have
	}
	return normalVXLAN(*want) == normalVXLAN(*have)
}

// normalVXLAN gives equal meanings one form.
func normalVXLAN(v kernel.VXLAN) kernel.VXLAN {
	if v.Port == 0 {
		v.Port = vxlanPort
	}
	v.Local = v.Local.Unmap()
	if v.Local.IsUnspecified() {
		v.Local = netip.Addr{}
	}
	return v
}

func vxlanText(v *kernel.VXLAN) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", normalVXLAN(*v))
}

// sameBridge takes a bridge whose dump names no port alias as one with a port astray.
func sameBridge(want, have *kernel.Bridge) bool {
	if want == nil || have == nil {
		return want == have
	}
	return want.Hairpin == have.Hairpin && (want.PortAliasPrefix == "" || want.PortAliasPrefix == have.PortAliasPrefix)
}

func bridgeText(b *kernel.Bridge) string {
	if b == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *b)
}

// usable reports whether entries can live on the link: it is there, it is the right device, and it is up.
func usable(want kernel.Link, have kernel.Link, exists bool) bool {
	return exists && sameVXLAN(want.VXLAN, have.VXLAN) && (have.Up || !want.Up)
}
