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
