package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
)

// kernelAlone measures what the kernel takes to program joiners more peers where there are n: the same messages that a daemon
// sends, with nothing around them. It makes the device itself and removes it.
func kernelAlone(ctx context.Context, n, joiners int) (cpu time.Duration, err error) {
	device := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1", Flags: unix.IFF_UP}, VxlanId: 1, Port: 8472}
	if err := netlink.LinkAdd(device); err != nil {
		return 0, fmt.Errorf("add %s: %w", device.Name, err)
	}
	defer func() { err = errors.Join(err, netlink.LinkDel(device)) }()
	handle, err := linux.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	if err := program(ctx, handle, device.Name, 0, n); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // the kernel does its work on the thread that sends the messages
	defer runtime.UnlockOSThread()
	begin, err := threadTime()
	if err != nil {
		return 0, err
	}
	if err := program(ctx, handle, device.Name, n, joiners); err != nil {
		return 0, err
	}
	end, err := threadTime()
	return end - begin, err
}

// program gives the kernel the FDB entries, neighbours and routes of peers first to first+n-1.
func program(ctx context.Context, handle *linux.Handle, link string, first, n int) error {
	fdb := make([]kernel.Change[kernel.FDBEntry], n)
	neighbors := make([]kernel.Change[kernel.Neighbor], n)
	routes := make([]kernel.Change[kernel.Route], n)
	for i := range n {
		subnet, public := peerAddresses(first + i)
		mac := kernel.MAC{0x0a, 0, 0, 0, byte((first + i) >> 8), byte(first + i)}
		fdb[i].Value = kernel.FDBEntry{Link: link, MAC: mac, Dst: public}
		neighbors[i].Value = kernel.Neighbor{Link: link, IP: subnet, MAC: mac}
		routes[i].Value = kernel.Route{Dst: netip.PrefixFrom(subnet, 24), NextHops: []kernel.NextHop{{Gateway: subnet, Link: link, OnLink: true}}}
	}
	errs := handle.ApplyFDB(ctx, fdb)
	errs = append(errs, handle.ApplyNeighbors(ctx, neighbors)...)
	errs = append(errs, handle.ApplyRoutes(ctx, routes)...)
	return errors.Join(errs...)
}

func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}
