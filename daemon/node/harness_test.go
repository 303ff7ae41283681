package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/overlay"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

// Nodes of a test get subnets far from those of peer.
const networkConfig = `{"Network":"10.5.0.0/16","SubnetMax":"10.5.50.0","EnableIPv6":true,"IPv6Network":"fd00:5::/48",` +
	`"IPv6SubnetMax":"fd00:5:0:50::","Backend":{"Type":"vxlan"}}`

// world is a node with everything around it in memory: datastore, kernel, uplink, host. It lives in a synctest bubble, where
// time stands still unless everybody waits.
type world struct {
	t       *testing.T
	store   *storetest.Store
	kernel  *kerneltest.Kernel
	tables  *kerneltest.Tables
	uplink  fakeUplink
	monitor *fakeMonitor
	host    *fakeHost
	syncs   *counter
	log     *daemontest.Log
	node    *Node
	stop    func() error // ends the node and returns what Run did
}

// inWorld runs test in a bubble with a node that was not started.
func inWorld(t *testing.T, config string, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, store: storetest.NewStore(config), kernel: kerneltest.New(), tables: kerneltest.NewTables(),
			monitor: &fakeMonitor{}, host: &fakeHost{}, syncs: &counter{}, log: &daemontest.Log{},
		}
		w.uplink.set(kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}})
		w.kernel.PutLink(kernel.Link{Name: "eth0", MTU: 1500, Up: true}, kerneltest.Foreign)
		w.kernel.Observe(w.monitor.event)
		w.tables.Observe(w.monitor.event)
		test(w)
		if w.stop != nil {
			if err := w.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		if t.Failed() {
			t.Logf("log:\n%s", w.log)
		}
	})
}

func (w *world) options() Options {
	log := slog.New(slog.NewTextHandler(w.log, nil))
	return Options{
		Store: w.store, Dataplane: reconcile.New(w.kernel, w.tables, log), Host: w.host, Log: log, Observer: w.syncs,
		Backend: func(n store.Network) (Backend, error) {
			if n.BackendType != "vxlan" {
				return nil, fmt.Errorf("the stored backend is %q", n.BackendType)
			}
			return overlay.New(overlay.Options{Config: overlay.Config{VNI: 1}, Network: n, NodeName: "a"})
		},
		Uplink:  func(store.Network) (kernel.Uplink, error) { return w.uplink.get() },
		Monitor: w.monitor.open,
		Tables: func(store.Network, store.Subnets) []kernel.Table {
			return []kernel.Table{{Name: kernel.TablePrefix + "masquerade"}}
		},
		Jitter: func(d time.Duration) time.Duration { return d / 2 },
	}
}

func (w *world) start() { w.startWith(w.options()) }

func (w *world) startWith(opts Options) {
	w.node = New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.node.Run(ctx) }()
	w.stop = func() error {
		w.stop = nil
		cancel()
		return <-done
	}
	synctest.Wait()
}

// pass lets time go by and everything come to rest.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) wantReady() {
	w.t.Helper()
	if err := w.node.Status().Ready(); err != nil {
		w.t.Errorf("not ready: %v", err)
	}
}

func (w *world) wantUnready(part string) {
	w.t.Helper()
	if err := w.node.Status().Ready(); err == nil || !strings.Contains(err.Error(), part) {
		w.t.Errorf("ready says %v, want an error with %q", err, part)
	}
	if err := w.node.Status().Live(time.Now()); err != nil {
		w.t.Errorf("not live: %v", err)
	}
}

// has reports whether the kernel holds an object, named as kerneltest's Dump starts its line.
func (w *world) has(object string) bool {
	for line := range strings.Lines(w.kernel.Dump()) {
		if strings.HasPrefix(line, object+" ") || strings.TrimSpace(line) == object {
			return true
		}
	}
	return false
}

func (w *world) wantHas(want bool, objects ...string) {
	w.t.Helper()
	for _, o := range objects {
		if w.has(o) != want {
			w.t.Errorf("kernel has %q: %v, want %v\n%s", o, !want, want, w.kernel.Dump())
		}
	}
}

func (w *world) self() *store.Lease {
	w.t.Helper()
	for _, l := range w.store.Snapshot().Leases {
		if l.PublicIP == netip.MustParseAddr("192.0.2.1") {
			return l
		}
	}
	w.t.Fatal("the node has no lease")
	return nil
}

// peer returns the lease of node n, from 100 to 255.
func peer(n int) *store.Lease {
	data := fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, n)
	return &store.Lease{
		Subnet:      netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24),
		IPv6Subnet:  netip.MustParsePrefix(fmt.Sprintf("fd00:5:0:%x::/64", n)),
		PublicIP:    netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		PublicIPv6:  netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n)),
		BackendType: "vxlan", BackendData: data, BackendV6Data: data,
	}
}

// peerObjects are the kernel objects of node n's IPv4 half.
func peerObjects(n int) []string {
	return []string{
		fmt.Sprintf("fdb 02:00:00:00:00:%02x dev flannel.1", n),
		fmt.Sprintf("neighbor 10.5.%d.0 dev flannel.1", n),
		fmt.Sprintf("route 10.5.%d.0/24", n),
	}
}

type fakeUplink struct {
	mu     sync.Mutex
	uplink kernel.Uplink
	err    error
}

func (u *fakeUplink) get() (kernel.Uplink, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.uplink, u.err
}

func (u *fakeUplink) set(uplink kernel.Uplink) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.uplink, u.err = uplink, nil
}

func (u *fakeUplink) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// fakeMonitor hands the kernel's notifications on while it is open.
type fakeMonitor struct {
	mu      sync.Mutex
	emit    func(kernel.Event)
	links   []string
	opened  int
	openErr error
	broken  chan error
}

func (m *fakeMonitor) open() (Monitor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = make(chan error, 1)
	m.opened++
	return m, m.openErr
}

func (m *fakeMonitor) SetLinks(names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links = names
	return nil
}

func (m *fakeMonitor) Run(ctx context.Context, emit func(kernel.Event)) error {
	m.mu.Lock()
	m.emit = emit
	broken := m.broken
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.emit = nil
		m.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-broken:
		return err
	}
}

func (m *fakeMonitor) Close() error { return nil }

func (m *fakeMonitor) event(ev kernel.Event) {
	m.mu.Lock()
	emit := m.emit
	m.mu.Unlock()
	if emit != nil {
		emit(ev)
	}
}

// fakeHost records announcements.
type fakeHost struct {
	mu        sync.Mutex
	preferred []store.Subnets
	announced []Announcement
	fail      []error
	before    func() // called with each announcement
}

func (h *fakeHost) Preferred() []store.Subnets { return h.preferred }

func (h *fakeHost) Announce(a Announcement) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.before != nil {
		h.before()
	}
	if len(h.fail) > 0 {
		err := h.fail[0]
		h.fail = h.fail[1:]
		return err
	}
	h.announced = append(h.announced, a)
	return nil
}

func (h *fakeHost) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.announced)
}

func (h *fakeHost) last(t *testing.T) Announcement {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.announced) == 0 {
		t.Fatal("the node was not announced")
	}
	return h.announced[len(h.announced)-1]
}

// counter counts syncs.
type counter struct {
	mu      sync.Mutex
	n       int
	reports []Report
}

func (c *counter) Synced(r Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.reports = append(c.reports, r)
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *counter) first() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reports[0]
}

var errAway = errors.New("connection refused")
