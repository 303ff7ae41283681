//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// EnsureBridgeNetfilter makes bridged packets of the families asked for pass through the netfilter hooks, and reports whether they do: not
// when the module br_netfilter is not loaded. See BridgeNetfilter for who needs it.
func (h *Handle) EnsureBridgeNetfilter(ipv4, ipv6 bool) (ok bool, err error) {
	err = h.inNamespace(func() error {
		for entry, wanted := range map[string]bool{"iptables": ipv4, "ip6tables": ipv6} {
			if !wanted {
				continue
			}
			if err := h.writeSysctl(bridgeNetfilter+entry, "1"); err != nil {
				return fmt.Errorf("have bridged packets pass netfilter: %w", err)
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// ConntrackSettings are settings of connection tracking (Documentation/networking/nf_conntrack-sysctl.rst); zero leaves what the kernel
// has.
type ConntrackSettings struct {
	Max                          uint32 // entries; only raised, never lowered, and the first network namespace's alone
	BeLiberal                    bool
	TCPEstablished, TCPCloseWait time.Duration // in whole seconds
	UDP, UDPStream               time.Duration
}

const conntrackEntries = "net/netfilter/nf_conntrack_"

// EnsureConntrack makes the settings so. The error joins those that could not be made.
func (h *Handle) EnsureConntrack(s ConntrackSettings) error {
	return h.inNamespace(func() error {
		var errs []error
		write := func(entry, value string) {
			if err := h.writeSysctl(conntrackEntries+entry, value); err != nil {
				errs = append(errs, fmt.Errorf("set connection tracking: %w", err))
			}
		}
		timeout := func(entry string, d time.Duration) {
			if d > 0 {
				write(entry, strconv.Itoa(int(d/time.Second)))
			}
		}
		if s.Max > 0 {
			value, err := readSysctl(h.sysctlFile(conntrackEntries + "max"))
			if have, parseErr := strconv.ParseUint(value, 10, 32); err == nil && parseErr == nil && have < uint64(s.Max) {
				write("max", strconv.FormatUint(uint64(s.Max), 10))
			}
		}
		if s.BeLiberal {
			write("tcp_be_liberal", "1")
		}
		timeout("tcp_timeout_established", s.TCPEstablished)
		timeout("tcp_timeout_close_wait", s.TCPCloseWait)
		timeout("udp_timeout", s.UDP)
		timeout("udp_timeout_stream", s.UDPStream)
		return errors.Join(errs...)
	})
}

// Addresses returns the addresses of all links of the network namespace, without those of loopback networks, link-local ones, and ones that
// another node holds.
func (h *Handle) Addresses(ctx context.Context) (out []netip.Addr, err error) {
	err = h.inNamespace(func() (err error) {
		c, err := dialRoute()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		all, err := dumpAddresses(ctx, c, 0)
		for _, a := range all {
			if addr := a.prefix.Addr(); !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && a.flags&unix.IFA_F_DADFAILED == 0 {
				out = append(out, addr)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return out, nil
}
