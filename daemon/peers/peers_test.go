package peers

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

var (
	here   = store.Subnets{IPv4: netip.MustParsePrefix("10.244.1.0/24")}
	there  = store.Subnets{IPv4: netip.MustParsePrefix("10.244.2.0/24")}
	mac    = kernel.MAC{2, 0, 0, 0, 0, 2}
	route  = kernel.Route{Dst: there.IPv4, NextHops: []kernel.NextHop{{Gateway: there.IPv4.Addr(), Link: "flannel.1", OnLink: true}}}
	beside = kernel.Neighbor{Link: "flannel.1", IP: there.IPv4.Addr(), MAC: mac}
	behind = kernel.FDBEntry{Link: "flannel.1", MAC: mac, Dst: netip.MustParseAddr("192.0.2.2")}
	whole  = kernel.Fragment{Owner: there.Key(), Routes: []kernel.Route{route}, Neighbors: []kernel.Neighbor{beside}, FDB: []kernel.FDBEntry{behind}}
)

// fakeKernel holds a fragment.
type fakeKernel struct {
	kernel.Fragment
	err error
}

func (k fakeKernel) Neighbors(context.Context, []string) ([]kernel.Neighbor, error) {
	return k.Fragment.Neighbors, k.err
}
func (k fakeKernel) FDB(context.Context, []string) ([]kernel.FDBEntry, error) {
	return k.Fragment.FDB, k.err
}
func (k fakeKernel) Routes(context.Context, []string) ([]kernel.Route, error) {
	return k.Fragment.Routes, k.err
}

type fakeStore struct{ entries []store.NodeEntry }

func (s fakeStore) ListNodes(context.Context, store.NodeDetail) ([]store.NodeEntry, error) {
	return s.entries, nil
}

type fakeBGP struct {
	api.BGP
	sessions []bgp.SessionState
}

func (b fakeBGP) Sessions() []bgp.SessionState { return b.sessions }

