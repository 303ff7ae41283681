package probe

import (
	"context"
	"net"
)

// Place is where questions are asked from, and where servers listen: a netns.Namespace is one.
type Place interface {
	// Do calls f on a thread whose sockets belong to the place.
	Do(f func() error) error
	// Dial connects from inside the place to an address that holds an IP address.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Here is the network namespace of the process.
type Here struct{}

// Do calls f.
func (Here) Do(f func() error) error { return f() }

// Dial connects to an address that holds an IP address.
func (Here) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}
