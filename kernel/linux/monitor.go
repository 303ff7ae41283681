//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// monitorBuffer is the limit of the kernel's queue of notifications (SO_RCVBUFFORCE; the kernel doubles it). It is used only
// while a burst lasts.
const monitorBuffer = 16 << 20

// Monitor turns the kernel's notifications into events: of links of interest, their addresses, the neighbours and
// FDB entries of those that are VXLAN devices, and the routes of the main table that are ours, are default routes, are on those VXLAN
// devices, or replaced or joined another route; and pods' links that go or are set down. What its own Handle asked the kernel for is left out as far as the kernel says so (routes and
// neighbours): 20,000 new peers would otherwise flood the queue with what is known already.
//
// Nothing of a busy host's other traffic (ARP of hundreds of pods, a full BGP table) wakes the process, but for IPv6 routes with several
// next hops, any of which may have joined one of ours: a socket filter drops it in the kernel, see filter.go. With WatchUnderlay, routes of
// other programs are told too.
type Monitor struct {
	file *os.File
	raw  syscall.RawConn
	conn *conn  // reads the links
	own  uint32 // port of the Handle's request socket

	mu       sync.Mutex
	interest []string
	devices  map[int32]device // all links of the namespace
	overlay  []int32          // indexes of the VXLAN devices of interest; what the filter was made for
	underlay bool             // routes of other programs are told too
}

// device is what a notification that bears only an index must be known of its link.
type device struct {
	name  string
	vxlan bool
	pod   bool // it bears kernel.PodLinkAliasPrefix
	up    bool
}

func deviceOf(l linkMessage) device {
	return device{name: l.name, vxlan: l.kind == "vxlan", pod: strings.HasPrefix(l.alias, kernel.PodLinkAliasPrefix), up: l.up()}
}

// NewMonitor subscribes to the notifications of the handle's network namespace for the links of the given names. What changes
// from here on will be told by Run; a dump that is made after NewMonitor misses nothing.
func (h *Handle) NewMonitor(links []string) (*Monitor, error) {
	m := &Monitor{own: h.conn.port, interest: slices.Clone(links)}
	err := h.inNamespace(m.open)
	if err == nil {
		err = m.readDevices(context.Background())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch the kernel: %w", err), m.Close())
	}
	return m, nil
}

func (m *Monitor) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink socket: %w", err)
	}
	m.file = os.NewFile(uintptr(fd), "rtnetlink")
	if m.raw, err = m.file.SyscallConn(); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, monitorBuffer) // without it, Lost comes sooner
	groups := uint32(0)
	for _, group := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return fmt.Errorf("subscribe to notifications: %w", err)
	}
	m.conn, err = dialRoute()
	return err
}

// Close releases the sockets of a monitor that was not run.
func (m *Monitor) Close() error {
	var errs []error
	if m.file != nil {
		errs = append(errs, m.file.Close())
	}
	if m.conn != nil {
		errs = append(errs, m.conn.close())
	}
	return errors.Join(errs...)
}

// SetLinks replaces the names of the links of interest. It may be called while Run runs.
func (m *Monitor) SetLinks(names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.interest = slices.Clone(names)
	return m.updateFilter()
}

// WatchUnderlay has Run tell, from now on, of changes of all routes that Handle.Underlay returns too.
func (m *Monitor) WatchUnderlay() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underlay, m.overlay = true, nil
	return m.updateFilter()
}

// Run calls emit with each event, from this goroutine, until ctx ends; then it returns nil. It closes the monitor. When the
// queue overflowed, it emits one event with Lost set.
func (m *Monitor) Run(ctx context.Context, emit func(kernel.Event)) (err error) {
	defer func() { err = errors.Join(err, m.Close()) }()
	stop := context.AfterFunc(ctx, func() {
		_ = m.file.SetReadDeadline(time.Unix(1, 0)) // fails only when the file is closed
	})
	defer stop()
	buf := make([]byte, receiveSize)
	for {
		n, err := m.read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			// Links may have come and gone unseen. The filter must know them before the reader is told to look.
			if err := m.readDevices(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("watch the kernel: %w", err)
			}
			emit(kernel.Event{Lost: true})
		case err != nil:
			return fmt.Errorf("read notifications: %w", err)
		default:
			if err := m.handle(buf[:n], emit); err != nil {
				return fmt.Errorf("watch the kernel: %w", err)
			}
		}
	}
}

func (m *Monitor) read(buf []byte) (n int, err error) {
	waitErr := m.raw.Read(func(fd uintptr) bool {
		for {
			n, err = unix.Read(int(fd), buf)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	return n, errors.Join(waitErr, err)
}

// readDevices learns the links anew.
func (m *Monitor) readDevices(ctx context.Context) error {
	all, err := dumpLinks(ctx, m.conn)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices = make(map[int32]device, len(all))
	for _, l := range all {
		m.devices[l.index] = deviceOf(l)
	}
	return m.updateFilter()
}

// updateFilter attaches a new filter when the VXLAN devices of interest are others than before. The caller holds mu.
func (m *Monitor) updateFilter() error {
	overlay := []int32{}
	for index, d := range m.devices {
		if d.vxlan && slices.Contains(m.interest, d.name) {
			overlay = append(overlay, index)
		}
	}
	slices.Sort(overlay)
	if m.overlay != nil && slices.Equal(overlay, m.overlay) {
		return nil
	}
	program, err := notificationFilter(m.own, overlay, m.underlay)
	if err != nil {
		return fmt.Errorf("assemble the filter of notifications: %w", err)
	}
	var attached error
	controlled := m.raw.Control(func(fd uintptr) { attached = attachFilter(int(fd), program) })
	if err := errors.Join(controlled, attached); err != nil {
		return err
	}
	m.overlay = overlay
	return nil
}
