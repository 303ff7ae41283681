package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/filter"
	"github.com/twill-cni/twill/store"
)

// Conntrack is what an Enforcer asks of connection tracking; package conntrack has the real functions.
type Conntrack struct {
	Remark func(ctx context.Context, flows conntrack.Flows, mask uint32, decide func(conntrack.Flow) (mark uint32, change bool)) (changed int, err error)
}

// Unmark takes the mark from all connections, as when nobody enforces policies any more.
func Unmark(ctx context.Context, c Conntrack, mark uint32) error {
	_, err := c.Remark(ctx, conntrack.Flows{Both: true}, mark, func(conntrack.Flow) (uint32, bool) { return 0, true })
	return err
}

var errUncertain = errors.New("what the kernel holds is not certain at the moment")

// judge returns what says of each connection whether it is to be cut, by what the kernel holds at the moment; ok is false when that cannot be said, and
// certain an error when that has been so.
func (e *Enforcer) judge(ctx context.Context) (decide func(conntrack.Flow) (cut, ok bool), certain func() error, err error) {
	own, err := e.opts.NodeAddrs(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	nodes := make(map[netip.Addr]bool, len(own))
	for _, a := range own {
		nodes[a.Unmap()] = true
	}
	e.state.Lock()
	defer e.state.Unlock()
	if !e.synced || e.compare {
		return nil, nil, errUncertain
	}
	current := e.filter
	certain = func() error {
		e.state.Lock()
		defer e.state.Unlock()
		if e.filter != current {
			return errUncertain
		}
		return nil
	}
	return func(c conntrack.Flow) (cut, ok bool) {
		flow := flowOf(c, nodes)
		e.state.Lock() // for each: a sync waits for one at most
		defer e.state.Unlock()
		if e.filter != current {
			return false, false
		}
		answer := current.Allows(flow)
		return answer.Local() && !answer.Allowed(), true
	}, certain, nil
}

// flowOf is the connection as policies see it: from the client's own address to who answers, after the service proxy has chosen.
func flowOf(c conntrack.Flow, nodes map[netip.Addr]bool) filter.Flow {
	protocol := store.Protocol(c.Protocol)
	f := filter.Flow{Flow: policy.Flow{Src: c.Src.Addr().Unmap(), Dst: c.Endpoint.Addr().Unmap(), Protocol: protocol}}
	if policy.HasPorts(protocol) {
		f.Port = c.Endpoint.Port()
	}
	f.FromNode = nodes[f.Src] || f.Src.IsLoopback()
	f.ToNode = nodes[f.Dst] || f.Dst.IsLoopback()
	return f
}
