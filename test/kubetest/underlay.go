package kubetest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Underlay is a network between namespaces: a bridge, which has the first address of both networks and is every host's default route. Its
// own namespace is the rest of the world: what a test runs there is outside of the cluster. Nothing of it has a name that another underlay
// could have, too, so any number of them may exist at a time. Its methods may be called concurrently.
type Underlay struct {
	space  *os.File
	handle *netlink.Handle
	bridge netlink.Link

	mu    sync.Mutex
	hosts []*Host
}

// Host is a namespace on an underlay.
type Host struct {
	Namespace string       // its file, for as long as this process and the underlay live
	Addrs     []netip.Addr // IPv4, IPv6
	space     *os.File
}

// The networks of underlays: those for documentation (RFC 5737, RFC 3849).
var (
	underlay4 = netip.MustParsePrefix("192.0.2.0/24")
	underlay6 = netip.MustParsePrefix("2001:db8::/64")
)

const bridgeName = "underlay"

// NewUnderlay makes an underlay without hosts.
func NewUnderlay() (*Underlay, error) {
	space, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make an underlay: %w", err)
	}
	u := &Underlay{space: space}
	if err := u.build(); err != nil {
		u.Close()
		return nil, fmt.Errorf("make an underlay: %w", err)
	}
	return u, nil
}

func (u *Underlay) build() error {
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(u.space.Fd())))
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	u.handle = handle
	// Without a MAC address of its own, a bridge takes the smallest of its ports', and neighbours have to learn it anew.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, HardwareAddr: mac(u.Gateways())}}
	if err := handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add the bridge: %w", err)
	}
	u.bridge = bridge
	return configure(handle, bridge, u.Gateways())
}

// Close removes the network. Hosts whose namespace somebody else holds lose their link.
func (u *Underlay) Close() {
	if u.handle != nil {
		u.handle.Close()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, h := range u.hosts {
		if h.space != nil {
			_ = h.space.Close() // it was for reading
		}
	}
	_ = u.space.Close() // it was for reading
}

// Namespace returns the file of the namespace that the bridge is in.
func (u *Underlay) Namespace() string { return path(u.space) }

// Gateways returns the addresses of the bridge, IPv4 and IPv6.
func (u *Underlay) Gateways() []netip.Addr { return address(1) }

// Host makes a namespace with the next free addresses of the underlay.
func (u *Underlay) Host() (*Host, error) {
	space, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make a host: %w", err)
	}
	h, err := u.next()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a host: %w", err), space.Close())
	}
	h.space, h.Namespace = space, path(space)
	if err := u.attach(space, h.Addrs); err != nil {
		return nil, fmt.Errorf("make a host: %w", err)
	}
	return h, nil
}

// Route makes a network reachable from the host through another one, until the host or that one's link is gone.
func (h *Host) Route(to netip.Prefix, through netip.Addr) error {
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(h.space.Fd())))
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	to = to.Masked()
	route := &netlink.Route{Gw: through.AsSlice(), Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}}
	if err := handle.RouteReplace(route); err != nil {
		return fmt.Errorf("route %v through %v: %w", to, through, err)
	}
	return nil
}

// next takes the next free addresses.
func (u *Underlay) next() (*Host, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.hosts) == 253 { // 255 is for broadcast, 1 the bridge's
		return nil, errors.New("the underlay has no address left")
	}
	h := &Host{Addrs: address(len(u.hosts) + 2)}
	u.hosts = append(u.hosts, h)
	return h, nil
}

// address returns the underlay's addresses with a number.
func address(n int) []netip.Addr {
	v4, v6 := underlay4.Addr().As4(), underlay6.Addr().As16()
	v4[3], v6[15] = byte(n), byte(n)
	return []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
}

// attach connects a namespace to the bridge. The link is named after the last byte of the address: no other host has it.
func (u *Underlay) attach(space *os.File, addrs []netip.Addr) error {
	link := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: port(addrs), MasterIndex: u.bridge.Attrs().Index, MTU: 1500},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(int(space.Fd())),
		// The same after a crash, as that of a network card: who has it in a neighbour table would believe in the old one for half a minute.
		PeerHardwareAddr: mac(addrs),
	}
	if err := u.handle.LinkAdd(link); err != nil {
		return fmt.Errorf("connect %v to the underlay: %w", addrs[0], err)
	}
	if err := u.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the link of %v up: %w", addrs[0], err)
	}
	inner, err := netlink.NewHandleAt(netns.NsHandle(int(space.Fd())))
	if err != nil {
		return fmt.Errorf("open netlink in the namespace of %v: %w", addrs[0], err)
	}
	defer inner.Close()
	eth0, err := inner.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0 of %v: %w", addrs[0], err)
	}
	if err := configure(inner, eth0, addrs); err != nil {
		return err
	}
	for _, gateway := range u.Gateways() {
		if err := inner.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route %v through %v: %w", addrs[0], gateway, err)
		}
	}
	return nil
}

// attached reports whether the bridge still has the port of a host.
func (u *Underlay) attached(addrs []netip.Addr) bool {
	_, err := u.handle.LinkByName(port(addrs))
	_, gone := errors.AsType[netlink.LinkNotFoundError](err)
	return !gone
}

func mac(addrs []netip.Addr) net.HardwareAddr {
	return net.HardwareAddr{2, 0, 0, 0, 0, addrs[0].As4()[3]}
}

func port(addrs []netip.Addr) string { return fmt.Sprintf("host%d", addrs[0].As4()[3]) }

// configure sets a link and loopback up and gives the link addresses. Duplicate address detection would make IPv6 wait for a second.
func configure(h *netlink.Handle, link netlink.Link, addrs []netip.Addr) error {
	for _, addr := range addrs {
		bits := underlay4.Bits()
		if addr.Is6() {
			bits = underlay6.Bits()
		}
		mask := net.CIDRMask(bits, addr.BitLen())
		err := h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: mask}, Flags: unix.IFA_F_NODAD})
		if err != nil {
			return fmt.Errorf("add address %v to %s: %w", addr, link.Attrs().Name, err)
		}
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	for _, l := range []netlink.Link{lo, link} {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// newNamespace makes a network namespace that lives as long as the file is open, and ends with this process at the latest.
func newNamespace() (*os.File, error) {
	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine, and nothing else ever runs in its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- made{file, err}
	}()
	m := <-done
	return m.file, m.err
}

// path returns a file's name in this process and in others: that of the namespace, though nothing in the file system names it.
func path(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
