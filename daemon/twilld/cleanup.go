//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/policy"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/plugins/record"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// The names of the plugins' records in the run directory.
const (
	attachmentsDir = "attachments"
	addresses      = "ipam"
)

// releaseTimeout bounds how long a cleanup waits for a datastore that may be gone for good.
const releaseTimeout = 10 * time.Second

// cleaner removes what Twill made on this host, says what that was, and goes on past failures.
type cleaner struct {
	cfg  *config.Config
	log  *slog.Logger
	out  io.Writer
	errs []error
}

// cleanup removes everything in the order in which it would be missed: first what makes a container runtime attach more pods, then
// pods' links, the node's own, its lease, and at last the records and the lock, which keeps daemons away meanwhile. Forwarding
// stays on, since others may need it by now.
func cleanup(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) error {
	held, err := lock(cfg)
	if err != nil {
		return fmt.Errorf("clean up: %w; stop it first", err)
	}
	c := &cleaner{cfg: cfg, log: log, out: out}
	c.files()
	c.pods()
	c.kernel(ctx)
	c.lease(ctx)
	c.records()
	return errors.Join(append(c.errs, held.Close())...)
}

func (c *cleaner) removed(what string) {
	if _, err := fmt.Fprintln(c.out, "removed", what); err != nil {
		c.failed("report", err)
	}
}

// failed notes an error; nil is none.
func (c *cleaner) failed(doing string, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("clean up: %s: %w", doing, err))
	}
}

func (c *cleaner) files() {
	host, err := newHost(c.cfg, c.log)
	if err != nil {
		c.failed("remove files", err)
		return
	}
	files, err := host.Remove()
	c.failed("remove files", err)
	for _, name := range files {
		c.removed("file " + name)
	}
}

// pods removes the host ends of pods' links, and with them the pods' interfaces, and their shapers: those that bear a pod's
// name, and those that only a record tells of, since an ADD that was killed had not marked them yet.
func (c *cleaner) pods() {
	h, err := podnet.Open()
	if err != nil {
		c.failed("remove pods' links", err)
		return
	}
	defer h.Close()
	links, shapers := c.recorded()
	marked, err := h.PodLinks()
	c.failed("list pods' links", err)
	for _, pod := range marked {
		links[pod.Name] = pod.Owner
	}
	markedShapers, err := h.Shapers()
	c.failed("list pods' shapers", err)
	maps.Copy(shapers, markedShapers)
	c.devices(links, h.RemovePair)
	c.devices(shapers, h.Unshape)
}

// recorded returns the links and shapers of which the plugins' records tell.
func (c *cleaner) recorded() (links, shapers map[string]kernel.PodOwner) {
	links, shapers = map[string]kernel.PodOwner{}, map[string]kernel.PodOwner{}
	networks, err := os.ReadDir(filepath.Join(c.cfg.RunDir, attachmentsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.failed("list networks", err)
	}
	for _, network := range networks {
		records, err := record.Open(c.cfg.RunDir, network.Name()).List()
		if err != nil {
			c.log.Warn("a record that cannot be read is removed unread", "err", err)
		}
		for _, r := range records {
			if r.HostLink != "" {
				links[r.HostLink] = r.Owner()
			}
			if r.Shaper != "" {
				shapers[r.Shaper] = r.Owner()
			}
		}
	}
	return links, shapers
}

// devices removes each device with remove, which says whether it was there.
func (c *cleaner) devices(owners map[string]kernel.PodOwner, remove func(string, kernel.PodOwner) (bool, error)) {
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		gone, err := remove(name, owners[name])
		c.failed("remove a pod's link", err)
		if gone && err == nil {
			c.removed("link " + name + " of pod " + owners[name].String())
		}
	}
}

func (c *cleaner) kernel(ctx context.Context) {
	c.links(ctx)
	c.tables(ctx)
}

// connections takes the mark of policies from connections, once nothing looks at it any more.
func (c *cleaner) connections(ctx context.Context) {
	c.failed("take the mark of policies from connections", policy.Unmark(ctx, connections, c.cfg.PolicyCutMark))
}

// links needs no settings of the kernel, so --sysctl-dir may be what it is elsewhere.
func (c *cleaner) links(ctx context.Context) {
	links, err := linux.Open(c.log)
	if err != nil {
		c.failed("remove links and routes", err)
		return
	}
	removed, err := links.Cleanup(ctx)
	c.failed("remove links and routes", err)
	for _, what := range removed {
		c.removed(what)
	}
	c.failed("close rtnetlink", links.Close())
}

func (c *cleaner) tables(ctx context.Context) {
	tables, err := nft.Open(c.log)
	if err != nil {
		c.failed("remove nftables", err)
		return
	}
	names, err := tables.TableNames(ctx)
	c.failed("list nftables", err)
	if err := tables.DeleteTables(ctx); err != nil {
		c.failed("remove nftables", err)
	} else {
		for _, name := range names {
			c.removed("table " + name)
		}
		if slices.Contains(names, gate.TableName) {
			c.connections(ctx)
		}
	}
	c.failed("close nftables", tables.Close())
}

// records removes the plugins' records of attachments and addresses. The run directory goes too when nothing else is in it and it can be removed.
func (c *cleaner) records() {
	for _, name := range []string{attachmentsDir, addresses, lockName} {
		path := filepath.Join(c.cfg.RunDir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := os.RemoveAll(path)
		c.failed("remove records", err)
		if err == nil && name != lockName {
			c.removed("records " + path)
		}
	}
	rest, err := os.ReadDir(c.cfg.RunDir)
	if err != nil || len(rest) > 0 {
		return
	}
	// In a container it is a mount, which stays, and what it is mounted in is read-only.
	if err := os.Remove(c.cfg.RunDir); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EROFS) {
		c.failed("remove the run directory", err)
	}
}

// lease gives the node's subnets back. Without that, they stay the node's until the lease expires.
func (c *cleaner) lease(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	from, err := openDatastore(c.cfg, c.log)
	if err != nil {
		c.failed("release the node's subnets", err)
		return
	}
	defer func() { c.failed("close the datastore", from.Close()) }()
	node := store.Attributes{NodeName: c.cfg.NodeName, PublicIP: c.cfg.PublicIP, PublicIPv6: c.cfg.PublicIPv6}
	if from.etcd != nil { // it knows a node by its addresses
		uplink, err := linux.FindUplink(linux.UplinkOptions{
			Iface: c.cfg.Iface, IfaceRegex: c.cfg.IfaceRegex, PublicIP: c.cfg.PublicIP, PublicIPv6: c.cfg.PublicIPv6,
		})
		if err != nil {
			c.failed("release the node's subnets", err)
			return
		}
		if !node.PublicIP.IsValid() {
			node.PublicIP = uplink.Addr(false)
		}
		if !node.PublicIPv6.IsValid() {
			node.PublicIPv6 = uplink.Addr(true)
		}
	}
	c.failed("tell Kubernetes that the node has no network", newReports(c.cfg, from.kube).gone(ctx))
	released, err := from.release(ctx, node)
	c.failed("release the node's subnets", err)
	for _, subnets := range released {
		c.removed("lease " + subnets.String())
	}
}
