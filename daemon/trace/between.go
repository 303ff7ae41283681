package trace

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/path"
)

// overhead is what VXLAN adds to a packet in bytes, by the family of the nodes' addresses: outer IP header, UDP, VXLAN, inner Ethernet (RFC 7348).
func overhead(local netip.Addr) int {
	if local.Is6() {
		return 70
	}
	return 50
}

// links are those that the node speaks to others by.
func (j *judge) links(v *path.View) {
	if v.Uplink.Name != "" {
		reason, mend := linkFault(v.Uplink)
		j.check(Uplink, words(linkText(v.Uplink), addressText(v.Uplink)), reason, mend)
	}
	if v.Overlay != nil {
		reason, mend := linkFault(v.Overlay.Link)
		if reason != "" && j.Target == nil && v.Out.Device != v.Overlay.Name { // the packet need not take it
			j.add(Overlay, Suspicious, overlayText(v.Overlay), reason, mend)
			return
		}
		j.check(Overlay, overlayText(v.Overlay), reason, mend)
	}
}

func overlayText(o *path.Overlay) string {
	return words(linkText(o.Link), addressText(o.Link), fmt.Sprintf("MAC %s, VNI %d, port %d, local %s", o.MAC, o.VNI, o.Port, o.Local))
}

// leave is the way out of a node: from its links to the wire. there is the other end's node, nil when nothing is known of it.
func (j *judge) leave(v, there *path.View, to End) {
	if !j.reply {
		j.links(v)
		if j.missingOverlay(v, there) || j.unlike(v, there) {
			return
		}
	}
	r := v.Out
	reason, mend := routeFault(r, v, there, j.peer())
	if reason == RPFilter {
		j.rpFilter(r)
		return
	}
	j.check(Route, routeText(r), reason, mend)
	if reason != "" {
		return
	}
	j.nextHop(r, v, there)
	j.mtu(r, v)
}

// peer is the name of the node at the other end.
func (j *judge) peer() string {
	if j.reply {
		return j.From.Node
	}
	return j.To.Node
}

// missingOverlay is when one node has a VXLAN device and the other has none.
func (j *judge) missingOverlay(v, there *path.View) bool {
	if there == nil || (v.Overlay == nil) == (there.Overlay == nil) {
		return false
	}
	node, device := j.node, ""
	if v.Overlay == nil {
		device = there.Overlay.Name
	} else {
		node, device = j.peer(), v.Overlay.Name
	}
	uses := v.Out.Device == device || there.Out.Device == device
	if !uses && v.Out.Refused == "" && v.Out.Protocol == kernel.RouteProtocol {
		return false // nodes between two backends, as while a cluster is switched
	}
	j.hops = append(j.hops, Hop{Node: node, What: Overlay, State: Failed, Holds: device + " missing", Reason: "there is no VXLAN device " + device,
		Mend: "start twilld on " + node + ", which makes it"})
	return true
}

// unlike is when two VXLAN devices do not understand each other.
func (j *judge) unlike(v, there *path.View) bool {
	if there == nil || v.Overlay == nil || there.Overlay == nil {
		return false
	}
	a, b := v.Overlay, there.Overlay
	what := ""
	switch {
	case a.VNI != b.VNI:
		what = fmt.Sprintf("VNI %d, and on %s %d", a.VNI, j.peer(), b.VNI)
	case a.Port != b.Port:
		what = fmt.Sprintf("port %d, and on %s %d", a.Port, j.peer(), b.Port)
	default:
		return false
	}
	j.add(Overlay, Failed, overlayText(a), a.Name+" has the "+what, "ip link del the one that is not as the network config in the datastore says; twilld makes it anew")
	return true
}

// routeFault says what is wrong with the way out of a node.
func routeFault(r path.Route, v, there *path.View, peer string) (reason, mend string) {
	mend = "start twilld, which writes it anew"
	var want string
	if there != nil && there.Overlay != nil && v.Overlay != nil && len(there.Overlay.Addresses) > 0 {
		want = fmt.Sprintf("via %s dev %s onlink", there.Overlay.Addresses[0].Addr(), v.Overlay.Name)
	} else if there != nil && len(there.Uplink.Addresses) > 0 && v.Uplink.Found && onLink(v.Uplink, there.Uplink) {
		want = fmt.Sprintf("via %s dev %s", there.Uplink.Addresses[0].Addr(), v.Uplink.Name)
	}
	if want != "" && there != nil && len(there.Bridge.Addresses) > 0 {
		mend = fmt.Sprintf("ip route replace %s %s proto %d", there.Bridge.Addresses[0].Masked(), want, kernel.RouteProtocol)
	}
	switch {
	case r.Refused == path.ReversePath:
		return RPFilter, ""
	case r.Refused == path.Blackhole || r.Refused == path.Unreachable || r.Refused == path.Prohibit:
		return fmt.Sprintf("a %s route for %s takes the packet", r.Refused, r.Prefix), fmt.Sprintf("ip route del %s %s", r.Refused, r.Prefix)
	case r.Refused != "":
		return fmt.Sprintf("the kernel does not route to %s: %s", r.To, r.Refused), mend
	case there == nil:
		return "", ""
	case v.Overlay != nil && there.Overlay != nil:
		if r.Device == v.Overlay.Name && there.Overlay.Has(r.NextHop()) || r.Device != v.Overlay.Name && there.Uplink.Has(r.NextHop()) {
			return "", ""
		}
	case r.Prefix.Bits() > 0 && r.Device != v.Bridge.Name && (there.Uplink.Has(r.NextHop()) || !onLink(v.Uplink, there.Uplink)):
		return "", ""
	}
	if r.Prefix.Bits() == 0 {
		return fmt.Sprintf("there is no route to the pods of %s; the default route takes the packet", peer), mend
	}
	if r.Protocol == kernel.RouteProtocol {
		return fmt.Sprintf("the route to %s does not lead to %s", r.Prefix, peer), mend
	}
	return fmt.Sprintf("a route to %s, which is not Twill's, does not lead to %s", r.Prefix, peer), fmt.Sprintf("ip route del %s %s; %s", r.Prefix, via(r), mend)
}

