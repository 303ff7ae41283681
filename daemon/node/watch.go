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
	links   []string // of interest, the uplink among them
	current Monitor  // nil while none is open
}

// follow names the uplink and the other links of interest.
func (w *watcher) follow(uplink string, others []kernel.Link) error {
	links := []string{uplink}
	for _, l := range others {
		links = append(links, l.Name)
	}
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
	w.uplink, w.links = uplink, links
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
	if ev.Lost || ev.Kind == kernel.KindLink && ev.Link == w.uplinkName() || isForeignDefault(ev) {
		m |= markUplink
	}
	if m != 0 {
		w.n.mark(m)
	}
}

// isForeignDefault reports whether another program changed a default route. The uplink may be another one then, although nothing
// happened to the link that it was.
func isForeignDefault(ev kernel.Event) bool {
	return ev.Kind == kernel.KindRoute && ev.Foreign && ev.Route.Dst.Bits() == 0
}

func (w *watcher) uplinkName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.uplink
}
