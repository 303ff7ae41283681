//go:build linux

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/check"
	"github.com/twill-cni/twill/daemon/features"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/view"
)

// Options say where to look, and what twilld is told.
type Options struct {
	check.Setup
	Iface      string // the uplink; empty: that of the default route
	SubnetFile string
	Version    string // what the plugins should have been built from
}

// Look looks at the host of the calling thread's network namespace. A goroutine that has switched its thread to another one is locked to it.
func Look(ctx context.Context, o Options) *check.Facts {
	f := &check.Facts{Setup: o.Setup, Unknown: map[check.Part]error{}, Version: o.Version}
	look := func(part check.Part, at func() error) {
		if err := at(); err != nil {
			f.Unknown[part] = err
		}
	}
	f.Release = release()
	f.Networks = networks(o.SubnetFile)
	if len(f.Networks) > 0 {
		f.IPv4 = slices.ContainsFunc(f.Networks, func(n netip.Prefix) bool { return n.Addr().Is4() })
		f.IPv6 = slices.ContainsFunc(f.Networks, func(n netip.Prefix) bool { return n.Addr().Is6() })
	}
	links, err := linux.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		f.Unknown[check.Links], f.Unknown[check.Features] = err, err
	} else {
		defer func() { _ = links.Close() }() // nothing was written
		look(check.Links, func() error { return lookAtLinks(ctx, f, links, o.Iface) })
	}
	tables, err := nft.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		f.Unknown[check.Chains], f.Unknown[check.Features] = err, err
	} else {
		defer func() { _ = tables.Close() }() // nothing was written
		look(check.Chains, func() error { return lookAtChains(ctx, f, tables) })
	}
	if f.Unknown[check.Features] == nil {
		look(check.Features, func() error { return lookAtFeatures(f, prober{links, tables}) })
	}
	lookAtSysctls(f)
	look(check.Legacy, func() error { return lookAtLegacy(f) })
	look(check.Sockets, func() error { return lookAtSockets(f) })
	look(check.Conf, func() error { return lookAtConf(f) })
	look(check.Plugins, func() error { return lookAtPlugins(f) })
	return f
}

// release returns the first two numbers of the kernel's.
func release() (r [2]int) {
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		_, _ = fmt.Sscanf(string(name.Release[:bytes.IndexByte(name.Release[:], 0)]), "%d.%d", &r[0], &r[1]) // 0.0 then
	}
	return r
}

// networks reads those of the cluster out of subnet.env; without it they are not known.
func networks(file string) []netip.Prefix {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var all []netip.Prefix
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if p, err := netip.ParsePrefix(value); err == nil && (key == "FLANNEL_NETWORK" || key == "FLANNEL_IPV6_NETWORK") {
			all = append(all, p.Masked())
		}
	}
	return all
}

func lookAtLinks(ctx context.Context, f *check.Facts, k *linux.Handle, iface string) error {
	all, err := k.Survey(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		link := check.Link{Name: l.Name, Kind: l.Kind, Alias: l.Alias, Master: l.Master, MTU: l.MTU, Addresses: l.Addresses, VXLAN: l.VXLAN, TxChecksumOffload: l.TxChecksumOffload}
		f.Links = append(f.Links, link)
		f.Serves = f.Serves || l.Alias == kernel.LinkAlias
		if link.Overlay() {
			f.Overlay = true
			if l.VXLAN.Port != 0 {
				f.VXLANPort = l.VXLAN.Port
			}
		}
	}
	if uplink, err := linux.FindUplink(linux.UplinkOptions{Iface: iface, IPv4: f.IPv4 && !f.IPv6, IPv6: f.IPv6 && !f.IPv4}); err == nil {
		f.Uplink = uplink.Name
	}
	return nil
}

// hooks are the names of those of NFPROTO_IPV4, IPV6 and INET (enum nf_inet_hooks).
var hooks = [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

func lookAtChains(ctx context.Context, f *check.Facts, k *nft.Handle) error {
	all, err := k.Survey(ctx)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the kernel has no nftables, which is told among the features, and so no chains
	}
	for _, c := range all {
		chain := check.Chain{Family: c.Family, Table: c.Table, Name: c.Chain, Drops: c.Drops, Rules: c.Rules, Refusing: c.Refusing}
		if c.Base && int(c.Hook) < len(hooks) {
			chain.Hook = hooks[c.Hook]
		}
		f.Chains = append(f.Chains, chain)
		f.Serves = f.Serves || strings.HasPrefix(c.Table, kernel.TablePrefix)
		f.Proxy = f.Proxy || c.Table == kernel.TablePrefix+"proxy"
		f.Policy = f.Policy || c.Table == kernel.TablePrefix+"policy"
	}
	return err
}

// prober asks the kernel what it can do.
type prober struct {
	links  *linux.Handle
	tables *nft.Handle
}

func (p prober) ProbeLink(kind string) error     { return p.links.ProbeLink(kind) }
func (p prober) ProbeTable(t kernel.Table) error { return p.tables.Probe(t) }
func (p prober) ProbeConntrack() error           { return conntrack.Probe() }

func lookAtFeatures(f *check.Facts, k features.Kernel) error {
	err := features.Check(k, features.Needs{IPv4: f.IPv4, IPv6: f.IPv6, VXLAN: f.Overlay, Proxy: f.Proxy, Policy: f.Policy})
	var other []error
	for _, e := range parts(err) {
		if lack, ok := errors.AsType[*kernel.LackError](e); ok {
			f.Lacks = append(f.Lacks, check.Lack{Feature: lack.Feature, Err: lack.Err})
			continue
		}
		other = append(other, e)
	}
	return errors.Join(other...)
}

// parts takes apart what errors.Join has joined.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func lookAtSysctls(f *check.Facts) {
	var names []string
	for _, l := range f.Links {
		names = append(names, l.Name)
	}
	f.Sysctls = view.Sysctls(names)
}

// lookAtLegacy reads which tables iptables-legacy has made; what is in them only its own system call tells.
func lookAtLegacy(f *check.Facts) error {
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
		text, err := os.ReadFile(path.Join(netDir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel's module is not loaded
		}
		if err != nil {
			return err
		}
		for _, name := range strings.Fields(string(text)) {
			f.Legacy = append(f.Legacy, strings.TrimSuffix(file, "_tables_names")+" "+name)
		}
	}
	return nil
}