// onLink reports whether two uplinks are in one subnet.
func onLink(a, b path.Link) bool {
	return slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.Addresses, func(q netip.Prefix) bool { return p.Masked().Contains(q.Addr()) })
	})
}

// nextHop is the neighbour, and for a VXLAN device what is behind it.
func (j *judge) nextHop(r path.Route, v, there *path.View) {
	if v.Overlay == nil || r.Device != v.Overlay.Name {
		j.uplinkNeighbour(Neighbour, r, there)
		return
	}
	n, gw := r.Neighbor, r.NextHop()
	entry := "start twilld, which writes it anew"
	var vtep *path.Overlay
	if there != nil && there.Overlay != nil {
		vtep = there.Overlay
		entry = fmt.Sprintf("ip neigh replace %s lladdr %s dev %s nud permanent", gw, vtep.MAC, r.Device)
	}
	reason := ""
	switch {
	case !n.Found || n.MAC == "":
		reason = fmt.Sprintf("nobody says which MAC %s has", gw)
	case n.State == "failed":
		reason = fmt.Sprintf("%s does not answer", gw)
	case vtep != nil && wrongMAC(n, vtep.MAC):
		reason = fmt.Sprintf("%s has the MAC %s here, and %s of %s has %s", gw, n.MAC, vtep.Name, j.peer(), vtep.MAC)
	}
	j.check(Neighbour, neighbourText(n), reason, entry)
	if reason != "" {
		return
	}
	j.fdb(r, vtep)
}

func (j *judge) fdb(r path.Route, vtep *path.Overlay) {
	reason, mend := "", "start twilld, which writes it anew"
	if vtep != nil && vtep.Local.IsValid() {
		mend = fmt.Sprintf("bridge fdb replace %s dev %s dst %s self permanent", vtep.MAC, r.Device, vtep.Local)
	}
	switch {
	case len(r.FDB) == 0:
		reason = fmt.Sprintf("%s does not know behind which node %s is", r.Device, r.Neighbor.MAC)
	case vtep != nil && vtep.Local.IsValid() && r.FDB[0] != vtep.Local:
		reason = fmt.Sprintf("%s sends to %s, and %s has %s", r.Device, r.FDB[0], j.peer(), vtep.Local)
	}
	holds := "no entry for " + r.Neighbor.MAC
	if len(r.FDB) > 0 {
		holds = fmt.Sprintf("%s is behind %s", r.Neighbor.MAC, r.FDB[0])
	}
	j.check(FDB, holds, reason, mend)
	if reason != "" || r.Underlay == nil {
		return
	}
	u := *r.Underlay
	if u.Refused != "" {
		j.check(Underlay, routeText(u), fmt.Sprintf("there is no way to %s: %s", u.To, u.Refused), underlayMend(u))
		return
	}
	j.uplinkNeighbour(Underlay, u, j.there())
}

func underlayMend(u path.Route) string {
	switch u.Refused {
	case path.Blackhole, path.Unreachable, path.Prohibit:
		return fmt.Sprintf("ip route del %s %s", u.Refused, u.Prefix)
	}
	return fmt.Sprintf("give the node a route to %s", u.To)
}

// there is the view of the other end's node.
func (j *judge) there() *path.View {
	if j.reply {
		return j.Source
	}
	return j.Target
}

