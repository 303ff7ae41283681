package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/twill-cni/twill/ctl/lab/process"
)

const (
	etcdPort = 2379
	// configKey is where flannel keeps the network config; EtcdPrefix is its default prefix.
	configKey = EtcdPrefix + "/config"
	patience  = 5 * time.Second // for a process that was asked to end
)

// EtcdPrefix is the prefix of the cluster's keys.
const EtcdPrefix = "/coreos.com/network"

// Etcd is the lab's datastore: one member in a process of its own, in the underlay's namespace. Its data outlives Stop and Kill.
type Etcd struct {
	lab    *Lab
	mu     sync.Mutex
	client *clientv3.Client
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
	if id, err := e.process(); err == nil && id.Alive() {
		return nil
	}
	ready, signal, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer ready.Close()
	err = e.exec(signal)
	signal.Close()
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.lab.options.ReadyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The other end is written to when etcd answers, and closed when its process ends.
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		if errors.Is(err, io.EOF) {
			err = errors.New("the process ended")
		}
		return fmt.Errorf("wait for etcd: %w%s", errors.Join(ctx.Err(), err), tail(e.lab.dir.etcd("log")))
	}
	return nil
}

func (e *Etcd) exec(ready *os.File) error {
	log, err := os.OpenFile(e.lab.dir.etcd("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The lab's own binary runs the member: no etcd needs to be installed.
	cmd := exec.Command(filepath.Join(e.lab.options.BinDir, "twillctl"), "lab", "etcd",
		"--data-dir", e.lab.dir.etcd("data"), "--listen", e.listen().String(), "--log-file", e.lab.dir.etcd("log"), "--ready-fd", "3")
	cmd.ExtraFiles = []*os.File{ready}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = e.lab.Dir()
	return e.lab.Underlay().Do(func() error {
		_, err := process.Start(cmd, e.lab.dir.etcd("pid"))
		return err
	})
}

func (e *Etcd) process() (process.ID, error) { return process.Read(e.lab.dir.etcd("pid")) }

// Running reports whether the process lives (Pause does not change that).
func (e *Etcd) Running() bool {
	id, err := e.process()
	return err == nil && id.Alive()
}

// Stop ends etcd in good order and waits until its process is gone.
func (e *Etcd) Stop(ctx context.Context) error {
	return e.tell("stop", func(id process.ID) error { return id.Stop(ctx, patience) })
}

// Kill ends etcd at once, as a power cut would, and waits until its process is gone.
func (e *Etcd) Kill(ctx context.Context) error {
	return e.tell("kill", func(id process.ID) error { return id.Kill(ctx) })
}

// Pause stops the process without ending it: connections stay open and nothing answers. Resume lets it go on.
func (e *Etcd) Pause() error {
	return e.tell("pause", func(id process.ID) error { return id.Signal(syscall.SIGSTOP) })
}

// Resume lets a paused process go on.
func (e *Etcd) Resume() error {
	return e.tell("resume", func(id process.ID) error { return id.Signal(syscall.SIGCONT) })
}

func (e *Etcd) tell(what string, f func(process.ID) error) error {
	id, err := e.process()
	if err == nil {
		err = f(id)
	}
	if err != nil {
		return fmt.Errorf("%s etcd: %w", what, err)
	}
	return nil
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
