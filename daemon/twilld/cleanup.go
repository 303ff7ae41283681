//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/store"
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
// pods' links, the node's own, and the records. Forwarding stays on, since others may need it by now.
func cleanup(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer) error {
	held, err := lock(cfg)
	if err != nil {
		return fmt.Errorf("clean up: %w; stop it first", err)
	}
	c := &cleaner{cfg: cfg, log: log, out: out}
	c.files()
	c.pods()
	c.kernel(ctx)
	c.records()
	c.lease(ctx)
	return errors.Join(append(c.errs, held.Close())...)
}

func (c *cleaner) removed(what, name string) {
	if _, err := fmt.Fprintln(c.out, "removed", what, name); err != nil {
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
		c.removed("file", name)
	}
}

// pods removes the host ends of pods' links, and with them the pods' interfaces.
func (c *cleaner) pods() {
	h, err := podnet.Open()
	if err != nil {
		c.failed("remove pods' links", err)
		return
	}
	defer h.Close()
	pods, err := h.PodLinks()
	c.failed("list pods' links", err)
	for _, pod := range pods {
		gone, err := h.RemovePair(pod.Name, pod.Owner)
		c.failed("remove a pod's link", err)
		if gone {
			c.removed("link", pod.Name+" of pod "+pod.Owner.String())
		}
	}
	shapers, err := h.Shapers()
	c.failed("list pods' shapers", err)
	for device, owner := range shapers {
		gone, err := h.Unshape(device, owner)
		c.failed("remove a pod's shaper", err)
		if gone {
			c.removed("link", device+" of pod "+owner.String())
		}
	}
}

func (c *cleaner) kernel(ctx context.Context) {
	k, err := openKernels(c.log)
	if err != nil {
		c.failed("open the kernel", err)
		return
	}
	links, err := k.links.Links(ctx, nil)
	c.failed("list links", err)
	routes, err := k.links.Routes(ctx, nil)
	c.failed("list routes", err)
	if err := k.links.Cleanup(ctx); err != nil {
		c.failed("remove links and routes", err)
	} else {
		for _, r := range routes {
			c.removed("route", r.Dst.String())
		}
		for _, l := range links {
			c.removed("link", l.Name)
		}
	}
	tables, err := k.tables.TableNames(ctx)
	c.failed("list nftables", err)
	if err := k.tables.DeleteTables(ctx); err != nil {
		c.failed("remove nftables", err)
	} else {
		for _, name := range tables {
			c.removed("table", name)
		}
	}
	c.failed("close the kernel", k.close())
}

// records removes the plugins' records of attachments and addresses. The run directory goes too when nothing else is in it.
func (c *cleaner) records() {
	for _, name := range []string{"attachments", "ipam", lockName} {
		path := filepath.Join(c.cfg.RunDir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := os.RemoveAll(path)
		c.failed("remove records", err)
		if err == nil && name != lockName {
			c.removed("records", path)
		}
	}
	if rest, err := os.ReadDir(c.cfg.RunDir); err == nil && len(rest) == 0 {
		c.failed("remove the run directory", os.Remove(c.cfg.RunDir))
	}
}

// lease gives the node's subnets back. Without that, they stay the node's until the lease expires.
func (c *cleaner) lease(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	uplink, err := linux.FindUplink(linux.UplinkOptions{
		Iface: c.cfg.Iface, IfaceRegex: c.cfg.IfaceRegex, PublicIP: c.cfg.PublicIP, PublicIPv6: c.cfg.PublicIPv6,
	})
	if err != nil {
		c.failed("release the node's subnets", err)
		return
	}
	node := store.Attributes{PublicIP: c.cfg.PublicIP, PublicIPv6: c.cfg.PublicIPv6}
	if !node.PublicIP.IsValid() {
		node.PublicIP = uplink.Addr(false)
	}
	if !node.PublicIPv6.IsValid() {
		node.PublicIPv6 = uplink.Addr(true)
	}
	datastore, err := openStore(c.cfg, c.log)
	if err != nil {
		c.failed("release the node's subnets", err)
		return
	}
	released, err := datastore.Release(ctx, node)
	c.failed("release the node's subnets", err)
	for _, subnets := range released {
		c.removed("lease", subnets.String())
	}
	c.failed("close the datastore", datastore.Close())
}
