//go:build linux

package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultSysctlDir is where the kernel shows its settings.
const defaultSysctlDir = "/proc/sys"

// The entries that make a router of the node.
const (
	forwardingIPv4 = "net/ipv4/ip_forward"
	forwardingIPv6 = "net/ipv6/conf/all/forwarding"
)

// sysctlFile returns the file of an entry such as "net/ipv4/ip_forward".
func (h *Handle) sysctlFile(entry string) string { return path.Join(h.sysctlDir, entry) }

// checkSysctls tells a directory where nothing was mounted, below which every entry would look like one that the kernel does not have.
func (h *Handle) checkSysctls() error {
	if !exists(h.sysctlFile("net/core")) {
		return fmt.Errorf("%s has no entry net/core: mount the host's /proc/sys/net at %s", h.sysctlDir, h.sysctlFile("net"))
	}
	return nil
}

// readSysctls reads the entries of the link that keys name, such as "ipv6/accept_ra". What does not exist is left out.
func (h *Handle) readSysctls(link string, keys map[string]string) (map[string]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	values := make(map[string]string, len(keys))
	err := h.inNamespace(func() error {
		for key := range keys {
			entry, err := linkSysctl(link, key)
			if err != nil {
				return err
			}
			value, err := readSysctl(h.sysctlFile(entry))
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return err
			default:
				values[key] = value
			}
		}
		return nil
	})
	return values, err
}

// writeSysctls sets the entries of the link that are not as they should be. Entries of IPv6 are passed over on a
// kernel without IPv6.
func (h *Handle) writeSysctls(link string, entries map[string]string) error {
	if len(entries) == 0 {
		return nil
	}
	return h.inNamespace(func() error {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			entry, err := linkSysctl(link, key)
			if err != nil {
				return err
			}
			if strings.HasPrefix(key, "ipv6/") && !exists(h.sysctlFile("net/ipv6")) {
				continue
			}
			if err := h.writeSysctl(entry, entries[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

// linkSysctl returns the entry of a link's key such as "ipv6/accept_ra".
func linkSysctl(link, key string) (string, error) {
	stack, entry, ok := strings.Cut(key, "/")
	if !ok || stack != "ipv4" && stack != "ipv6" || entry == "" || strings.ContainsAny(entry, "/.") || strings.Contains(link, "/") {
		return "", fmt.Errorf("sysctl %q of link %q: want ipv4/NAME or ipv6/NAME: %w", key, link, unix.EINVAL)
	}
	return path.Join("net", stack, "conf", link, entry), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func readSysctl(file string) (string, error) {
	value, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(value)), nil
}

// writeSysctl writes only what differs, so that the directory may be read-only where all is well. The error of one that may not be written
// says what to do.
func (h *Handle) writeSysctl(entry, value string) error {
	file := h.sysctlFile(entry)
	have, err := readSysctl(file)
	if err != nil || have == value {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	switch {
	case errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("set %s to %s, which is %s: run `sysctl -w %s=%s` on the host, or mount its /proc/sys/net where the daemon may write "+
			"and say so with --sysctl-dir: %w", sysctlName(entry), value, have, sysctlName(entry), value, err)
	case err != nil:
		return fmt.Errorf("set %s to %s, which is %s: %w", sysctlName(entry), value, have, err)
	}
	return nil
}

// EnsureForwarding switches on what makes the node a router, net.ipv4.ip_forward and net.ipv6.conf.all.forwarding, for the
// families asked for when it is off. The error says what to do where the daemon may not write.
func (h *Handle) EnsureForwarding(ipv4, ipv6 bool) error {
	return h.inNamespace(func() error {
		for _, entry := range forwardingEntries(ipv4, ipv6) {
			if err := h.writeSysctl(entry, "1"); err != nil {
				return fmt.Errorf("switch forwarding on: %w", err)
			}
		}
		return nil
	})
}

// CheckForwarding returns an error that names each family asked for which the node does not forward. It changes nothing.
func (h *Handle) CheckForwarding(ipv4, ipv6 bool) error {
	return h.inNamespace(func() error {
		var errs []error
		for _, entry := range forwardingEntries(ipv4, ipv6) {
			value, err := readSysctl(h.sysctlFile(entry))
			switch {
			case err != nil:
				errs = append(errs, err)
			case value == "0":
				errs = append(errs, fmt.Errorf("forwarding is off: %s is 0, want 1", sysctlName(entry)))
			}
		}
		return errors.Join(errs...)
	})
}

func forwardingEntries(ipv4, ipv6 bool) []string {
	var entries []string
	if ipv4 {
		entries = append(entries, forwardingIPv4)
	}
	if ipv6 {
		entries = append(entries, forwardingIPv6)
	}
	return entries
}

// sysctlName returns the name of an entry as sysctl(8) has it.
func sysctlName(entry string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(entry)
}

// bridgeNetfilter begins the entries of the module br_netfilter.
const bridgeNetfilter = "net/bridge/bridge-nf-call-"

// BridgeNetfilter says whether bridged IPv4 and IPv6 packets pass through the netfilter hooks, without which a pod that reaches
// itself or its neighbour on the node through a Service gets answers that were not translated back. Both are false when the
// module br_netfilter is not loaded.
func (h *Handle) BridgeNetfilter() (ipv4, ipv6 bool, err error) {
	read := func(entry string) (bool, error) {
		value, err := readSysctl(h.sysctlFile(bridgeNetfilter + entry))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return value != "0" && err == nil, err
	}
	err = h.inNamespace(func() error {
		var err4, err6 error
		ipv4, err4 = read("iptables")
		ipv6, err6 = read("ip6tables")
		return errors.Join(err4, err6)
	})
	return ipv4, ipv6, err
}
