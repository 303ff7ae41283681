//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/health"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/ipam/filestore"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/localipam"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/plugins/portmap"
	"github.com/twill-cni/twill/plugins/record"
)

// podHost is what package attachments works on: the plugin's own parts, in the daemon's process.
type podHost struct {
	*podnet.Handle
	tables *nft.Handle
	files  *hostfile.Host
	runDir string
	sysctl podnet.Sysctls
	log    *slog.Logger
}

var _ attachments.Host = (*podHost)(nil)

// openPodHost opens what pods' links are worked on with; close it with Close.
func openPodHost(cfg *config.Config, k kernels, files *hostfile.Host, log *slog.Logger) (*podHost, error) {
	pods, err := podnet.Open()
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink for pods: %w", err)
	}
	return &podHost{Handle: pods, tables: k.tables, files: files, runDir: cfg.RunDir, sysctl: podnet.Sysctls(cfg.SysctlDir), log: log}, nil
}

// keeper returns what looks after the attachments.
func (h *podHost) keeper(cfg *config.Config, metrics *health.Metrics, told *reports) *attachments.Keeper {
	return attachments.New(attachments.Options{
		Host:     h,
		Network:  hostfile.NetworkName,
		Bridge:   node.Bridge,
		Log:      h.log,
		Observer: metrics.Attachments(func() (int, error) { return record.Count(h.runDir) }),
		Tell:     told.tell,
		Delay:    cfg.PodReleaseDelay,
		Jitter:   jitter,
	})
}

func (h *podHost) Records() ([]attachments.Record, error) {
	seen, err := record.Look(h.runDir)
	out := make([]attachments.Record, len(seen))
	for i, s := range seen {
		out[i] = attachments.Record(s)
	}
	return out, err
}

func (h *podHost) store() (*netconf.Config, ipam.Config, *filestore.Allocator, error) {
	data, err := h.files.Netconf()
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(attachments.ErrNoNetwork, err)
	}
	if err != nil {
		return nil, ipam.Config{}, nil, err
	}
	conf, err := netconf.ParseForRemoval(data)
	if err != nil {
		return nil, ipam.Config{}, nil, err
	}
	parsed, err := ipam.ParseConfig(data)
	if err != nil {
		return nil, ipam.Config{}, nil, err
	}
	store, err := filestore.Open(parsed, conf.Name, filestore.WithLogger(h.log))
	return conf, parsed, store, err
}

func (h *podHost) Leases() ([]ipam.Lease, error) {
	_, _, store, err := h.store()
	if err != nil {
		return nil, err
	}
	return store.Leases()
}

func (h *podHost) Release(ctx context.Context, owner kernel.PodOwner) error {
	conf, parsed, store, err := h.store()
	if err != nil {
		return err
	}
	ports := &portmap.Ports{}
	defer ports.Close()
	plugin := attach.Plugin{Kernel: h.Handle, Records: h.records(), IPAM: localipam.New(parsed, store), HostPorts: ports}
	return plugin.Del(ctx, attach.Request{Owner: owner, Config: conf})
}

func (h *podHost) records() *record.Store { return record.Open(h.runDir, hostfile.NetworkName) }

func (h *podHost) Exclusively(f func()) (bool, error) {
	release, ok, err := h.records().TryFreeze()
	if !ok || err != nil {
		return false, err
	}
	defer release()
	f()
	return true, nil
}

// NetnsGone looks at the path. A path that is not there says nothing when its directory is not there either: then the daemon does not see
// what the runtime sees, as in a container without the host's /run/netns. Below /proc the directory goes with the process, which says nothing
// to a daemon that sees the processes of its container only.
func (h *podHost) NetnsGone(path string, inode uint64) bool {
	var there unix.Stat_t
	err := unix.Stat(path, &there)
	ofProcess := strings.HasPrefix(path, "/proc/")
	switch {
	case ofProcess && ownProcesses():
		return false
	case err == nil && inode != 0:
		return there.Ino != inode
	case err == nil:
		return !isNamespace(path)
	case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR):
		return false
	}
	_, err = os.Stat(filepath.Dir(path))
	return err == nil || ofProcess
}

// ownProcesses reports whether the process is in a process namespace of its own: its parent is not in it (pid_namespaces(7)).
func ownProcesses() bool { return os.Getppid() == 0 }

func isNamespace(path string) bool {
	var system unix.Statfs_t
	return unix.Statfs(path, &system) != nil || system.Type == unix.NSFS_MAGIC
}

func (h *podHost) RevisePorts(ctx context.Context, revise func(hostport.Elements) (hostport.Elements, error)) (bool, error) {
	return h.tables.ReviseTable(ctx, hostport.Table(), func(have map[string][]kernel.Element) (map[string][]kernel.Element, error) {
		return revise(have)
	})
}

func (h *podHost) FlushUDP(ctx context.Context, pod hostport.Pod) error {
	return portmap.FlushUDP(ctx, pod)
}

func (h *podHost) Localnet(bridge string) (bool, error) { return h.sysctl.Localnet(bridge) }

func (h *podHost) AllowLocalnet(bridge string) error {
	if err := h.sysctl.AllowLocalnet(bridge); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
