package peers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Reader reads the kernel; *linux.Handle is the real one.
type Reader interface {
	Neighbors(ctx context.Context, links []string) ([]kernel.Neighbor, error)
	FDB(ctx context.Context, links []string) ([]kernel.FDBEntry, error)
	Routes(ctx context.Context, links []string) ([]kernel.Route, error)
}

// Options are what an Inspector asks. All of it is needed.
type Options struct {
	Node          string // this one's name
	DatastoreKind string // etcd or kubernetes
	Datastore     store.NodeLister
	Wanted        func() *node.Wanted // nil before the first sync
	Kernel        func() (Reader, func() error, error)
	BGP           func() api.BGP // nil: the backend is another one
}

// Inspector answers. Its methods may be called concurrently. Make it with New.
type Inspector struct{ opts Options }

var _ api.Nodes = (*Inspector)(nil)

// New makes an Inspector.
func New(opts Options) *Inspector { return &Inspector{opts} }

// List implements api.Nodes.
func (i *Inspector) List(ctx context.Context, what store.NodeDetail) (*api.NodeListing, error) {
	entries, err := i.opts.Datastore.ListNodes(ctx, what)
	if err != nil {
		return nil, err
	}
	listing := &api.NodeListing{Node: i.opts.Node, Datastore: i.opts.DatastoreKind, Nodes: []api.ClusterNode{}}
	for _, e := range entries {
		listing.Nodes = append(listing.Nodes, i.clusterNode(e))
	}
	return listing, nil
}

func (i *Inspector) clusterNode(e store.NodeEntry) api.ClusterNode {
	n := api.ClusterNode{Name: e.Name, Subnets: []netip.Prefix{}, Addresses: []netip.Addr{}, Expires: e.Expires, Created: e.Created, Zone: e.Labels[store.ZoneLabel]}
	for _, p := range []netip.Prefix{e.Subnets.IPv4, e.Subnets.IPv6} {
		if p.IsValid() {
			n.Subnets = append(n.Subnets, p)
		}
	}
	if e.Err != nil {
		n.Error = e.Err.Error()
	}
	if w := i.opts.Wanted(); w != nil && w.Self.Subnets() == e.Subnets {
		n.Self, n.Name = true, i.opts.Node
	}
	l := e.Lease
	if l == nil {
		return n
	}
	n.Backend = l.BackendType
	for _, a := range []netip.Addr{l.PublicIP, l.PublicIPv6} {
		if a.IsValid() {
			n.Addresses = append(n.Addresses, a)
		}
	}
	for _, data := range []json.RawMessage{l.BackendData, l.BackendV6Data} {
		var said struct{ VtepMAC string }
		if json.Unmarshal(data, &said) == nil && said.VtepMAC != "" && len(said.VtepMAC) <= len("00:00:00:00:00:00") {
			n.VTEPMACs = append(n.VTEPMACs, said.VtepMAC)
		}
	}
	if data, err := bgp.DecodeLease(l); err == nil {
		n.AS, n.RouterID, n.Name = data.AS, data.RouterID, cmp.Or(n.Name, data.Node)
	} else if l.BackendType == bgp.BackendType && n.Error == "" {
		n.Error = err.Error()
	}
	return n
}

// Held implements api.Nodes.
func (i *Inspector) Held(ctx context.Context, name string) (*api.NodeHeld, error) {
	wanted := i.opts.Wanted()
	if wanted == nil {
		return nil, errors.New("twilld has not synced yet: ask again in a moment")
	}
	entry, err := i.find(ctx, wanted, name)
	if err != nil {
		return nil, err
	}
	held := &api.NodeHeld{Node: i.clusterNode(entry), Objects: []api.HeldObject{}}
	if held.Node.Self {
		held.Why = "it is this node itself"
		return held, nil
	}
	want := of(wanted, entry.Subnets)
	have, err := i.read(ctx, wanted.Links)
	if err != nil {
		return nil, fmt.Errorf("read the kernel: %w", err)
	}
	held.Objects = compare(want, have, entry.Subnets)
	if len(want) == 0 {
		held.Why = why(wanted.Rejected, entry)
	}
	if b := i.opts.BGP(); b != nil {
		held.Sessions = sessionsWith(b.Sessions(), held.Node)
	}
	return held, nil
}

// find returns the node that a person means. The leases that the last sync was for are at hand; the datastore, which has more names, is asked only if
// these do not tell: with many nodes, each of which is asked, it would have much to answer.
func (i *Inspector) find(ctx context.Context, wanted *node.Wanted, name string) (store.NodeEntry, error) {
	means := func(e store.NodeEntry) bool { return i.clusterNode(e).Is(name) }
	for _, l := range append(slices.Clip(wanted.Leases), wanted.Self) {
		if e := (store.NodeEntry{Subnets: l.Subnets(), Lease: l}); means(e) {
			return e, nil
		}
	}
	entries, err := i.opts.Datastore.ListNodes(ctx, store.WithNames)
	if err != nil {
		return store.NodeEntry{}, err
	}
	if at := slices.IndexFunc(entries, means); at >= 0 {
		return entries[at], nil
	}
	return store.NodeEntry{}, fmt.Errorf("no node of the datastore is %q: say its name, subnet or address, as `twillctl node` lists them", name)
}

// read reads what is on the links, and the routes that are Twill's. The handle is one of its own: the loop's is not kept waiting.
func (i *Inspector) read(ctx context.Context, links []string) (f kernel.Fragment, err error) {
	k, done, err := i.opts.Kernel()
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if f.Routes, err = k.Routes(ctx, links); err != nil {
		return f, err
	}
	if f.Neighbors, err = k.Neighbors(ctx, links); err != nil {
		return f, err
	}
	f.FDB, err = k.FDB(ctx, links)
	return f, err
}

// why says why nothing leads to a node.
func why(rejected []store.Reject, e store.NodeEntry) string {
	for _, r := range rejected {
		if r.Key == e.Subnets.Key() || r.Key == e.Name || strings.TrimPrefix(r.Key, "bgp ") == e.Subnets.IPv4.String() || strings.TrimPrefix(r.Key, "bgp ") == e.Subnets.IPv6.String() {
			return "its record, or the way to it, is not used: " + r.Err.Error()
		}
	}
	switch {
	case e.Err != nil:
		return "its record cannot be used: " + e.Err.Error()
	case e.Lease == nil:
		return "it has not registered"
	case e.Lease.BackendType == bgp.BackendType:
		return "nothing was learned of its subnets: `twillctl bgp explain` of a subnet says what each peer announces"
	}
	return "the last sync was before it came, or its record is not used: the daemon's log says"
}

// sessionsWith returns the sessions with the node.
func sessionsWith(all []bgp.SessionState, n api.ClusterNode) []bgp.SessionState {
	var found []bgp.SessionState
	for _, s := range all {
		if slices.Contains(n.Addresses, s.Address) {
			found = append(found, s)
		}
	}
	return found
}
