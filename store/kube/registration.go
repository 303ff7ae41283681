package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/twill-cni/twill/store"
)

// Network implements store.Store: it reads the file of Config.NetConf.
func (c *Client) Network(context.Context) (store.Network, error) {
	if c.ctx.Err() != nil {
		return store.Network{}, errClosed
	}
	f, err := os.Open(c.cfg.NetConf)
	if errors.Is(err, os.ErrNotExist) {
		return store.Network{}, fmt.Errorf("read %s: %w", c.cfg.NetConf, store.ErrNoNetwork)
	}
	if err != nil {
		return store.Network{}, fmt.Errorf("read the network configuration: %w", err)
	}
	defer f.Close()                                                    // it was read only
	data, err := io.ReadAll(io.LimitReader(f, store.MaxNetworkSize+1)) // one more: ParseNetwork says that it is too large
	if err != nil {
		return store.Network{}, fmt.Errorf("read the network configuration: %w", err)
	}
	network, err := store.ParseNetwork(data)
	if err != nil {
		return store.Network{}, &store.Trouble{Reason: store.ReasonNetworkConfigInvalid, Err: fmt.Errorf("%s: %w", c.cfg.NetConf, err)}
	}
	c.network.Store(&network)
	return network, nil
}

// Register implements store.Store. The subnets are the Node's spec.podCIDRs, whoever gave them to it: preferred has no say. It waits for some
// seconds for a Node that has none yet.
func (c *Client) Register(ctx context.Context, network store.Network, attrs store.Attributes, _ []store.Subnets) (store.Registration, error) {
	r := &registration{client: c, network: network, name: attrs.NodeName, attrs: attrs, update: make(chan struct{}, 1), lost: make(chan struct{}), failing: failures{}}
	if r.name == "" {
		r.name = c.node
	}
	var ok bool
	if r.follower, ok = c.nodes.follow(r.name); !ok {
		return nil, errClosed
	}
	n, err := r.complete(ctx)
	if err == nil {
		err = r.publish(ctx, n)
	}
	if err != nil {
		r.follower.close()
		return nil, fmt.Errorf("register Node %s: %w", r.name, err)
	}
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	r.ended = make(chan struct{})
	if !c.start(r.run) {
		r.follower.close()
		return nil, errClosed
	}
	c.mu.Lock()
	c.own = r
	c.mu.Unlock()
	c.nodes.nudge()
	return r, nil
}

// registered returns this node's registration, nil when there is none.
func (c *Client) registered() *registration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own
}

// Release takes back what the node has published, and returns the subnets that it had. A Node that is gone has nothing to take back.
func (c *Client) Release(ctx context.Context, _ store.Attributes) ([]store.Subnets, error) {
	none := map[string]any{}
	for _, key := range published {
		none[key] = nil
	}
	n, err := c.annotate(ctx, c.node, none)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := podSubnets(&n.Spec)
	if err != nil || s == (store.Subnets{}) {
		return nil, err
	}
	return []store.Subnets{s}, nil
}

// annotate sets annotations of a Node; nil removes one. flannel, too, does it by way of the status: who may patch that may not taint a Node or
// change its pods' subnets.
func (c *Client) annotate(ctx context.Context, name string, values map[string]any) (*corev1.Node, error) {
	patch := map[string]any{"metadata": map[string]any{"annotations": values}}
	n, err := c.patchNode(ctx, name, types.MergePatchType, patch, mayAnnotate, "status")
	if err != nil {
		return nil, fmt.Errorf("annotate Node %s: %w", name, err)
	}
	return n, nil
}

// registration is a store.Registration. Its record is made right again whenever it is not.
type registration struct {
	client   *Client
	network  store.Network
	name     string
	follower *follower
	update   chan struct{} // of capacity 1: Update was called
	lost     chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ended  chan struct{}

	subnets store.Subnets // set once

	mu      sync.Mutex
	attrs   store.Attributes // as they were given
	lease   *store.Lease     // as it was last stored
	err     error
	failing failures // of err, what was told of it
	overlap error
}

// complete waits for the Node and its subnets.
func (r *registration) complete(ctx context.Context) (*corev1.Node, error) {
	patience := time.NewTimer(requestTimeout)
	defer patience.Stop()
	for {
		n, err := r.look()
		if err == nil {
			r.subnets, err = r.fit(n)
		}
		if err == nil {
			return n, nil
		}
		select {
		case <-r.follower.wake:
			r.follower.take()
		case <-patience.C:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.client.ctx.Done():
			return nil, errClosed
		}
	}
}

// look returns the Node as it was last seen.
func (r *registration) look() (*corev1.Node, error) {
	n, ok := r.client.nodes.get(r.name)
	switch {
	case !ok:
		if err := r.client.Health(); err != nil {
			return nil, err
		}
		return nil, errSilent
	case n == nil:
		return nil, errNoNode
	}
	return n, nil
}

