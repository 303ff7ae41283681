package policy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/twill-cni/twill/daemon/attachments"
	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

const (
	thisNode = "node-a"
	network  = "twill"
	cutMark  = 1 << 31
)

// source is a store.PolicySource that tells what it is given.
type source struct {
	daemontest.Source[store.PolicyChanges]
}

func (s source) WatchPolicies(ctx context.Context, emit func(store.PolicyChanges)) error {
	return s.Watch(ctx, emit)
}

// host is the node beside its nftables.
type host struct {
	mu      sync.Mutex
	records []attachments.Record
	fail    []error // of Records
	held    bool
	looks   int // at records
	free    int // of these, while plugins were not held up

	flows  []conntrack.Flow
	remark []error
	passes int
}

func (h *host) Records() ([]attachments.Record, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	if !h.held {
		h.free++
	}
	if len(h.fail) > 0 {
		err := h.fail[0]
		h.fail = h.fail[1:]
		return nil, err
	}
	return slices.Clone(h.records), nil
}

func (h *host) hold(context.Context) (func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held = false
	}, nil
}

func (h *host) Remark(_ context.Context, of conntrack.Flows, mask uint32, decide func(conntrack.Flow) (uint32, bool)) (int, error) {
	h.mu.Lock()
	flows := slices.Clone(h.flows)
	var err error
	if len(h.remark) > 0 {
		err, h.remark = h.remark[0], h.remark[1:]
	}
	h.passes++
	h.mu.Unlock()
	if of != (conntrack.Flows{Both: true}) {
		return 0, fmt.Errorf("asked for %+v", of)
	}
	if err != nil {
		return 0, err
	}
	changed := 0
	for _, f := range flows {
		if mark, change := decide(f); change {
			changed++
			h.set(f.ID, f.Mark&^mask|mark&mask)
		}
	}
	return changed, nil
}

func (h *host) set(id, mark uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.flows {
		if h.flows[i].ID == id {
			h.flows[i].Mark = mark
		}
	}
}

// cut returns the ids of the connections that are cut.
func (h *host) cut() (out []uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.flows {
		if f.Mark&cutMark != 0 {
			out = append(out, f.ID)
		}
	}
	return out
}

func (h *host) put(records ...attachments.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = records
}

// rig is an Enforcer on a kernel in memory.
type rig struct {
	t        testing.TB
	tables   *kerneltest.Tables
	source   source
	host     *host
	log      *daemontest.Log
	registry *prometheus.Registry
	opts     Options
	*Enforcer
	stop func()
}

func newRig(t testing.TB, tables *kerneltest.Tables, change ...func(*Options)) *rig {
	r := &rig{t: t, tables: tables, source: source{make(daemontest.Source[store.PolicyChanges])}, host: &host{}, log: &daemontest.Log{}, registry: prometheus.NewRegistry()}
	r.opts = Options{
		Source: r.source, Kernel: tables, Conntrack: Conntrack{Remark: r.host.Remark}, Records: r.host.Records, Hold: r.host.hold,
		NodeAddrs: func(context.Context) ([]netip.Addr, error) { return daemontest.Addrs("192.0.2.1", "10.1.1.1"), nil },
		Network:   network, NodeName: thisNode,
		Table:   gate.Config{CutMark: cutMark, LogGroup: 7, LogRate: 10, LogBurst: 10},
		Metrics: NewMetrics(r.registry), Log: slog.New(slog.NewTextHandler(r.log, nil)), Jitter: func(time.Duration) time.Duration { return 0 },
	}
	for _, f := range change {
		f(&r.opts)
	}
	r.Enforcer = New(r.opts)
	return r
}

// start runs the Enforcer until the test ends, or stop is called.
func (r *rig) start() { r.stop = daemontest.Start(r.t, r.Run) }

var nodePods = daemontest.Prefixes("10.1.1.0/24", "fd00:1:1::/64")

// begin starts the Enforcer with these objects, and waits until the kernel holds them.
func (r *rig) begin(objects ...any) {
	r.t.Helper()
	r.start()
	r.SetNodePods(nodePods)
	c := changes(objects...)
	c.Reset = true
	r.source.Tell(r.t, c)
	r.until("the first sync", func() bool { return r.Ready() == nil })
}

// tell has the source tell changes, and waits until they are in the kernel.
func (r *rig) tell(objects ...any) {
	r.t.Helper()
	r.source.Tell(r.t, changes(objects...))
	r.settled()
}

// attached sets the records of attachments, and waits until they are followed.
func (r *rig) attached(records ...attachments.Record) {
	r.t.Helper()
	r.host.put(records...)
	r.ObserveRecords()
	r.settled()
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	daemontest.Until(r.t, what, ok, func() string { return r.tables.Dump() + "\n" + r.log.String() })
}

