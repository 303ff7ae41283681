package main

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	etcdEndpoint = "http://127.0.0.1:2379"
	etcdPrefix   = "/coreos.com/network"
	maxTxnOps    = 1000
)

// A cluster is an etcd that holds flannel's network configuration and as many leases of made-up nodes as asked for.
// The made-up nodes have subnets below SubnetMin, so that the node under test never draws one of theirs.
type cluster struct {
	server *embed.Etcd
	client *clientv3.Client
}

func startCluster(ctx context.Context) (*cluster, error) {
	return startClusterAt(ctx, etcdEndpoint, `{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.200.0.0","Backend":{"Type":"vxlan"}}`)
}

// startClusterAt starts a cluster whose etcd listens at that URL.
func startClusterAt(ctx context.Context, endpoint, network string) (*cluster, error) {
	client, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/run", "etcd-")
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.LogLevel = "fatal"
	cfg.MaxTxnOps = maxTxnOps
	cfg.UnsafeNoFsync = true
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		server.Close()
		return nil, fmt.Errorf("etcd was not ready after 30 s")
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		server.Close()
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	_, err = c.Put(ctx, etcdPrefix+"/config", network)
	return &cluster{server, c}, err
}

func (c *cluster) close() {
	_ = c.client.Close() // the server goes next
	c.server.Close()
}

// join writes the leases of peers first to first+n-1.
func (c *cluster) join(ctx context.Context, first, n int) error {
	for start := first; start < first+n; start += maxTxnOps {
		var ops []clientv3.Op
		for i := start; i < min(start+maxTxnOps, first+n); i++ {
			key, value := peerLease(i)
			ops = append(ops, clientv3.OpPut(key, value))
		}
		if _, err := c.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("write leases: %w", err)
		}
	}
	return nil
}

// empty removes all leases.
func (c *cluster) empty(ctx context.Context) error {
	_, err := c.client.Delete(ctx, etcdPrefix+"/subnets/", clientv3.WithPrefix())
	return err
}

func peerLease(i int) (key, value string) {
	subnet, public := peerAddresses(i)
	return fmt.Sprintf("%s/subnets/%s-24", etcdPrefix, subnet),
		fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:%02x:%02x"}}`, public, byte(i>>8), byte(i))
}

// peerAddresses returns the base of a made-up node's subnet, which is a /24, and its public address.
func peerAddresses(i int) (subnet, public netip.Addr) {
	hi, lo := byte(i>>8), byte(i)
	return netip.AddrFrom4([4]byte{10, 1 + hi, lo, 0}), netip.AddrFrom4([4]byte{172, 16 + hi/16, hi, lo})
}
