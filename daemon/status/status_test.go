package status

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/syncloop"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/reconcile"
	"github.com/twill-cni/twill/store"
)

var (
	end    = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	v4, v6 = netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")
	equal  = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.IgnoreFields(api.NodeStatus{}, "Started")}
)

// bare are the options of a node that has nothing yet.
func bare() Options {
	return Options{
		Node: "a", Version: "v1", Backend: "vxlan", DatastoreKind: "etcd",
		Ready:     func() error { return nil },
		Datastore: func() error { return nil },
		BGP:       func() api.BGP { return nil },
		Services:  func() *syncloop.State { return nil },
		Policies:  func() *syncloop.State { return nil },
		Addresses: func() ([]api.RangeUse, error) { return nil, nil },
		Pods:      func() (int, error) { return 0, nil },
		Conntrack: func() (api.ConntrackUse, error) { return api.ConntrackUse{}, nil },
	}
}

// bareStatus is what such a node answers.
func bareStatus() api.NodeStatus {
	return api.NodeStatus{Node: "a", Version: "v1", Backend: "vxlan", Datastore: api.DatastoreStatus{Kind: "etcd"}, Subnets: []netip.Prefix{}}
}

// report is of a sync with one figure for all kinds of objects.
func report(desired, programmed, changes int) node.Report {
	r := node.Report{End: end, Peers: 2, Rejected: 1}
	r.Result.Kinds[kernel.KindRoute] = reconcile.Counts{Desired: desired, Programmed: programmed, Changes: changes}
	r.Result.Kinds[kernel.KindLink] = reconcile.Counts{Desired: 1, Programmed: 1}
	return r
}

