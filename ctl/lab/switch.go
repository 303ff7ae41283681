package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Switched is one step of SwitchRouting: the node's daemon was started with another routing and is ready.
type Switched struct {
	Node        *Node
	Routing     Routing
	Done, Total int // steps
}

// SwitchRouting moves a lab that is up to another routing, one node after the other: the network config is stored anew, then each daemon
// is stopped, started and waited for. Pods keep reaching each other, since at each moment any two nodes have a common way: where the
// new routing and the old have none, all nodes pass through one that reaches both (see stages). Towards BGP, the default of
// Overlay is therefore cross-subnet.
//
// After each step done is called; its error ends the switch. What an interrupted switch has left undone another one does: a
// node that is as it should be is passed over, and a daemon that does not run is started.
func (l *Lab) SwitchRouting(ctx context.Context, to Routing, done func(Switched) error) error {
	unlock, err := l.dir.lock()
	if err != nil {
		return fmt.Errorf("switch lab %s: %w", l.Name(), err)
	}
	defer unlock()
	o := l.current()
	if to.Backend == BGP {
		to.Overlay = cmp.Or(to.Overlay, OverlayCrossSubnet)
	}
	if to, err = to.complete(len(l.Nodes()), o.Subnets); err != nil {
		return fmt.Errorf("switch lab %s: %w", l.Name(), err)
	}
	steps := stages(o.Routing, to)
	for i, stage := range steps {
		o.Routing = stage
		progress := func(j int, n *Node) error {
			nodes := len(l.Nodes())
			return done(Switched{Node: n, Routing: stage, Done: i*nodes + j + 1, Total: len(steps) * nodes})
		}
		if o.NetworkConfig, err = l.enterStage(ctx, o, progress); err != nil {
			return fmt.Errorf("switch lab %s to %s: %w", l.Name(), stage, err)
		}
	}
	if !to.ToR {
		if err := l.Router().Remove(ctx); err != nil {
			return fmt.Errorf("switch lab %s to %s: %w", l.Name(), to, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.options.Routing, l.options.NetworkConfig = o.Routing, o.NetworkConfig
	return save(l.dir.lab(), labFile{Options: l.options, Complete: true})
}

// enterStage moves all nodes to the options' routing and returns the network config that is stored then.
func (l *Lab) enterStage(ctx context.Context, o Options, done func(int, *Node) error) (json.RawMessage, error) {
	if o.ToR {
		if err := l.Router().Start(ctx); err != nil {
			return nil, err
		}
	}
	config, err := l.storeBackend(ctx, o.Backend)
	if err != nil {
		return nil, err
	}
	for i, n := range l.Nodes() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := n.reroute(ctx, o); err != nil {
			return nil, err
		}
		if err := done(i, n); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// stages returns the routings that a lab passes through from one to another, the last among them. A node without VXLAN device (never)
// cannot speak to one that sends everything through its own (always, or the backend VXLAN); with cross-subnet it speaks to both. And it
// speaks to one of another subnet only while both have a session with the router: those come before never, and go after it.
func stages(from, to Routing) []Routing {
	plain := func(r Routing) bool { return r.Backend == BGP && r.Overlay == OverlayNever }
	middling := func(r Routing) bool { return r.Backend == BGP && r.Overlay == OverlayCrossSubnet }
	if plain(from) == plain(to) || from.ToR == to.ToR && (middling(from) || middling(to)) {
		return []Routing{to}
	}
	between := to
	if plain(from) {
		between = from
	}
	between.Overlay = OverlayCrossSubnet
	return []Routing{between, to}
}

// String returns the routing as people write it, for example "bgp (overlay cross-subnet)".
func (r Routing) String() string {
	if r.Backend != BGP {
		return r.Backend
	}
	text := fmt.Sprintf("%s (overlay %s", r.Backend, r.Overlay)
	if r.Reflectors > 0 {
		text += fmt.Sprintf(", reflectors %d", r.Reflectors)
	}
	if r.ToR {
		text += ", top-of-rack router"
	}
	return text + ")"
}

// storeBackend changes Backend.Type of the network config that is stored, and returns the whole.
func (l *Lab) storeBackend(ctx context.Context, backend string) (json.RawMessage, error) {
	client, err := l.etcd.Client()
	if err != nil {
		return nil, err
	}
	stored, err := client.Get(ctx, configKey)
	if err != nil {
		return nil, fmt.Errorf("read the network config: %w", err)
	}
	if len(stored.Kvs) == 0 {
		return nil, errors.New("read the network config: there is none")
	}
	config, err := withBackend(stored.Kvs[0].Value, backend)
	if err != nil || bytes.Equal(config, stored.Kvs[0].Value) {
		return config, err
	}
	return config, l.SetNetworkConfig(ctx, config)
}

// reroute restarts the daemon with the options' routing, unless it runs with it, and waits until it is ready.
func (n *Node) reroute(ctx context.Context, o Options) error {
	same, err := n.routed(o)
	if err != nil {
		return err
	}
	if !same {
		// Not while the daemon runs: it would read the new file at once.
		if err := n.StopDaemon(ctx); err != nil {
			return err
		}
		if err := n.setRouting(o); err != nil {
			return err
		}
	}
	if err := n.StartDaemon(); err != nil {
		return err
	}
	return n.Ready(ctx)
}

func (n *Node) setRouting(o Options) error {
	if err := n.writeBGPConfig(o); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.record.Backend = o.Backend
	return n.save()
}

// routed reports whether the node has the options' routing.
func (n *Node) routed(o Options) (bool, error) {
	if n.Backend() != o.Backend || o.Backend != BGP {
		return n.Backend() == o.Backend, nil
	}
	want, err := o.bgpConfig(n.subnet())
	if err != nil {
		return false, err
	}
	have, err := os.ReadFile(n.BGPConfigFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read the BGP configuration of %s: %w", n.Name, err)
	}
	return err == nil && bytes.Equal(want, have), nil
}
