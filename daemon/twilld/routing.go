//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/bgp"
	bgpconfig "github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/bgp/gobgp"
	"github.com/twill-cni/twill/bgp/topology"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/overlay"
	"github.com/twill-cni/twill/store"
)

// reread is how often the BGP file and the password files are read: a mounted ConfigMap or Secret gives no better sign of a change.
const reread = 2 * time.Second

// routing is the backend bgp with what feeds it: the file, the node's record in the datastore, the password files.
type routing struct {
	cfg     *config.Config
	log     *slog.Logger
	metrics *health.Metrics
	host    *hostfile.Host

	backend atomic.Pointer[bgp.Backend] // nil before the network configuration is known
	made    chan struct{}               // closed when the backend is there
	record  chan store.NodeRecord       // of capacity 1: the latest that was not looked at
	offered chan []bgp.ServiceAddress   // of capacity 1: likewise

	// Of one goroutine at a time: start's, then Run's.
	network   store.Network
	tunnels   *overlay.Backend
	planner   *topology.Planner // nil before the first
	published bgp.LeaseData     // by an earlier run
	node      store.NodeRecord
	inputs    inputs // of the setup in force
	failed    string // what was last said to be wrong with them
	unread    string // what was last said of password files
}

// inputs are what a setup is made from.
type inputs struct {
	file      []byte
	parsed    *bgpconfig.Config // of file
	node      store.NodeRecord
	passwords bgpconfig.Passwords
}

// openRouting reads the file, so that one that is wrong is found out at the start.
func openRouting(cfg *config.Config, host *hostfile.Host, metrics *health.Metrics, log *slog.Logger) (*routing, error) {
	r := &routing{cfg: cfg, log: log, metrics: metrics, host: host, made: make(chan struct{}), record: make(chan store.NodeRecord, 1),
		offered: make(chan []bgp.ServiceAddress, 1)}
	if cfg.Backend != bgp.BackendType {
		return r, nil
	}
	if _, err := r.readFile(); err != nil {
		return nil, usageError{err}
	}
	return r, nil
}

// about is what the daemon's socket answers of.
func (r *routing) about() api.BGP {
	if b := r.backend.Load(); b != nil {
		return b
	}
	return nil
}

// Run follows the file, the passwords and the node's record until ctx ends.
func (r *routing) Run(ctx context.Context, datastore store.Store) error {
	if r.cfg.Backend != bgp.BackendType {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := datastore.WatchNode(ctx, r.cfg.NodeName, func(record store.NodeRecord) {
			select {
			case <-r.record: // an older one
			default:
			}
			r.record <- record
		})
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch the node's record: %w", err)
	})
	g.Go(func() error {
		r.follow(ctx)
		return nil
	})
	return g.Wait()
}

// follow waits for the backend to be made and keeps it up to date.
func (r *routing) follow(ctx context.Context) {
	select {
	case <-r.made:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(reread)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case all := <-r.offered:
			r.announce(all)
			continue
		case r.node = <-r.record:
		case <-tick.C:
		}
		r.refresh()
	}
}

// refresh sets the backend up again when something has changed.
func (r *routing) refresh() {
	now, err := r.read()
	if err == nil && reflect.DeepEqual(now, r.inputs) {
		r.failed = ""
		return
	}
	if err != nil {
		r.say(err)
		return
	}
	r.inputs, r.failed = now, ""
	r.log.Info("BGP settings have changed", "file", r.cfg.BGPConfig)
	r.backend.Load().Change(r.setup(now))
}

// say logs an error when it is another one than before.
func (r *routing) say(err error) {
	if err.Error() != r.failed {
		r.failed = err.Error()
		r.log.Error("BGP settings cannot be used; those before stay in force", "err", err)
	}
}

