package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twill-cni/twill/kernel"
)

// watcher turns the kernel's notifications into marks.
type watcher struct {
	n *Node

	mu      sync.Mutex
	uplink  string
	ways    []string // the links by which the uplink's routes lead; the uplink may be among them
	links   []string // of interest, all of these among them
	current Monitor  // nil while none is open
}

func newWatcher(n *Node, uplink kernel.Uplink) *watcher {
	ways := waysOf(uplink)
	return &watcher{n: n, uplink: uplink.Name, ways: ways, links: linksOf(uplink.Name, ways, nil)}
}

// waysOf returns the links of the uplink's routes, sorted.
func waysOf(uplink kernel.Uplink) []string {
	var ways []string
	for _, r := range uplink.Routes {
		for _, h := range r.NextHops {
			if h.Link != "" {
				ways = append(ways, h.Link)
			}
		}
	}
	slices.Sort(ways)
	return slices.Compact(ways)
}

func linksOf(uplink string, ways []string, others []kernel.Link) []string {
	links := append([]string{uplink}, ways...)
	for _, l := range others {
		links = append(links, l.Name)
	}
	return links
}

// follow takes the uplink and the other links of interest.
func (w *watcher) follow(uplink kernel.Uplink, others []kernel.Link) error {
	ways := waysOf(uplink)
	links := linksOf(uplink.Name, ways, others)
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(links, w.links) {
		return nil
	}
	if w.current != nil {
		if err := w.current.SetLinks(links); err != nil {
			return fmt.Errorf("watch links %v: %w", links, err)
		}
	}
	if w.uplink != uplink.Name || !slices.Equal(w.ways, ways) {
		w.n.mark(markUplink) // a link may have gone down after it was looked at, and before it was of interest
	}
	w.uplink, w.ways, w.links = uplink.Name, ways, links
	return nil
}

// run watches until ctx ends, at first with the monitor that open may have opened already. When a monitor fails, another one is
// opened, and everything is read again since notifications may have been missed.
func (w *watcher) run(ctx context.Context) error {
	retry := backoff{jitter: w.n.opts.Jitter}
	for {
		begin := time.Now()
		err := w.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.n.opts.Log.Warn("watching the kernel failed; trying again", "err", err)
		w.n.status.setMonitor(fmt.Errorf("watch the kernel: %w", err))
		if time.Since(begin) > retryMost {
			retry.reset()
		}
		if !sleep(ctx.Done(), retry.next()) {
			return nil
		}
	}
}

// watch runs the open monitor, or a new one, until it fails.
func (w *watcher) watch(ctx context.Context) error {
	m := w.opened()
	if m == nil {
		if err := w.open(); err != nil {
			return err
		}
		m = w.opened()
		w.n.mark(markUplink | markResync)
	}
	err := m.Run(ctx, w.observe)
	w.mu.Lock()
	w.current = nil
	w.mu.Unlock()
	if err == nil {
		err = errors.New("it ended")
	}
	return err
}

func (w *watcher) opened() Monitor {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// open subscribes. What happens from here on is not missed.
func (w *watcher) open() error {
	m, err := w.n.opts.Monitor()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := m.SetLinks(w.links); err != nil {
		return errors.Join(fmt.Errorf("watch links %v: %w", w.links, err), m.Close())
	}
	w.current = m
	w.n.status.setMonitor(nil)
	return nil
}

func (w *watcher) observe(ev kernel.Event) {
	var m mark
	if w.n.opts.Dataplane.Observe(ev) {
		m |= markDrift
	}
	if w.ofUplink(ev) {
		m |= markUplink
	}
	if m != 0 {
		w.n.mark(m)
	}
}

// ofUplink reports whether the event may have changed the uplink. That may be another one when a default route moves, although nothing happened to
// the link that it was. The routes of an uplink that has some may be others when another program says so, and when a link goes down: IPv4
// routes go without a notification then.
func (w *watcher) ofUplink(ev kernel.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ev.Lost:
		return true
	case ev.Kind == kernel.KindLink:
		return ev.Link == w.uplink || !ev.Intact && slices.Contains(w.ways, ev.Link)
	case ev.Kind == kernel.KindRoute && ev.Foreign:
		return ev.Route.Dst.Bits() == 0 || len(w.ways) > 0
	}
	return false
}
