package etcd

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc/credentials"

	"github.com/twill-cni/twill/store/redial"
)

// Redial implements store.Store. A request that was under way on a connection that is closed fails as if etcd had hung up: it
// is made again where requests are, and watches go on where they were.
func (s *Store) Redial(gone []netip.Addr) {
	if n := s.conns.CloseFrom(gone); n > 0 {
		s.log.Info("connections to etcd from addresses that are gone are made anew", "connections", n, "addresses", gone)
	}
}

// trackedCredentials add the connections that they do the handshake of. A dialer of our own would do so as well, but gRPC then leaves
// out what its own does (the proxy from the environment), and it sets TCP_USER_TIMEOUT on nothing but a *net.TCPConn.
type trackedCredentials struct {
	credentials.TransportCredentials
	conns *redial.Connections
}

// ClientHandshake implements credentials.TransportCredentials. Its caller closes conn when it fails.
func (t *trackedCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tracked := t.conns.Add(conn)
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
