//go:build linux

package linux

import (
	"slices"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// handle emits what the notifications in buf tell. A message that makes no sense counts as lost.
func (m *Monitor) handle(buf []byte, emit func(kernel.Event)) error {
	for len(buf) > 0 {
		msg, rest, err := nextMessage(buf)
		if err != nil {
			emit(kernel.Event{Lost: true})
			return nil
		}
		buf = rest
		events, err := m.notification(msg)
		if err == errMalformed {
			events, err = []kernel.Event{{Lost: true}}, nil
		}
		if err != nil {
			return err
		}
		for _, event := range events {
			emit(event)
		}
	}
	return nil
}

// notification returns the events that a message stands for: none, one, or for a link with a new name two.
func (m *Monitor) notification(msg message) ([]kernel.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch msg.msgType {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return m.linkEvents(msg)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return m.addressEvent(msg)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return m.neighborEvent(msg)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return m.routeEvent(msg)
	}
	return nil, nil
}

func (m *Monitor) linkEvents(msg message) ([]kernel.Event, error) {
	l, err := parseLinkMessage(msg.payload)
	if err != nil {
		return nil, err
	}
	deleted := msg.msgType == unix.RTM_DELLINK
	if l.family == unix.AF_BRIDGE {
		return m.portEvent(l, deleted), nil
	}
	var events []kernel.Event
	before := m.devices[l.index]
	if now := deviceOf(l); now.pod && (deleted || before.up && !now.up) {
		events = append(events, kernel.Event{Kind: kernel.KindLink, Link: l.name, Deleted: deleted, Intact: true, Pod: true})
	}
	if before.name != l.name && m.wants(before.name) {
		events = append(events, kernel.Event{Kind: kernel.KindLink, Link: before.name, Deleted: true})
	}
	if deleted {
		delete(m.devices, l.index)
	} else {
		m.devices[l.index] = deviceOf(l)
	}
	if m.wants(l.name) {
		events = append(events, kernel.Event{Kind: kernel.KindLink, Link: l.name, Deleted: deleted, Intact: !deleted && l.up()})
	}
	return events, m.updateFilter()
}

// portEvent is about a link as a port of a bridge. One that left may have to be put back, and a pod's that lost its hairpin mode,
// which it gets before it is marked as a pod's, may have to get it back; the bridge itself is as it was.
func (m *Monitor) portEvent(l linkMessage, deleted bool) []kernel.Event {
	bridge := m.devices[l.master].name
	if !m.wants(bridge) || !deleted && (l.hairpin || !m.devices[l.index].pod) {
		return nil
	}
	return []kernel.Event{{Kind: kernel.KindLink, Link: bridge, Intact: true}}
}

func (m *Monitor) addressEvent(msg message) ([]kernel.Event, error) {
	a, err := parseAddressMessage(msg.payload)
	if err != nil {
		return nil, err
	}
	name := m.devices[a.index].name
	if !m.wants(name) {
		return nil, nil
	}
	return []kernel.Event{{Kind: kernel.KindLink, Link: name, Intact: msg.msgType == unix.RTM_NEWADDR}}, nil
}

func (m *Monitor) neighborEvent(msg message) ([]kernel.Event, error) {
	n, err := parseNeighborMessage(msg.payload)
	if err != nil {
		return nil, err
	}
	if msg.port == m.own || !m.onOverlay(n.index) {
		return nil, nil
	}
	link := m.devices[n.index].name
	event := kernel.Event{Deleted: msg.msgType == unix.RTM_DELNEIGH}
	event.Foreign = !event.Deleted && !n.permanent() // what is deleted was made invalid before, whatever it was
	var ok bool
	if n.family == unix.AF_BRIDGE {
		event.Kind = kernel.KindFDB
		event.FDB, ok = n.fdb(link)
	} else {
		event.Kind = kernel.KindNeighbor
		event.Neighbor, ok = n.neighbor(link)
	}
	if !ok {
		return nil, nil
	}
	return []kernel.Event{event}, nil
}

func (m *Monitor) routeEvent(msg message) ([]kernel.Event, error) {
	r, err := parseRouteMessage(msg.payload)
	if err != nil {
		return nil, err
	}
	ours := r.protocol == kernel.RouteProtocol
	deleted := msg.msgType == unix.RTM_DELROUTE
	// A foreign IPv6 next hop joins a route of ours that has its destination and metric (fib6_add_rt2node). The message bears its
	// protocol and all next hops.
	joined := r.family == unix.AF_INET6 && r.multiple != nil
	replaced := !deleted && (joined || msg.flags&unix.NLM_F_REPLACE != 0)
	told := ours || replaced || r.dstLen == 0 || m.onOverlay(r.hop.index) || m.underlay && r.underlay()
	if msg.port == m.own || !r.mine() || !told {
		return nil, nil
	}
	route, err := r.route(func(index int32) string { return m.devices[index].name }, &hopSlab{free: make([]kernel.NextHop, 1)})
	if err != nil {
		return nil, err
	}
	foreign := !ours && !(r.fromFlannel() && m.onOverlay(r.hop.index))
	return []kernel.Event{{Kind: kernel.KindRoute, Deleted: deleted, Route: route, Foreign: foreign}}, nil
}

// wants reports whether a link of the name is of interest. The caller holds mu.
func (m *Monitor) wants(name string) bool { return name != "" && slices.Contains(m.interest, name) }

func (m *Monitor) onOverlay(index int32) bool { return slices.Contains(m.overlay, index) }
