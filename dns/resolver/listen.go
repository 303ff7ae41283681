//go:build linux

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/kernel/freebind"
)

// Limits of what clients can make the Server hold.
const (
	maxConnections  = 256 // of TCP, at an address
	maxPerConn      = 128 // questions on one connection
	readTimeout     = 2 * time.Second
	idleTimeout     = 8 * time.Second
	shutdownTimeout = time.Second
	maxRequest      = 4096 // bytes of a question by UDP
)

// listeners are the servers at one place.
type listeners []*dns.Server

// listen opens UDP and TCP at each address, or nothing.
func listen(ctx context.Context, addrs []netip.AddrPort, handler dns.Handler) (listeners, error) {
	var all listeners
	config := net.ListenConfig{Control: freebind.Control} // pods' gateway comes with the node's bridge
	for _, addr := range addrs {
		family := "4"
		if addr.Addr().Is6() {
			family = "6"
		}
		packets, err := config.ListenPacket(ctx, "udp"+family, addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for DNS by UDP: %w", err), all.close())
		}
		all = append(all, &dns.Server{PacketConn: packets, Handler: handler, UDPSize: maxRequest, ReadTimeout: readTimeout})
		streams, err := config.Listen(ctx, "tcp"+family, addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for DNS by TCP: %w", err), all.close())
		}
		all = append(all, &dns.Server{Listener: netutil.LimitListener(streams, maxConnections), Handler: handler, MaxTCPQueries: maxPerConn,
			ReadTimeout: readTimeout, WriteTimeout: readTimeout, IdleTimeout: func() time.Duration { return idleTimeout }})
	}
	return all, nil
}

// close closes what does not serve yet.
func (l listeners) close() error {
	var errs []error
	for _, s := range l {
		if s.PacketConn != nil {
			errs = append(errs, s.PacketConn.Close())
		} else {
			errs = append(errs, s.Listener.Close())
		}
	}
	return errors.Join(errs...)
}

// serve answers until ctx ends or a socket fails.
func (l listeners) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range l {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		g.Go(func() error {
			err := s.ActivateAndServe()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve DNS: %w", err)
		})
		g.Go(func() error {
			<-ctx.Done()
			select {
			case <-started:
			case <-time.After(shutdownTimeout): // it failed at its start
			}
			limit, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
			defer cancel()
			// One that has ended already says so, and one whose client is slow is left alone.
			_ = s.ShutdownContext(limit)
			return nil
		})
	}
	return g.Wait()
}