// settled waits until the kernel holds all that was told.
func (r *rig) settled() {
	r.t.Helper()
	r.until("the kernel to hold what was told", func() bool {
		r.mu.Lock()
		in := r.in
		r.mu.Unlock()
		r.state.Lock()
		defer r.state.Unlock()
		return in.changes == nil && in.nodePods == nil && !in.records && !in.drift && !in.compare && r.progress.State().Idle()
	})
}

func (r *rig) figure(name string) float64 {
	r.t.Helper()
	return daemontest.Figure(r.t, r.registry, name)
}

// dump returns what the sets of the table hold.
func dump(tables *kerneltest.Tables) string {
	var b strings.Builder
	for _, set := range gate.Closed(gate.Config{}).Sets {
		b.WriteString(set.Name + "\n")
		if set.Bulk {
			b.WriteString(tables.DumpSet(kernel.SetID{Family: gate.Family, Table: gate.TableName, Set: set.Name}))
			continue
		}
		elements, _ := tables.ListElements(gate.Family, gate.TableName, set.Name) // without the table there are none
		var all []string
		for _, e := range elements {
			line := fmt.Sprint(e.Key, e.KeyEnd)
			for _, v := range e.Value {
				if v.Verdict != nil {
					line += " " + v.Verdict.Chain
				} else {
					line += fmt.Sprint(" ", v.Number)
				}
			}
			all = append(all, line+"\n")
		}
		slices.Sort(all)
		b.WriteString(strings.Join(all, ""))
	}
	return b.String()
}

// gone is an object that is there no more: a pod, a policy, or a namespace.
type gone struct{ object any }

// changes gathers objects.
func changes(objects ...any) store.PolicyChanges {
	c := store.PolicyChanges{Policies: map[store.ObjectName]*store.NetworkPolicy{}, ClusterPolicies: map[string]*store.ClusterNetworkPolicy{},
		Namespaces: map[string]*store.Namespace{}, Pods: map[store.PodKey]*store.Pod{}}
	for _, o := range objects {
		there := true
		if g, ok := o.(gone); ok {
			o, there = g.object, false
		}
		switch o := o.(type) {
		case *store.NetworkPolicy:
			c.Policies[o.Name] = pick(there, o)
		case *store.ClusterNetworkPolicy:
			c.ClusterPolicies[o.Name] = pick(there, o)
		case *store.Namespace:
			c.Namespaces[o.Name] = pick(there, o)
		case *store.Pod:
			c.Pods[o.Key()] = pick(there, o)
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
	return c
}

func pick[T any](there bool, o *T) *T {
	if there {
		return o
	}
	return nil
}

// pod is a pod of namespace shop, with labels such as "role=web".
func pod(node, name, addr string, labels ...string) *store.Pod {
	p := &store.Pod{Name: store.ObjectName{Namespace: "shop", Name: name}, Node: node, UID: "uid-" + name, Labels: map[string]string{}}
	if addr != "" {
		p.Addrs = daemontest.Addrs(strings.Fields(addr)...)
	}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		p.Labels[key] = value
	}
	return p
}

func shop() *store.Namespace {
	return &store.Namespace{Name: "shop", Labels: map[string]string{store.NamespaceNameLabel: "shop"}}
}

func label(of string) store.Selector {
	key, value, _ := strings.Cut(of, "=")
	return store.NewSelector(store.Requirement{Key: key, Operator: store.SelectorIn, Values: []string{value}})
}

// allow is a policy that closes pods with a label for ingress, but for TCP port 80 from those with another one.
func allow(name, to, from string) *store.NetworkPolicy {
	peers := label(from)
	return &store.NetworkPolicy{Name: store.ObjectName{Namespace: "shop", Name: name}, Pods: label(to), IsolatesIngress: true,
		Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Pods: &peers}}, Ports: []store.PolicyPort{{Protocol: store.TCP, Port: 80}}}}}
}

// record is the complete record of a pod of namespace shop.
func record(name, addr string) attachments.Record {
	r := attachments.Record{Complete: true, Record: attach.Record{Network: network, ContainerID: "c-" + name, IfName: "eth0", Pod: "shop/" + name, PodUID: "uid-" + name}}
	for _, a := range daemontest.Addrs(strings.Fields(addr)...) {
		r.Addresses = append(r.Addresses, netip.PrefixFrom(a, 24))
	}
	return r
}

// flow is a connection of TCP.
func flow(id uint32, src, dst string) conntrack.Flow {
	to := netip.MustParseAddrPort(dst)
	return conntrack.Flow{Protocol: 6, Src: netip.AddrPortFrom(netip.MustParseAddr(src), 40000), Dst: to, Endpoint: to, ID: id}
}
