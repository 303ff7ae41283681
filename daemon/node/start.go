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
	network := n.awaitNetwork(ctx)
	if ctx.Err() != nil {
		return nil, nil
	}
	if len(network.Unknown) > 0 {
		n.opts.Log.Warn("the network configuration has keys without a meaning", "keys", network.Unknown)
	}
	err := n.awaitKernel(ctx, network)
	if err != nil || ctx.Err() != nil {
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

// await calls try until it returns nil or ctx ends. Meanwhile the status, and the log once for each reason, say what the node waits for and why.
func (n *Node) await(ctx context.Context, what string, try func() error) {
	retry, last := backoff{jitter: n.opts.Jitter}, ""
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return
		}
		n.status.set(fmt.Errorf("waiting for %s: %w", what, err))
		if err.Error() != last {
			n.opts.Log.Warn("waiting for "+what, "err", err)
			last = err.Error()
		}
		if !sleep(ctx.Done(), retry.next()) {
			return
		}
	}
}

// awaitNetwork waits until the network configuration is there.
func (n *Node) awaitNetwork(ctx context.Context) (network store.Network) {
	n.await(ctx, "the network configuration", func() (err error) {
		network, err = n.opts.Store.Network(ctx)
		return err
	})
	return network
}

// awaitKernel waits until the kernel has all that the network needs: somebody may load a module. Nothing has been changed by then, and no node
// sends anything here. An error that is no lack is returned.
func (n *Node) awaitKernel(ctx context.Context, network store.Network) (refused error) {
	if n.opts.Kernel == nil {
		return nil
	}
	n.await(ctx, "what the kernel lacks", func() error {
		err := n.opts.Kernel(network)
		if errors.Is(err, kernel.ErrUnsupported) {
			return troubled(err)
		}
		refused = err
		return nil
	})
	return refused
}

// register waits until the node has its subnets. It returns nil when ctx ended first.
func (s *server) register(ctx context.Context) (reg store.Registration) {
	s.n.await(ctx, "the node's subnets", func() (err error) {
		reg, err = s.n.opts.Store.Register(ctx, s.network, s.attrs, s.n.opts.Host.Preferred())
		return err
	})
	if reg != nil {
		s.n.opts.Log.Info("registered the node", "subnet", reg.Lease().Subnet, "ipv6Subnet", reg.Lease().IPv6Subnet)
	}
	return reg
}
