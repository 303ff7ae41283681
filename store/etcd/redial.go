package etcd

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"google.golang.org/grpc/credentials"
)

// Redial implements store.Store. A request that was under way on a connection that is closed fails as if etcd had hung up: it
// is made again where requests are, and watches go on where they were.
func (s *Store) Redial(gone []netip.Addr) {
	if n := s.conns.closeFrom(gone); n > 0 {
		s.log.Info("connections to etcd from addresses that are gone are made anew", "connections", n, "addresses", gone)
	}
}

// connections are those that are open.
type connections struct {
	mu   sync.Mutex
	open map[*connection]bool
}

// connection is a net.Conn that is known until it is closed.
type connection struct {
	net.Conn
	all *connections
}

func (c *connections) add(conn net.Conn) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*connection]bool{}
	}
	added := &connection{conn, c}
	c.open[added] = true
	return added
}

func (c *connection) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// closeFrom closes the connections from these addresses and returns how many these were.
func (c *connections) closeFrom(gone []netip.Addr) int {
	c.mu.Lock()
	var dead []*connection
	for conn := range c.open {
		from, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err == nil && slices.Contains(gone, from.Addr().Unmap()) { // a Unix socket has no such address
			dead = append(dead, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range dead {
		_ = conn.Close()
	}
	return len(dead)
}

// trackedCredentials add the connections that they do the handshake of. A dialer of our own would do so as well, but gRPC then leaves
// out what its own does (the proxy from the environment), and it sets TCP_USER_TIMEOUT on nothing but a *net.TCPConn.
type trackedCredentials struct {
	credentials.TransportCredentials
	conns *connections
}

// ClientHandshake implements credentials.TransportCredentials. Its caller closes conn when it fails.
func (t *trackedCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tracked := t.conns.add(conn)
	secured, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, tracked)
	if err != nil {
		_ = tracked.Close() // the caller knows conn alone, which would stay here for ever
		return nil, nil, err
	}
	return secured, info, nil
}

// Clone implements credentials.TransportCredentials.
func (t *trackedCredentials) Clone() credentials.TransportCredentials {
	return &trackedCredentials{t.TransportCredentials.Clone(), t.conns}
}
