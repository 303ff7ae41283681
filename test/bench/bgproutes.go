package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

// The numbers by which the kernel tells whose a route is (include/uapi/linux/rtnetlink.h).
const (
	byTwill = 84
	byBIRD  = unix.RTPROT_BIRD
	byFRR   = unix.RTPROT_BGP
)

// A routeMonitor follows one program's IPv4 routes in a namespace by the kernel's notifications.
type routeMonitor struct {
	socket   *nl.NetlinkSocket
	protocol byte
	within   netip.Prefix // other routes are passed over

	routes         map[netip.Prefix]bool // those that are there
	added, removed int                   // messages: RTM_NEWROUTE, which also replaces, and RTM_DELROUTE
}

// monitorRoutes sees what happens from now on to the routes of a protocol within a prefix.
func monitorRoutes(ns netns.Namespace, protocol byte, within netip.Prefix) (*routeMonitor, error) {
	m := &routeMonitor{protocol: protocol, within: within, routes: map[netip.Prefix]bool{}}
	err := ns.Do(func() (err error) {
		m.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to routes: %w", err)
	}
	if err := m.socket.SetReceiveBufferSize(256<<20, true); err != nil {
		m.close()
		return nil, fmt.Errorf("receive buffer: %w", err)
	}
	return m, m.socket.SetReceiveTimeout(&unix.Timeval{Usec: 100_000})
}

func (m *routeMonitor) close() { m.socket.Close() }

// count returns how many routes there are.
func (m *routeMonitor) count() int { return len(m.routes) }

// messages returns how many there were.
func (m *routeMonitor) messages() int { return m.added + m.removed }

// until reads notifications until done holds, and returns when that was.
func (m *routeMonitor) until(what string, done func() bool) (time.Time, error) {
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			return time.Time{}, fmt.Errorf("wait for %s: there are %d routes after %s", what, len(m.routes), patience)
		}
		if _, err := m.read(); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

// drain reads what has been told already.
func (m *routeMonitor) drain() error {
	for {
		if any, err := m.read(); err != nil || !any {
			return err
		}
	}
}

// read reads the next notifications and reports whether there were any within the socket's time.
func (m *routeMonitor) read() (bool, error) {
	msgs, _, err := m.socket.Receive()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("receive notifications: %w", err)
	}
	for _, msg := range msgs {
		if msg.Header.Type == unix.RTM_NEWROUTE || msg.Header.Type == unix.RTM_DELROUTE {
			m.note(msg.Header.Type, msg.Data)
		}
	}
	return true, nil
}

// note reads a struct rtmsg and its RTA_DST.
func (m *routeMonitor) note(kind uint16, data []byte) {
	if len(data) < unix.SizeofRtMsg || data[5] != m.protocol {
		return
	}
	attrs, err := nl.ParseRouteAttrAsMap(data[unix.SizeofRtMsg:])
	dst, ok := netip.AddrFromSlice(attrs[unix.RTA_DST].Value)
	if err != nil || !ok || !m.within.Contains(dst) {
		return
	}
	p := netip.PrefixFrom(dst, int(data[1]))
	if kind == unix.RTM_NEWROUTE {
		m.added++
		m.routes[p] = true
	} else {
		m.removed++
		delete(m.routes, p)
	}
}
