package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An observer counts the routes, neighbours and FDB entries that come into being, from the kernel's notifications: the
// programs under test are neither polled nor asked.
type observer struct {
	socket *nl.NetlinkSocket
	routes map[string]bool
	neighs map[string]bool // neighbours and FDB entries
}

func observe() (*observer, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_NEIGH)
	if err != nil {
		return nil, fmt.Errorf("subscribe to routes and neighbours: %w", err)
	}
	if err := s.SetReceiveBufferSize(256<<20, true); err != nil {
		return nil, fmt.Errorf("receive buffer: %w", err)
	}
	return &observer{s, map[string]bool{}, map[string]bool{}}, nil
}

func (o *observer) close() { o.socket.Close() }

// wait returns when n peers are programmed: n new IPv4 routes by way of a gateway, and 2n new permanent neighbour and FDB
// entries.
func (o *observer) wait(n int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	if err := o.socket.SetReceiveTimeout(&unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	for len(o.routes) < n || len(o.neighs) < 2*n {
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s there are %d of %d routes, %d of %d neighbours and FDB entries", limit, len(o.routes), n, len(o.neighs), 2*n)
		}
		msgs, _, err := o.socket.Receive()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive notifications: %w", err)
		}
		for _, m := range msgs {
			o.count(m.Header.Type, m.Data)
		}
	}
	return nil
}

func (o *observer) count(kind uint16, data []byte) {
	switch kind {
	case unix.RTM_NEWROUTE:
		attrs, err := nl.ParseRouteAttrAsMap(data[unix.SizeofRtMsg:])
		if dst, ok := attrs[unix.RTA_DST]; err == nil && ok {
			if _, ok := attrs[unix.RTA_GATEWAY]; ok {
				o.routes[string(dst.Value)] = true
			}
		}
	case unix.RTM_NEWNEIGH:
		state := uint16(data[8]) | uint16(data[9])<<8 // struct ndmsg
		if attrs, err := nl.ParseRouteAttrAsMap(data[unix.SizeofNdMsg:]); err == nil && state&unix.NUD_PERMANENT != 0 {
			o.neighs[string(data[0])+string(attrs[unix.NDA_LLADDR].Value)+string(attrs[unix.NDA_DST].Value)] = true
		}
	}
}

// usage is what a process has used.
type usage struct {
	cpu      time.Duration // its own and that of children that it waited for
	children time.Duration // of these, the children's
	rss      int64         // bytes
	peak     int64         // bytes
}

// processUsage reads the process's own clock, to the nanosecond, and /proc/<pid>/stat and status. The time of children comes in the
// kernel's ticks of 10 ms.
func processUsage(pid int) (usage, error) {
	var u usage
	own, err := processorTime(pid)
	if err != nil {
		return u, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	tick := func(i int) time.Duration {
		n, _ := strconv.ParseInt(fields[i], 10, 64) // the kernel writes numbers
		return time.Duration(n) * 10 * time.Millisecond
	}
	u.children = tick(13) + tick(14)
	u.cpu = own + u.children
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // 0 for lines of another form
		switch name {
		case "VmRSS":
			u.rss = kib << 10
		case "VmHWM":
			u.peak = kib << 10
		}
	}
	return u, nil
}

// processorTime returns what all threads of a process have used, those that ended included: CLOCK_PROCESS_CPUTIME_ID of another process,
// whose number clock_getcpuclockid(3) makes of the process's. Sums over /proc/<pid>/task lack the threads that ended.
func processorTime(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED in include/linux/posix-timers_types.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}