func entry(name string, s store.Subnets, address string) store.NodeEntry {
	l := store.NewLease(s, store.Attributes{PublicIP: netip.MustParseAddr(address), BackendType: "vxlan", BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"` + mac.String() + `"}`)})
	return store.NodeEntry{Name: name, Subnets: s, Lease: l, Labels: map[string]string{store.ZoneLabel: "z1"}}
}

// inspector is that of node1, whose kernel should hold whole.
func inspector(k fakeKernel, wanted *node.Wanted) *Inspector {
	return New(Options{
		Node: "node1", DatastoreKind: "etcd", Datastore: fakeStore{[]store.NodeEntry{entry("", here, "192.0.2.1"), entry("node2", there, "192.0.2.2")}},
		Wanted: func() *node.Wanted { return wanted },
		Kernel: func() (Reader, func() error, error) { return k, func() error { return nil }, nil },
		BGP:    func() api.BGP { return nil },
	})
}

func wanted() *node.Wanted {
	return &node.Wanted{Fragments: []*kernel.Fragment{&whole}, Links: []string{"flannel.1"}, Self: store.NewLease(here, store.Attributes{})}
}

func TestHeld(t *testing.T) {
	other := route
	other.NextHops = []kernel.NextHop{{Gateway: netip.MustParseAddr("192.0.2.9"), Link: "eth0"}}
	part := kernel.Route{Dst: netip.MustParsePrefix("10.244.2.128/25"), Metric: 32, NextHops: other.NextHops}
	unrelated := kernel.Route{Dst: netip.MustParsePrefix("10.244.3.0/24"), NextHops: other.NextHops}
	tests := []struct {
		name string
		have kernel.Fragment
		want []string // KIND VERDICT, in order
		good bool
	}{
		{"as it should be", whole, []string{"route ok", "neighbor ok", "fdb ok"}, true},
		{"nothing", kernel.Fragment{}, []string{"route missing", "neighbor missing", "fdb missing"}, false},
		{"the route leads elsewhere", kernel.Fragment{Routes: []kernel.Route{other}, Neighbors: whole.Neighbors, FDB: whole.FDB},
			[]string{"route differs", "neighbor ok", "fdb ok"}, false},
		{"a neighbour with another MAC", kernel.Fragment{Routes: whole.Routes, Neighbors: []kernel.Neighbor{{Link: "flannel.1", IP: beside.IP, MAC: kernel.MAC{2}}}, FDB: whole.FDB},
			[]string{"route ok", "neighbor differs", "fdb ok"}, false},
		{"a route too many, and one to another node", kernel.Fragment{Routes: []kernel.Route{route, part, unrelated}, Neighbors: whole.Neighbors, FDB: whole.FDB},
			[]string{"route ok", "route unexpected", "neighbor ok", "fdb ok"}, false},
		{"a neighbour too many", kernel.Fragment{Routes: whole.Routes, Neighbors: []kernel.Neighbor{beside, {Link: "flannel.1", IP: beside.IP.Next(), MAC: mac}}, FDB: whole.FDB},
			[]string{"route ok", "neighbor ok", "neighbor unexpected", "fdb ok"}, false},
	}
	for _, tt := range tests {
		for _, name := range []string{"node2", "10.244.2.0/24", "192.0.2.2"} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				held, err := inspector(fakeKernel{Fragment: tt.have}, wanted()).Held(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, o := range held.Objects {
					got = append(got, o.Kind+" "+string(o.Verdict))
				}
				if diff := cmp.Diff(tt.want, got); diff != "" || held.Good() != tt.good {
					t.Errorf("good %v: %s", held.Good(), diff)
				}
			})
		}
	}
}

// A router may announce no more than the network of the cluster, or that it leads everywhere.
func TestHeldByAWiderRoute(t *testing.T) {
	dual := store.Subnets{IPv4: there.IPv4, IPv6: netip.MustParsePrefix("fd00:2::/64")}
	way := func(dst string, kind kernel.RouteType) *kernel.Fragment {
		return &kernel.Fragment{Routes: []kernel.Route{{Dst: netip.MustParsePrefix(dst), Type: kind, NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("192.0.2.254"), Link: "eth0"}}}}}
	}
	everywhere, cluster, narrow := way("0.0.0.0/0", kernel.Unicast), way("10.244.0.0/16", kernel.Unicast), way("10.244.2.0/24", kernel.Unicast)
	beside, all6 := way("10.245.0.0/16", kernel.Unicast), way("fd00::/16", kernel.Unicast)
	for _, tt := range []struct {
		name      string
		subnets   store.Subnets
		fragments []*kernel.Fragment
		want      []*kernel.Fragment
	}{
		{"default", there, []*kernel.Fragment{everywhere, beside}, []*kernel.Fragment{everywhere}},
		{"the longest", there, []*kernel.Fragment{everywhere, cluster, beside}, []*kernel.Fragment{cluster}},
		{"its own", there, []*kernel.Fragment{everywhere, cluster, narrow}, []*kernel.Fragment{narrow}},
		{"a dead end", there, []*kernel.Fragment{way("10.244.0.0/16", kernel.Unreachable), beside}, nil},
		{"each family", dual, []*kernel.Fragment{cluster, narrow, all6}, []*kernel.Fragment{narrow, all6}},
		{"neither", dual, []*kernel.Fragment{beside}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := wanted()
			w.Fragments = tt.fragments
			i := inspector(fakeKernel{Fragment: *cluster}, w)
			i.opts.Datastore = fakeStore{[]store.NodeEntry{entry("node2", tt.subnets, "192.0.2.2")}}
			if got := of(w, tt.subnets); !slices.Equal(got, tt.want) {
				t.Errorf("%+v", got)
			}
			held, err := i.Held(t.Context(), "node2")
			if err != nil || (held.Why == "") != (tt.want != nil) || held.Good() != (tt.name == "the longest") {
				t.Errorf("%v: %+v", err, held)
			}
		})
	}
}

func TestWhyNothingIsHeld(t *testing.T) {
	none := wanted()
	none.Fragments = nil
	refused := wanted()
	refused.Fragments, refused.Rejected = nil, []store.Reject{{Key: there.Key(), Err: errors.New("VNI is 2")}}
	for _, tt := range []struct {
		name, of string
		wanted   *node.Wanted
		why      string // of an error, or in the answer
		good     bool
	}{
		{"not synced", "node2", nil, "not synced yet", false},
		{"nobody", "node9", wanted(), `no node of the datastore is "node9"`, false},
		{"nothing named", "", wanted(), `no node of the datastore is ""`, false},
		{"itself", "node1", wanted(), "this node itself", true},
		{"refused", "node2", refused, "VNI is 2", false},
		{"not yet", "node2", none, "before it came", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			held, err := inspector(fakeKernel{}, tt.wanted).Held(t.Context(), tt.of)
			if err != nil {
				held = &api.NodeHeld{Why: err.Error()}
			}
			if !strings.Contains(held.Why, tt.why) || held.Good() != tt.good {
				t.Errorf("good %v: %s", held.Good(), held.Why)
			}
		})
	}
	if _, err := inspector(fakeKernel{err: kernel.ErrStale}, wanted()).Held(t.Context(), "node2"); !errors.Is(err, kernel.ErrStale) {
		t.Errorf("error %v", err)
	}
}

// countingStore counts what it is asked.
type countingStore struct {
	fakeStore
	asked []store.NodeDetail
}

func (s *countingStore) ListNodes(ctx context.Context, what store.NodeDetail) ([]store.NodeEntry, error) {
	s.asked = append(s.asked, what)
	return s.fakeStore.ListNodes(ctx, what)
}

// When all nodes are asked for one, the datastore is not asked by all of them for all of them.
func TestHeldAsksTheDatastoreForNamesOnly(t *testing.T) {
	vxlan, routed := entry("node2", there, "192.0.2.2"), entry("", store.Subnets{IPv4: netip.MustParsePrefix("10.244.4.0/24")}, "192.0.2.4")
	routed.Lease.BackendType, routed.Lease.BackendData = bgp.BackendType, json.RawMessage(`{"AS":65001,"Node":"node4","RouterID":"192.0.2.4"}`)
	for _, tt := range []struct {
		name string
		want []store.NodeDetail
	}{
		{"node1", nil}, {"10.244.1.0/24", nil}, {"10.244.2.0/24", nil}, {"192.0.2.2", nil}, {"node4", nil}, {"10.244.4.0/24", nil},
		{"node2", []store.NodeDetail{store.WithNames}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := wanted()
			w.Leases = []*store.Lease{w.Self, vxlan.Lease, routed.Lease}
			i := inspector(fakeKernel{Fragment: whole}, w)
			asked := &countingStore{fakeStore: fakeStore{[]store.NodeEntry{vxlan}}}
			i.opts.Datastore = asked
			held, err := i.Held(t.Context(), tt.name)
			if err != nil || !held.Node.Is(tt.name) || !slices.Equal(asked.asked, tt.want) {
				t.Errorf("%v: asked %v: %+v", err, asked.asked, held)
			}
		})
	}
}

func TestList(t *testing.T) {
	i := inspector(fakeKernel{}, wanted())
	broken := store.NodeEntry{Name: "node3", Subnets: store.Subnets{IPv4: netip.MustParsePrefix("10.244.3.0/24")}, Err: errors.New("no JSON")}
	routed := entry("node4", store.Subnets{IPv4: netip.MustParsePrefix("10.244.4.0/24")}, "192.0.2.4")
	routed.Lease.BackendType, routed.Lease.BackendData = bgp.BackendType, json.RawMessage(`{"AS":65001,"Node":"node4","RouterID":"192.0.2.4"}`)
	i.opts.Datastore = fakeStore{[]store.NodeEntry{entry("", here, "192.0.2.1"), entry("node2", there, "192.0.2.2"), broken, routed}}
	i.opts.BGP = func() api.BGP {
		return fakeBGP{sessions: []bgp.SessionState{{Name: "node node4", Address: netip.MustParseAddr("192.0.2.4")}, {Name: "tor", Address: netip.MustParseAddr("192.0.2.254")}}}
	}
	listing, err := i.List(t.Context(), store.WithExpiries)
	if err != nil || len(listing.Nodes) != 4 {
		t.Fatalf("%v: %+v", err, listing)
	}
	n := listing.Nodes
	if !n[0].Self || n[0].Name != "node1" || n[1].Self || n[1].VTEPMACs[0] != mac.String() || n[1].Zone != "z1" || n[2].Error != "no JSON" ||
		n[3].AS != 65001 || n[3].RouterID.String() != "192.0.2.4" {
		t.Errorf("%+v", n)
	}
	held, err := i.Held(t.Context(), "node4")
	if err != nil || len(held.Sessions) != 1 || held.Sessions[0].Name != "node node4" {
		t.Errorf("%v: %+v", err, held)
	}
}
