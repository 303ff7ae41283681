package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/twill-cni/twill/ctl/lab/process"
)

const (
	etcdPort = 2379
	// configKey is where flannel keeps the network config; EtcdPrefix is its default prefix.
	configKey = EtcdPrefix + "/config"
)

// EtcdPrefix is the prefix of the cluster's keys.
const EtcdPrefix = "/coreos.com/network"

// Etcd is the lab's datastore: one member in a process of its own, in the underlay's namespace. Its data outlives Stop and Kill.
type Etcd struct {
	lab     *Lab
	service service
	mu      sync.Mutex
	client  *clientv3.Client
}

// Endpoints returns the URLs at which the nodes reach etcd.
func (e *Etcd) Endpoints() []string { return []string{"http://" + e.listen().String()} }

func (e *Etcd) listen() netip.AddrPort {
	v4, v6 := e.lab.UnderlayGateway()
	if v4.IsValid() {
		return netip.AddrPortFrom(v4, etcdPort)
	}
	return netip.AddrPortFrom(v6, etcdPort)
}

// Start starts etcd and waits until it answers. When it runs already, nothing happens.
func (e *Etcd) Start(ctx context.Context) error {
	return e.service.start(ctx, "--data-dir", e.service.file("data"), "--listen", e.listen().String(), "--log-file", e.service.file("log"))
}

// Running reports whether the process lives (Pause does not change that).
func (e *Etcd) Running() bool { return e.service.running() }

// Stop ends etcd in good order and waits until its process is gone.
func (e *Etcd) Stop(ctx context.Context) error {
	return e.service.tell("stop", func(id process.ID) error { return id.Stop(ctx, patience) })
}

// Kill ends etcd at once, as a power cut would, and waits until its process is gone.
func (e *Etcd) Kill(ctx context.Context) error {
	return e.service.tell("kill", func(id process.ID) error { return id.Kill(ctx) })
}

// Pause stops the process without ending it: connections stay open and nothing answers. Resume lets it go on.
func (e *Etcd) Pause() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return e.service.tell("pause", func(id process.ID) error { return id.Suspend(ctx) })
}

// Resume lets a paused process go on.
func (e *Etcd) Resume() error {
	return e.service.tell("resume", func(id process.ID) error { return id.Signal(syscall.SIGCONT) })
}

// Client returns a client that works outside the lab's namespaces. It is made once, belongs to the lab, and reconnects by itself;
// Down closes it.
func (e *Etcd) Client() (*clientv3.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		return e.lab.Underlay().Dial(ctx, "tcp", address)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   e.Endpoints(),
		DialTimeout: patience,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	e.client = client
	return client, nil
}

// forget closes the client.
func (e *Etcd) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		_ = e.client.Close() // it has nothing to flush
		e.client = nil
	}
}

// SetNetworkConfig stores flannel's network config, valid or not: tests store bad ones too.
func (l *Lab) SetNetworkConfig(ctx context.Context, config json.RawMessage) error {
	client, err := l.etcd.Client()
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, configKey, string(config)); err != nil {
		return fmt.Errorf("store the network config: %w", err)
	}
	return nil
}