// fit returns the Node's subnets of the families that the network has.
func (r *registration) fit(n *corev1.Node) (store.Subnets, error) {
	s, err := podSubnets(&n.Spec)
	if err != nil {
		return s, &store.Trouble{Reason: store.ReasonPodCIDRMissing, Err: err}
	}
	for _, family := range []struct {
		name    string
		enabled bool
		pool    store.Pool
		subnet  *netip.Prefix
	}{
		{"IPv4", r.network.EnableIPv4, r.network.IPv4, &s.IPv4},
		{"IPv6", r.network.EnableIPv6, r.network.IPv6, &s.IPv6},
	} {
		switch {
		case !family.enabled:
			*family.subnet = netip.Prefix{} // the cluster has pods of a family that this network does not serve
		case !family.subnet.IsValid():
			return s, &store.Trouble{Reason: store.ReasonPodCIDRMissing, Err: fmt.Errorf("spec.podCIDRs has no %s subnet: start kube-controller-manager with "+
				"--allocate-node-cidrs=true and %s in --cluster-cidr (kubeadm: networking.podSubnet), or set spec.podCIDRs by hand", family.name, family.pool.Network)}
		case !inside(*family.subnet, family.pool.Network):
			return s, &store.Trouble{Reason: store.ReasonNetworkConfigInvalid, Err: fmt.Errorf("spec.podCIDRs has %s, which is not in %s, the network of net-conf.json: "+
				"make that the --cluster-cidr of kube-controller-manager", *family.subnet, family.pool.Network)}
		}
	}
	return s, nil
}

func inside(p, network netip.Prefix) bool {
	return p.Bits() >= network.Bits() && network.Contains(p.Addr())
}

// publish makes the Node's annotations what they should be, and keeps what is stored.
func (r *registration) publish(ctx context.Context, n *corev1.Node) error {
	r.mu.Lock()
	attrs := r.attrs
	r.mu.Unlock()
	for _, o := range []struct {
		key  string
		addr *netip.Addr
	}{{annotationOverwrite, &attrs.PublicIP}, {annotationOverwriteV6, &attrs.PublicIPv6}} {
		if a, err := address(n.Annotations, o.key); err != nil {
			return err
		} else if a.IsValid() && o.addr.IsValid() {
			*o.addr = a
		}
	}
	l := store.NewLease(r.subnets, attrs)
	if err := l.Validate(); err != nil {
		return err
	}
	want, change := annotations(attrs), map[string]any{}
	for _, key := range published {
		have, there := n.Annotations[key]
		switch value, ok := want[key]; {
		case ok && (!there || have != value):
			change[key] = value
		case !ok && there && have != "null": // flannel's word for none
			change[key] = nil
		}
	}
	if len(change) > 0 {
		if _, err := r.client.annotate(ctx, r.name, change); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !l.Equal(r.lease) {
		r.lease = l
	}
	return nil
}

// run keeps the record right until the registration ends.
func (r *registration) run() {
	defer close(r.ended)
	defer r.follower.close()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	pause := retryFirst
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.follower.wake:
			r.follower.take()
		case <-r.update:
		case <-retry.C:
		}
		err := r.keep()
		if r.ctx.Err() != nil {
			return
		}
		r.set(err)
		if err == nil {
			pause = retryFirst
			retry.Stop()
			continue
		}
		retry.Reset(pause)
		pause = min(2*pause, retryMost)
	}
}

func (r *registration) keep() error {
	n, err := r.look()
	if err != nil {
		return err
	}
	if s, err := r.fit(n); err != nil {
		return err
	} else if s != r.subnets {
		return fmt.Errorf("spec.podCIDRs of Node %s was %s and is %s: %w", r.name, r.subnets, s, store.ErrLost)
	}
	return r.publish(r.ctx, n)
}

func (r *registration) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch begins, ends := r.failing.note("record", err, time.Now()); {
	case begins:
		r.client.log.Warn("the Node's record is not as it should be; trying again", "node", r.name, "err", err)
	case ends:
		r.client.log.Info("the Node's record is right again", "node", r.name)
	}
	r.err = err
	if errors.Is(err, store.ErrLost) {
		select {
		case <-r.lost:
		default:
			close(r.lost)
		}
	}
}

func (r *registration) setOverlap(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.overlap == nil {
		r.client.log.Error("pod subnets overlap", "err", err)
	}
	r.overlap = err
}

// Lease implements store.Registration.
func (r *registration) Lease() *store.Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lease
}

// Update implements store.Registration.
func (r *registration) Update(attrs store.Attributes) {
	r.mu.Lock()
	r.attrs = attrs
	r.mu.Unlock()
	select {
	case r.update <- struct{}{}:
	default:
	}
}

// Err implements store.Registration.
func (r *registration) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.err, r.overlap)
}

// Lost implements store.Registration.
func (r *registration) Lost() <-chan struct{} { return r.lost }

// Close implements store.Registration. The annotations stay.
func (r *registration) Close() error {
	r.client.mu.Lock()
	if r.client.own == r {
		r.client.own = nil
	}
	r.client.mu.Unlock()
	r.cancel()
	<-r.ended
	return nil
}