func TestWhatIsTold(t *testing.T) {
	drift, failed := report(4, 4, 3), report(4, 2, 2)
	drift.Drift = true
	failed.Err, failed.End = errors.New("add route"), end.Add(time.Minute)
	early := node.Report{Err: errors.New("no uplink"), End: end}
	tests := []struct {
		name string
		tell func(*Collector)
		want func(*api.NodeStatus)
	}{
		{"nothing", func(*Collector) {}, func(*api.NodeStatus) {}},
		{"a sync", func(c *Collector) { c.Synced(report(4, 4, 4)) }, func(s *api.NodeStatus) {
			s.Peers = api.PeerStatus{LastSync: end, Peers: 2, Rejected: 1, Desired: 5, Programmed: 5}
		}},
		{"repairs add up, other changes do not", func(c *Collector) { c.Synced(drift); c.Synced(report(4, 4, 9)); c.Synced(drift) }, func(s *api.NodeStatus) {
			s.Peers = api.PeerStatus{LastSync: end, Peers: 2, Rejected: 1, Desired: 5, Programmed: 5, Repaired: 6}
		}},
		{"a sync that fails leaves the time of the good one", func(c *Collector) { c.Synced(report(4, 4, 4)); c.Synced(failed) }, func(s *api.NodeStatus) {
			s.Peers = api.PeerStatus{LastSync: end, Error: "add route", Peers: 2, Rejected: 1, Desired: 5, Programmed: 3}
		}},
		{"the next good one ends the error", func(c *Collector) { c.Synced(failed); c.Synced(report(4, 4, 4)) }, func(s *api.NodeStatus) {
			s.Peers = api.PeerStatus{LastSync: end, Peers: 2, Rejected: 1, Desired: 5, Programmed: 5}
		}},
		{"a sync that fails before it looks", func(c *Collector) { c.Synced(early) }, func(s *api.NodeStatus) { s.Peers = api.PeerStatus{Error: "no uplink"} }},
		{"an announcement", func(c *Collector) {
			c.Announced(node.Announcement{Subnets: store.Subnets{IPv4: v4, IPv6: v6}, MTU: 1450})
		}, func(s *api.NodeStatus) { s.Subnets, s.PodMTU = []netip.Prefix{v4, v6}, 1450 }},
		{"another announcement", func(c *Collector) {
			c.Announced(node.Announcement{Subnets: store.Subnets{IPv4: v4}, MTU: 1450})
			c.Announced(node.Announcement{Subnets: store.Subnets{IPv6: v6}, MTU: 1350})
		}, func(s *api.NodeStatus) { s.Subnets, s.PodMTU = []netip.Prefix{v6}, 1350 }},
		{"the uplink", func(c *Collector) { c.SetUplink(kernel.Uplink{Name: "eth0", MTU: 1500}) }, func(s *api.NodeStatus) { s.Uplink, s.UplinkMTU = "eth0", 1500 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := New(bare())
			tt.tell(c)
			want := bareStatus()
			tt.want(&want)
			if diff := cmp.Diff(want, c.Status(t.Context()), equal); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// fakeBGP has sessions in these states.
type fakeBGP struct {
	states  []string
	leftOut int
}

func (f fakeBGP) Sessions() (all []bgp.SessionState) {
	for _, s := range f.states {
		all = append(all, bgp.SessionState{State: s})
	}
	return all
}
func (f fakeBGP) LeftOut() []bgp.LeftOut   { return make([]bgp.LeftOut, f.leftOut) }
func (fakeBGP) Routes() []bgp.LearnedRoute { panic("routes are not asked for") }
func (fakeBGP) Paths(ctx context.Context, q bgp.PathQuery, visit func(bgp.Path)) error {
	panic("paths are not asked for")
}

func TestWhatIsAsked(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name string
		set  func(*Options)
		want func(*api.NodeStatus)
	}{
		{"readiness", func(o *Options) { o.Ready = func() error { return errors.Join(errors.New("a"), errors.New("b")) } },
			func(s *api.NodeStatus) { s.NotReady = []string{"a", "b"} }},
		{"datastore", func(o *Options) { o.Datastore = func() error { return broken } }, func(s *api.NodeStatus) { s.Datastore.Error = "broken" }},
		{"BGP", func(o *Options) {
			o.BGP = func() api.BGP { return fakeBGP{[]string{"Established", "Idle", "Established"}, 1} }
		},
			func(s *api.NodeStatus) { s.BGP = &api.BGPStatus{Sessions: 3, Established: 2, LeftOut: 1} }},
		{"BGP without sessions", func(o *Options) { o.BGP = func() api.BGP { return fakeBGP{} } }, func(s *api.NodeStatus) { s.BGP = &api.BGPStatus{} }},
		{"Services", func(o *Options) {
			o.Services = func() *syncloop.State {
				return &syncloop.State{Synced: end, Waiting: 1500 * time.Millisecond, Err: broken}
			}
		}, func(s *api.NodeStatus) {
			s.Services = &api.LoopStatus{LastSync: end, WaitingSeconds: 1.5, Error: "broken"}
		}},
		{"policies", func(o *Options) { o.Policies = func() *syncloop.State { return &syncloop.State{Synced: end} } },
			func(s *api.NodeStatus) { s.Policies = &api.LoopStatus{LastSync: end} }},
		{"numbers", func(o *Options) {
			o.Addresses = func() ([]api.RangeUse, error) { return []api.RangeUse{{Range: "r", Used: 1, Size: 2}}, nil }
			o.Pods = func() (int, error) { return 3, nil }
			o.Conntrack = func() (api.ConntrackUse, error) { return api.ConntrackUse{Used: 4, Max: 5}, nil }
		}, func(s *api.NodeStatus) {
			s.Addresses, s.Pods, s.Conntrack = []api.RangeUse{{Range: "r", Used: 1, Size: 2}}, 3, api.ConntrackUse{Used: 4, Max: 5}
		}},
		{"what cannot be found out", func(o *Options) {
			o.Addresses = func() ([]api.RangeUse, error) { return nil, broken }
			o.Pods = func() (int, error) { return 0, broken }
			o.Conntrack = func() (api.ConntrackUse, error) { return api.ConntrackUse{Max: 5}, broken }
		}, func(s *api.NodeStatus) {
			s.Unknown = []string{"use of addresses: broken", "number of pods: broken", "tracked connections: broken"}
			s.Conntrack.Max = 5
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			options, want := bare(), bareStatus()
			tt.set(&options)
			tt.want(&want)
			if diff := cmp.Diff(want, New(options).Status(t.Context()), equal); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStarted(t *testing.T) {
	before := time.Now()
	s := New(bare()).Status(t.Context())
	if s.Started.Before(before) || s.Started.After(time.Now()) {
		t.Errorf("started at %v, made after %v", s.Started, before)
	}
}

// An answer does not change when the node is told more.
func TestAnswersAreCopies(t *testing.T) {
	c := New(bare())
	c.Announced(node.Announcement{Subnets: store.Subnets{IPv4: v4}})
	s := c.Status(t.Context())
	s.Subnets[0] = v6
	if got := c.Status(t.Context()).Subnets[0]; got != v4 {
		t.Errorf("the subnet is %v now", got)
	}
}

// ownText joins errors, and says something of its own about them.
type ownText struct{ error }

func (o ownText) Error() string   { return "two of them failed" }
func (o ownText) Unwrap() []error { return []error{o.error, o.error} }

func TestReasons(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	lines := errors.New("first\nsecond")
	tests := []struct {
		name string
		err  error
		want []string
	}{
		{"none", nil, nil},
		{"none joined", errors.Join(nil, nil), nil},
		{"one", a, []string{"a"}},
		{"one joined", errors.Join(nil, a), []string{"a"}},
		{"joined", errors.Join(a, b), []string{"a", "b"}},
		{"joined in joined", errors.Join(errors.Join(a, nil, b), errors.Join(a)), []string{"a", "b", "a"}},
		{"several lines are one reason", errors.Join(lines, a), []string{"first\nsecond", "a"}},
		{"wrapped", fmt.Errorf("datastore: %w", errors.Join(a, b)), []string{"datastore: a\nb"}},
		{"wrapped several", fmt.Errorf("%w, then %w", a, b), []string{"a, then b"}},
		{"joined wrapped", errors.Join(fmt.Errorf("lease: %w", errors.Join(a, b)), b), []string{"lease: a\nb", "b"}},
		{"joined with a text of its own", errors.Join(ownText{a}, b), []string{"two of them failed", "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, reasons(tt.err)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Told and asked at once.
func TestConcurrently(t *testing.T) {
	c := New(bare())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			c.Synced(report(1, 1, 1))
			c.Announced(node.Announcement{Subnets: store.Subnets{IPv4: v4, IPv6: v6}, MTU: 1})
			c.SetUplink(kernel.Uplink{Name: "eth0"})
		}
	}()
	for range 200 {
		if s := c.Status(t.Context()); len(s.Subnets) == 1 {
			t.Errorf("half an announcement: %v", s.Subnets)
		}
	}
	<-done
}
