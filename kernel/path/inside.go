//go:build linux

package path

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside reads the pod's namespace.
func inside(q Query) Inside {
	in := Inside{Link: Link{Name: q.Pod.IfName}}
	err := func() error {
		ns, err := netns.GetFromPath(q.Pod.Netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := newLooker(h, q.Other)
		if err != nil {
			return err
		}
		in.Link = l.link(q.Pod.IfName)
		in.Link.RPFilter = 0 // sysctls are those of the thread's namespace
		in.Route, err = l.route(Route{To: q.Other}, true)
		return err
	}()
	if err != nil {
		in.Error = err.Error()
	}
	return in
}
