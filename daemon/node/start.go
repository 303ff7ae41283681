package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// server is a node that knows its network. But for the watcher, it is the loop's alone.
type server struct {
	n       *Node
	network store.Network
	backend Backend
	learner Learner       // the backend, if it is one; else nil
	uplink  kernel.Uplink // as it was last found
	attrs   store.Attributes

	bridgeMAC kernel.MAC // of a bridge that was there at the start; zero for none
	reg       store.Registration
	clear     bool // nothing of another network is in the way
	told      told
	first     int64 // revision of the snapshot that was there when the first good sync ended; 0 before
	watcher   *watcher
}

// start reads the network configuration and fits the backend and the uplink to it. It changes nothing outside. It returns nil
// and no error when ctx ended first.
func (n *Node) start(ctx context.Context) (*server, error) {
	network, err := n.awaitNetwork(ctx)
	if ctx.Err() != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(network.Unknown) > 0 {
		n.opts.Log.Warn("the network configuration has keys without a meaning", "keys", network.Unknown)
	}
	if err := n.awaitKernel(ctx, network); err != nil || ctx.Err() != nil {
		return nil, err
	}
	s := &server{n: n, network: network, told: newTold(n.opts.Log)}
	if s.backend, err = n.opts.Backend(network); err != nil {
		return nil, err
	}
	s.learner, _ = s.backend.(Learner)
	if s.uplink, err = n.opts.Uplink(network); err != nil {
		return nil, err
	}
	s.watcher = newWatcher(n, s.uplink)
	if s.attrs, err = s.backend.Attributes(s.uplink); err != nil {
		return nil, err
	}
	if n.opts.BridgeMAC != nil {
		if s.bridgeMAC, err = n.opts.BridgeMAC(ctx); err != nil {
			return nil, fmt.Errorf("read bridge %s: %w", Bridge, err)
		}
	}
	n.opts.Log.Info("found the uplink", "link", s.uplink.Name, "mtu", s.uplink.MTU,
		"publicIP", s.attrs.PublicIP, "publicIPv6", s.attrs.PublicIPv6)
	return s, nil
}

// awaitNetwork retries until the network configuration is there.
func (n *Node) awaitNetwork(ctx context.Context) (store.Network, error) {
	retry := backoff{jitter: n.opts.Jitter}
	last := ""
	for {
		network, err := n.opts.Store.Network(ctx)
		if err == nil || ctx.Err() != nil {
			return network, nil
		}
		n.status.set(fmt.Errorf("waiting for the network configuration: %w", err))
		if err.Error() != last {
			n.opts.Log.Warn("waiting for the network configuration", "err", err)
			last = err.Error()
		}
		if !sleep(ctx.Done(), retry.next()) {
			return store.Network{}, nil
		}
	}
}

// awaitKernel waits until the kernel has all that the network needs: somebody may load a module. Nothing has been changed by then, and no node
// sends anything here.
func (n *Node) awaitKernel(ctx context.Context, network store.Network) error {
	if n.opts.Kernel == nil {
		return nil
	}
	retry := backoff{jitter: n.opts.Jitter}
	last := ""
	for {
		err := n.opts.Kernel(network)
		if err == nil || !errors.Is(err, kernel.ErrUnsupported) {
			return err
		}
		n.status.set(troubled(err))
		if err.Error() != last {
			n.opts.Log.Error("this host cannot serve; trying again", "err", err)
			last = err.Error()
		}
		if !sleep(ctx.Done(), retry.next()) {
			return nil
		}
	}
}

// register retries until the node has its subnets. It returns nil when ctx ended first.
func (s *server) register(ctx context.Context) store.Registration {
	log, last := s.n.opts.Log, ""
	retry := backoff{jitter: s.n.opts.Jitter}
	for {
		reg, err := s.n.opts.Store.Register(ctx, s.network, s.attrs, s.n.opts.Host.Preferred())
		if err == nil {
			log.Info("registered the node", "subnet", reg.Lease().Subnet, "ipv6Subnet", reg.Lease().IPv6Subnet)
			return reg
		}
		if ctx.Err() != nil {
			return nil
		}
		s.n.status.set(fmt.Errorf("register the node: %w", err))
		if err.Error() != last {
			log.Warn("the node is not registered yet", "err", err)
			last = err.Error()
		}
		if !sleep(ctx.Done(), retry.next()) {
			return nil
		}
	}
}