// uplinkNeighbour is the next hop on the uplink.
func (j *judge) uplinkNeighbour(what string, r path.Route, there *path.View) {
	n := r.Neighbor
	reason, mend := "", fmt.Sprintf("ip neigh del %s dev %s", n.Address, r.Device)
	link, linkMend := linkFault(r.Link)
	switch {
	case link != "":
		reason, mend = link, linkMend
	case n.State == "failed":
		reason, mend = fmt.Sprintf("%s does not answer on %s", n.Address, r.Device), "look at the cable and at the other node's uplink"
	case there != nil && there.Uplink.Has(n.Address) && wrongMAC(n, there.Uplink.MAC):
		reason = fmt.Sprintf("the node takes %s for the MAC of %s, which has %s", n.MAC, n.Address, there.Uplink.MAC)
	case what == Underlay && r.Gateway.IsValid() && there != nil && onLink(j.here().Uplink, there.Uplink):
		reason, mend = fmt.Sprintf("packets to %s, which is on the same link, go by way of %s", r.To, r.Gateway), fmt.Sprintf("ip route del %s %s", r.Prefix, via(r))
	}
	holds := neighbourText(n)
	if what == Underlay {
		holds = words(routeText(r), holds)
	}
	j.check(what, holds, reason, mend)
}

func (j *judge) here() *path.View {
	if j.reply {
		return j.Target
	}
	return j.Source
}

// mtu compares the links of the way with what the pod sends.
func (j *judge) mtu(r path.Route, v *path.View) {
	if v.Pod.Error != "" {
		return
	}
	pod := v.Pod.Link.MTU
	if r.Link.MTU < pod {
		j.mtuFault(r.Link, pod)
		return
	}
	holds := fmt.Sprintf("pod %d, %s %d", pod, r.Link.Name, r.Link.MTU)
	if r.Underlay != nil && r.Underlay.Link.Found {
		u := r.Underlay.Link
		if need := pod + overhead(r.Underlay.To); u.MTU < need {
			j.add(MTU, Failed, linkText(u), fmt.Sprintf("%s has the MTU %d, and a packet of the pod has up to %d bytes in VXLAN", u.Name, u.MTU, need),
				fmt.Sprintf("ip link set %s mtu %d, or restart twilld and the pods, which then get %d", u.Name, need, u.MTU-overhead(r.Underlay.To)))
			return
		}
		holds = words(holds, fmt.Sprintf("%s %d", u.Name, u.MTU))
	}
	j.add(MTU, OK, holds, "", "")
}

// arrival is the route of the packet at the node of its target.
func (j *judge) arrival(v, from *path.View) {
	if !v.Bridge.Up || len(v.Bridge.Addresses) == 0 {
		return // its route is gone with it, and the bridge's own hop says so
	}
	overlay := v.Overlay != nil && from.Overlay != nil && (from.Out.Device == from.Overlay.Name || from.Out.Refused != "")
	for _, r := range v.In {
		if (v.Overlay != nil && r.Incoming == v.Overlay.Name) != overlay {
			continue
		}
		switch {
		case r.Refused == path.ReversePath:
			j.rpFilter(r)
			return
		case r.Refused == path.Blackhole || r.Refused == path.Unreachable || r.Refused == path.Prohibit:
			j.check(Arrival, routeText(r), fmt.Sprintf("a %s route for %s takes the packet", r.Refused, r.Prefix), fmt.Sprintf("ip route del %s %s", r.Refused, r.Prefix))
			return
		case r.Refused != "" && v.Bridge.Carrier:
			j.check(Arrival, routeText(r), fmt.Sprintf("the kernel does not route to %s: %s", r.To, r.Refused), "give "+v.Bridge.Name+" its address and network again, or start twilld")
			return
		case r.Refused == "" && r.Device != v.Bridge.Name && v.Bridge.Carrier:
			j.check(Arrival, routeText(r), fmt.Sprintf("packets to the pod go to %s, and not to %s", r.Device, v.Bridge.Name), fmt.Sprintf("ip route del %s %s", r.Prefix, via(r)))
			return
		}
		j.add(Arrival, OK, routeText(r), "", "")
		return
	}
}

func (j *judge) rpFilter(r path.Route) {
	j.add(RPFilter, Failed, fmt.Sprintf("from %s on %s", r.Source, r.Incoming),
		fmt.Sprintf("packets from %s that come by %s are dropped: rp_filter is strict, and the way to that address is another one", r.Source, r.Incoming),
		fmt.Sprintf("ip route get %s, and remove what leads it elsewhere; or sysctl -w net.ipv4.conf.%s.rp_filter=2", r.Source, slashed(r.Incoming)))
}

func slashed(link string) string {
	out := []byte(link)
	for i := range out {
		if out[i] == '.' {
			out[i] = '/'
		}
	}
	return string(out)
}

func routeText(r path.Route) string {
	if r.Refused != "" {
		if r.Prefix.IsValid() && r.Refused != path.NoRoute {
			return fmt.Sprintf("%s %s", r.Refused, r.Prefix)
		}
		return r.Refused
	}
	if !r.Prefix.IsValid() {
		return ""
	}
	return fmt.Sprintf("%s %s", r.Prefix, via(r))
}

func via(r path.Route) string {
	if r.Gateway.IsValid() {
		return fmt.Sprintf("via %s dev %s", r.Gateway, r.Device)
	}
	return "dev " + r.Device
}
