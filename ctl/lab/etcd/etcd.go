package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// Config is where the member keeps its data and listens.
type Config struct {
	DataDir string
	Listen  netip.AddrPort // of clients
	LogFile string
}

// peers is where the member would talk to other members: it has none, but etcd insists on listening. Loopback is the
// namespace's own, so members in several labs do not meet.
var peers = url.URL{Scheme: "http", Host: "127.0.0.1:2380"}

// Serve runs the member until ctx ends, and calls ready once it answers clients. Data that DataDir holds from an earlier run is
// used.
func Serve(ctx context.Context, config Config, ready func()) error {
	server, err := embed.StartEtcd(settings(config))
	if err != nil {
		return fmt.Errorf("start etcd on %v: %w", config.Listen, err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
		ready()
	case err := <-server.Err():
		return fmt.Errorf("serve etcd on %v: %w", config.Listen, err)
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-server.Err():
		return fmt.Errorf("serve etcd on %v: %w", config.Listen, err)
	case <-server.Server.StopNotify():
		return fmt.Errorf("serve etcd on %v: the server stopped by itself", config.Listen)
	case <-ctx.Done():
		return nil
	}
}

func settings(config Config) *embed.Config {
	clients := url.URL{Scheme: "http", Host: config.Listen.String()}
	c := embed.NewConfig()
	c.Name = "lab"
	c.Dir = config.DataDir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.LogOutputs, c.LogLevel = []string{config.LogFile}, "warn"
	c.UnsafeNoFsync = true
	// A member without peers elects itself when the election timeout has passed: there is nobody to wait for.
	c.TickMs, c.ElectionMs = 10, 100
	return c
}
