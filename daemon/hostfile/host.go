package hostfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// Options say where the files go.
type Options struct {
	SubnetFile   string
	RunDir       string
	ConfDir      string
	BinDir       string       // empty: plugins are not installed
	HostLocalDir string       // records of the reference IPAM plugin; empty for none
	PluginsDir   string       // where the plugins are taken from: beside the daemon
	IPMasq       bool         // as subnet.env is to say it
	Policy       *gate.Config // but for NodePods, which the announcement has; nil: nobody enforces policies
	Log          *slog.Logger

	ClusterDomain string // that the node answers for; empty: it does not
}

// Host writes the files of one node. It implements node.Host.
type Host struct{ opts Options }

// New returns a Host; nothing is read or written yet.
func New(opts Options) *Host { return &Host{opts} }

// plugins are the programs that the container runtime runs.
func plugins() []string { return []string{"twill", "twill-ipam"} }

func (h *Host) conflist() string { return filepath.Join(h.opts.ConfDir, ConflistName) }

// CheckPlugins returns an error when plugins are to be installed and one is not there to be taken.
func (h *Host) CheckPlugins() error {
	if h.opts.BinDir == "" {
		return nil
	}
	for _, name := range plugins() {
		if _, err := os.Stat(filepath.Join(h.opts.PluginsDir, name)); err != nil {
			return fmt.Errorf("plugin %s is not beside twilld: %w; put it there, or give an empty cni-bin-dir to install none", name, err)
		}
	}
	return nil
}

// Preferred returns the subnets that subnet.env names; it is flannel's file too, so a node that changes over from flannel keeps
// its subnets. A file that cannot be used is logged and passed over.
func (h *Host) Preferred() []store.Subnets {
	data, err := os.ReadFile(h.opts.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var subnets store.Subnets
	if err == nil {
		subnets, err = ParseSubnets(data)
	}
	if err != nil {
		h.opts.Log.Warn("the subnets of the last run are not known", "file", h.opts.SubnetFile, "err", err)
		return nil
	}
	if subnets == (store.Subnets{}) {
		return nil
	}
	return []store.Subnets{subnets}
}

// Announce writes subnet.env, the plugins and the conflist, in this order, each only when it differs. It stops at the first failure.
// When all is written and a runtime prefers another network's configuration, the error is a store.Trouble.
func (h *Host) Announce(a node.Announcement) error {
	env := SubnetEnv{
		Network: a.Network.IPv4.Network, IPv6Network: a.Network.IPv6.Network,
		Subnets: a.Subnets, MTU: a.MTU, IPMasq: h.opts.IPMasq,
	}
	if err := h.put(h.opts.SubnetFile, env.Encode()); err != nil {
		return err
	}
	if _, err := h.Install(); err != nil {
		return err
	}
	conflist, err := Conflist{
		Bridge: node.Bridge, MTU: a.MTU, Subnets: a.Subnets,
		RunDir: h.opts.RunDir, DataDir: filepath.Join(h.opts.RunDir, "ipam"), HostLocalDir: h.opts.HostLocalDir,
		Policy: h.policy(a.Subnets), ClusterDomain: h.opts.ClusterDomain,
	}.Encode()
	if err != nil {
		return err
	}
	if err := h.put(h.conflist(), conflist); err != nil {
		return err
	}
	return h.winner()
}

// policy returns what the plugin is to know of policies.
func (h *Host) policy(subnets store.Subnets) *gate.Config {
	if h.opts.Policy == nil {
		return nil
	}
	p := *h.opts.Policy
	p.NodePods = prefixes(subnets)
	return &p
}

func (h *Host) put(path string, data []byte) error {
	changed, err := write(path, data, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if changed {
		h.opts.Log.Info("wrote a file", "file", path)
	}
	return nil
}

// Install copies the plugins to where the runtime looks for them, those that differ, and returns the names of the files that it wrote. It does nothing when
// there is no such directory, or the plugins came from it. It stops at the first failure.
func (h *Host) Install() (written []string, err error) {
	if h.opts.BinDir == "" || sameDir(h.opts.BinDir, h.opts.PluginsDir) {
		return nil, nil
	}
	for _, name := range plugins() {
		to := filepath.Join(h.opts.BinDir, name)
		changed, err := install(to, filepath.Join(h.opts.PluginsDir, name), 0o755)
		if err != nil {
			return written, fmt.Errorf("install %s: %w", to, err)
		}
		if changed {
			h.opts.Log.Info("installed a plugin", "file", to)
			written = append(written, to)
		}
	}
	return written, nil
}

func sameDir(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Remove deletes what Announce and Remember wrote, and the sockets of a daemon that was killed, the conflist first, and returns the names of what was there. The plugins stay where they
// came from when that is the runtime's directory itself.
func (h *Host) Remove() (removed []string, err error) {
	paths := []string{h.conflist(), h.opts.SubnetFile, h.memory(MemoryOfLease), h.memory(MemoryOfServices), h.socket(),
		gate.SocketPath(h.opts.RunDir), gate.LockPath(h.opts.RunDir)}
	if h.opts.BinDir != "" && !sameDir(h.opts.BinDir, h.opts.PluginsDir) {
		for _, name := range plugins() {
			paths = append(paths, filepath.Join(h.opts.BinDir, name))
		}
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, sweep(path))
		switch err := os.Remove(path); {
		case err == nil:
			removed = append(removed, path)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