// newBackend waits for the node's record and makes the backend.
func (r *routing) newBackend(ctx context.Context, network store.Network, tunnels *overlay.Backend, k *linux.Handle) (node.Backend, error) {
	select {
	case r.node = <-r.record:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.network, r.tunnels, r.published = network, tunnels, r.recall()
	now, err := r.read()
	if err != nil {
		return nil, err
	}
	restarting, err := forwards(ctx, k)
	if err != nil {
		return nil, err
	}
	r.inputs = now
	b := bgp.New(bgp.Options{Speaker: gobgp.New(r.log), Log: r.log, Restarting: restarting, Remember: r.remember}, r.setup(now))
	b.Announce(r.recallServices())
	r.metrics.FollowBGP(b)
	r.backend.Store(b)
	close(r.made)
	return b, nil
}

// recall returns what an earlier run published; nothing when that is not known.
func (r *routing) recall() bgp.LeaseData {
	data, err := r.host.Recall(hostfile.MemoryOfLease)
	if err == nil && len(data) == 0 {
		return bgp.LeaseData{}
	}
	var published bgp.LeaseData
	if err == nil {
		published, err = bgp.DecodeLeaseData(data)
	}
	if err != nil {
		r.log.Warn("what the last run published to BGP peers is not known", "err", err)
	}
	return published
}

func (r *routing) remember(d bgp.LeaseData) error {
	data, err := d.Encode()
	if err != nil {
		return err
	}
	return r.host.Remember(hostfile.MemoryOfLease, data)
}

// forwards reports whether the kernel still has routes that an earlier run learned.
func forwards(ctx context.Context, k *linux.Handle) (bool, error) {
	routes, err := k.Routes(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("look for learned routes: %w", err)
	}
	return slices.ContainsFunc(routes, func(route kernel.Route) bool { return route.Metric == bgp.RouteMetric }), nil
}

// read returns what a setup is to be made from. A password file that cannot be read, which one is for a moment while it is written, leaves the
// password from before in use. Without one from before its peers have no session.
func (r *routing) read() (inputs, error) {
	now, err := r.readFile()
	if err != nil {
		return inputs{}, err
	}
	now.node = r.node
	files := now.parsed.PasswordFiles(r.cfg.NodeName, r.node.Labels)
	passwords, err := bgpconfig.ReadPasswords(files)
	now.passwords = passwords.Else(r.inputs.passwords, files)
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != r.unread {
		r.log.Error("BGP passwords cannot be read; those read before stay in use, and peers without one have no session", "err", err)
	}
	r.unread = said
	return now, nil
}

func (r *routing) setup(from inputs) bgp.Setup {
	record := from.node
	record.Name = r.cfg.NodeName
	r.planner = topology.New(topology.Options{
		Network:    r.network,
		Config:     from.parsed,
		Record:     record,
		Passwords:  from.passwords,
		PublicIP:   r.cfg.PublicIP,
		PublicIPv6: r.cfg.PublicIPv6,
		Published:  r.published,
		Now:        time.Now,
	}, r.planner)
	setup := bgp.Setup{Planner: r.planner, Always: from.parsed.Overlay == bgpconfig.OverlayAlways}
	if from.parsed.Overlay != bgpconfig.OverlayNever {
		setup.Overlay = r.tunnels
	}
	return setup
}

// readFile reads the file, and parses it unless it says what it said before.
func (r *routing) readFile() (inputs, error) {
	file, err := readBGPFile(r.cfg.BGPConfig)
	if err != nil {
		return inputs{}, err
	}
	if r.inputs.parsed != nil && bytes.Equal(file, r.inputs.file) {
		return inputs{file: file, parsed: r.inputs.parsed}, nil
	}
	parsed, err := bgpconfig.Parse(file)
	if err != nil {
		return inputs{}, fmt.Errorf("%s: %w", r.cfg.BGPConfig, err)
	}
	return inputs{file: file, parsed: parsed}, nil
}

// readBGPFile returns nothing when there is no file to read.
func readBGPFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read BGP configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, bgpconfig.MaxSize+1)) // one more: Parse says that it is too large
	if err != nil {
		return nil, fmt.Errorf("read BGP configuration: %w", err)
	}
	return data, nil
}
