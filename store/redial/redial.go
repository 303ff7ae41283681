// Package redial knows the connections to a datastore, so that those from an address that the node has lost can be closed at once. The
// kernel would go on sending from it until a timeout of some seconds ends the connection.
package redial

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Connections are those that are open. The zero value is ready. Its methods may be called concurrently.
type Connections struct {
	mu   sync.Mutex
	open map[*connection]bool
}

// connection is a net.Conn that is known until it is closed.
type connection struct {
	net.Conn
	all *Connections
}

// Add returns conn as one that is known until it is closed.
func (c *Connections) Add(conn net.Conn) net.Conn {
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

// CloseFrom closes the connections from these addresses and returns how many these were.
func (c *Connections) CloseFrom(gone []netip.Addr) int {
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

// Len returns how many connections are open.
func (c *Connections) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}
