package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// dialTimeout bounds one attempt; an API server that is alive answers within its network's round trip.
const dialTimeout = 3 * time.Second

// dial connects to the API server: to the addresses that were given, and then to the one that client-go asks for, which in a pod is the Service
// "kubernetes". So a node reaches the API server before anybody serves that Service, it does not depend on its own service proxy as long as
// one of the addresses answers, and when none does, the Service leads to those that are alive. The name in the certificate is always
// checked against the one that client-go asked for.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var errs []error
	for _, a := range append(slices.Clone(c.cfg.Addresses), address) {
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := (&net.Dialer{}).DialContext(attempt, network, a)
		cancel()
		if err == nil {
			return c.conns.Add(conn), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("connect to the Kubernetes API: %w", errors.Join(errs...))
}

// Redial implements store.Store. Watches begin again where they were.
func (c *Client) Redial(gone []netip.Addr) {
	if n := c.conns.CloseFrom(gone); n > 0 {
		c.log.Info("connections to the Kubernetes API from addresses that are gone are made anew", "connections", n, "addresses", gone)
	}
}
