package bgp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// fakeSpeaker remembers what it was told to be.
type fakeSpeaker struct {
	Speaker
	mu       sync.Mutex
	was      []Instance
	fail     []error // of the next calls of Set
	sessions []SessionState
	learned  []*Route
	settled  bool
}

func (s *fakeSpeaker) Run(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

func (s *fakeSpeaker) Set(_ context.Context, want Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.was = append(s.was, want)
	if len(s.fail) == 0 {
		return nil
	}
	err := s.fail[0]
	s.fail = s.fail[1:]
	return err
}

func (s *fakeSpeaker) Standing() []SessionState { return s.sessions }
func (s *fakeSpeaker) Learned() []*Route        { return s.learned }
func (s *fakeSpeaker) Settled() bool            { return s.settled }

func (s *fakeSpeaker) sets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.was)
}

// fakePlanner counts its plans and numbers them by the AS.
type fakePlanner struct {
	plans int
	last  PlanInput

	again   time.Duration
	publish *LeaseData
}

func (p *fakePlanner) Attributes(kernel.Uplink) (store.Attributes, error) {
	return store.Attributes{BackendType: BackendType, BackendData: json.RawMessage(`{"AS":64512}`)}, nil
}

func (p *fakePlanner) Plan(in PlanInput) Planned {
	p.plans++
	p.last = in
	return Planned{Instance: Instance{AS: uint32(p.plans)}, Rejects: []store.Reject{{Key: "bad peer", Err: errors.New("it is bad")}}, Again: p.again, Publish: p.publish}
}

// fakeOverlay has a tunnel to every lease that it is given.
type fakeOverlay struct{ given []string }

func (o *fakeOverlay) Attributes(kernel.Uplink) (store.Attributes, error) {
	return store.Attributes{BackendType: "vxlan", BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`)}, nil
}
func (o *fakeOverlay) PodMTU(u kernel.Uplink) (int, error) { return u.MTU - 50, nil }
func (o *fakeOverlay) Links(kernel.Uplink, *store.Lease) ([]kernel.Link, error) {
	return []kernel.Link{{Name: "flannel.1"}}, nil
}
func (o *fakeOverlay) Fragments(_ kernel.Uplink, _ *store.Lease, leases []*store.Lease) ([]*kernel.Fragment, []store.Reject, error) {
	o.given = nil
	var fragments []*kernel.Fragment
	for _, l := range leases {
		o.given = append(o.given, l.Key())
		fragments = append(fragments, &kernel.Fragment{Owner: l.Key(), Routes: []kernel.Route{{Dst: l.Subnet}}})
	}
	return fragments, nil, nil
}

func lease(subnet, public, backend string) *store.Lease {
	return &store.Lease{Subnet: prefix(subnet), PublicIP: netip.MustParseAddr(public), BackendType: backend}
}

func TestPlansOnlyWhenSomethingChanged(t *testing.T) {
	planner, speaker := &fakePlanner{}, &fakeSpeaker{}
	b := New(Options{Speaker: speaker}, Setup{Planner: planner})
	s := here()
	leases := []*store.Lease{s.self, lease("10.5.2.0/24", "192.0.2.2", BackendType)}
	sync := func(why string, want int) {
		t.Helper()
		_, rejects, err := b.Fragments(s.uplink, s.self, leases)
		if err != nil || len(rejects) != 1 {
			t.Errorf("%s: rejected %v, error %v", why, rejects, err)
		}
		if planner.plans != want {
			t.Errorf("%s: %d plans, want %d", why, planner.plans, want)
		}
	}
	if left := b.LeftOut(); len(left) != 0 {
		t.Errorf("before the first plan, %v are left out of it", left)
	}
	sync("at first", 1)
	if left := b.LeftOut(); !slices.Equal(left, []LeftOut{{What: "bad peer", Why: "it is bad"}}) {
		t.Errorf("left out: %v", left)
	}
	sync("nothing changed", 1)
	speaker.learned = []*Route{learned("10.5.2.0/24", "192.0.2.2")}
	sync("a route was learned", 1)
	speaker.sessions = []SessionState{{Address: netip.MustParseAddr("192.0.2.2"), State: "OpenSent"}}
	sync("a session is coming up", 1)
	speaker.sessions[0].State = "Established"
	sync("a session came up", 2)
	speaker.sessions[0].EndOfRIB = true
	sync("its peer has said everything", 3)
	leases = append([]*store.Lease(nil), leases...)
	sync("a new snapshot", 4)
	b.Announce([]ServiceAddress{{Prefix: prefix("10.96.0.1/32"), Kind: ClusterIP}})
	sync("a Service", 5)
	if len(planner.last.Services) != 1 {
		t.Errorf("the plan was made for the Services %v", planner.last.Services)
	}
	s.uplink.MTU = 9000
	sync("the uplink", 6)
	s.uplink.Routes = s.uplink.Routes[1:]
	sync("a route by which next hops are reached", 6)
	other := &fakePlanner{}
	b.Change(Setup{Planner: other})
	sync("another configuration", 6)
	if other.plans != 1 {
		t.Errorf("the new planner made %d plans", other.plans)
	}
}

func TestOnlyPeersOfTheStartAreToldOfTheRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		speaker := &fakeSpeaker{}
		b := New(Options{Speaker: speaker, Restarting: true}, Setup{Planner: &fakePlanner{}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx, func() {}) }()
		s := here()
		for _, settled := range []bool{false, true} {
			speaker.settled = settled
			b.Change(Setup{Planner: &fakePlanner{}})
			if _, _, err := b.Fragments(s.uplink, s.self, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := speaker.was[len(speaker.was)-1].Restarting; got == settled {
				t.Errorf("settled %v: restarting %v", settled, got)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestThePlanIsMadeAgainInItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		planner := &fakePlanner{again: 3 * time.Second}
		b := New(Options{Speaker: &fakeSpeaker{}}, Setup{Planner: planner})
		s := here()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		changed := make(chan struct{}, 10)
		go func() { ended <- b.Run(ctx, func() { changed <- struct{}{} }) }()
		synctest.Wait()
		sync := func() {
			if _, _, err := b.Fragments(s.uplink, s.self, nil); err != nil {
				t.Fatal(err)
			}
		}
		sync()
		time.Sleep(time.Second)
		sync()
		if planner.plans != 1 {
			t.Errorf("%d plans after a second", planner.plans)
		}
		time.Sleep(2*time.Second + time.Millisecond)
		<-changed
		planner.again, planner.publish = 0, &LeaseData{Node: "a"}
		sync()
		if planner.plans != 2 {
			t.Errorf("%d plans after its time", planner.plans)
		}
		<-changed // for what is to be published
		time.Sleep(time.Minute)
		if len(changed) > 0 {
			t.Error("it wakes up without a reason")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestTheSpeakerFollowsThePlanAndIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		refused := errors.New("peer tor: no route")
		speaker := &fakeSpeaker{fail: []error{refused, refused}}
		b := New(Options{Speaker: speaker, Log: slog.New(slog.NewTextHandler(&log, nil))}, Setup{Planner: &fakePlanner{}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx, func() {}) }()
		s := here()
		if _, _, err := b.Fragments(s.uplink, s.self, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if speaker.sets() != 1 {
			t.Fatalf("told %d times, want at once", speaker.sets())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if speaker.sets() != 3 {
			t.Errorf("told %d times: twice it was refused", speaker.sets())
		}
		if n := strings.Count(log.String(), "no route"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsPublishedIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("disk full")
		fail := []error{refused, nil}
		var kept []string
		b := New(Options{Speaker: &fakeSpeaker{}, Log: slog.New(slog.DiscardHandler), Remember: func(d LeaseData) error {
			err := fail[0]
			fail = fail[1:]
			if err == nil {
				kept = append(kept, d.Node)
			}
			return err
		}}, Setup{Planner: &fakePlanner{publish: &LeaseData{Node: "a"}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx, func() {}) }()
		s := here()
		if _, _, err := b.Fragments(s.uplink, s.self, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"a"}, kept); diff != "" {
			t.Error(diff)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOverlayIsForWhoIsNotOnTheSameNetwork(t *testing.T) {
	near, far, vxlan := lease("10.5.2.0/24", "192.0.2.2", BackendType), lease("10.5.3.0/24", "198.51.100.3", BackendType), lease("10.5.4.0/24", "192.0.2.4", "vxlan")
	silent := lease("10.5.6.0/24", "192.0.2.6", BackendType)
	for _, tt := range []struct {
		name   string
		always bool
		want   []string
	}{
		{"cross-subnet", false, []string{far.Key(), vxlan.Key(), silent.Key()}},
		{"always", true, []string{near.Key(), far.Key(), vxlan.Key(), silent.Key()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tunnels := &fakeOverlay{}
			speaker := &fakeSpeaker{learned: []*Route{learned("10.5.2.0/24", "192.0.2.2"), learned("10.5.3.0/24", "192.0.2.254")}}
			b := New(Options{Speaker: speaker}, Setup{Planner: &fakePlanner{}, Overlay: tunnels, Always: tt.always})
			s := here()
			fragments, _, err := b.Fragments(s.uplink, s.self, []*store.Lease{near, far, vxlan, silent})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tunnels.given); diff != "" {
				t.Error(diff)
			}
			direct := strings.Contains(text(fragments), "route 10.5.2.0/24 via 192.0.2.2 dev eth0")
			if direct == tt.always || strings.Contains(text(fragments), "route 10.5.3.0/24 via 192.0.2.254") {
				t.Errorf("fragments:\n%s", text(fragments))
			}
			if mtu, _ := b.PodMTU(s.uplink); mtu != 1450 {
				t.Errorf("MTU %d", mtu)
			}
			attrs, err := b.Attributes(s.uplink)
			if want := `{"AS":64512,"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`; err != nil || string(attrs.BackendData) != want || attrs.BackendType != BackendType {
				t.Errorf("publishes %s of type %s, error %v", attrs.BackendData, attrs.BackendType, err)
			}
		})
	}
	t.Run("never", func(t *testing.T) {
		b := New(Options{Speaker: &fakeSpeaker{}}, Setup{Planner: &fakePlanner{}})
		s := here()
		if mtu, _ := b.PodMTU(s.uplink); mtu != 1500 {
			t.Errorf("MTU %d", mtu)
		}
		if links, err := b.Links(s.uplink, s.self); len(links) > 0 || err != nil {
			t.Errorf("links %v, error %v", links, err)
		}
	})
}

// Of what a node announces itself, it says why.
func TestRoutesSayWhereAnnouncementsComeFrom(t *testing.T) {
	own, others := prefix("203.0.113.7/32"), learned("10.5.2.0/24", "192.0.2.2")
	b := New(Options{Speaker: &fakeSpeaker{learned: []*Route{others, {Prefix: own, Local: true}}}},
		Setup{Planner: announcer{[]Announcement{{Prefix: own, Translated: true, Origin: OriginService}, {Prefix: others.Prefix, Origin: OriginAggregate}}}})
	s := here()
	if _, _, err := b.Fragments(s.uplink, s.self, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Routes() {
		want := Origin("") // learned from another node, whatever this one says of the prefix
		if r.Prefix == own {
			want = OriginService
		}
		if r.Origin != want {
			t.Errorf("%v comes from %q, want %q", r.Prefix, r.Origin, want)
		}
	}
	if got := b.Translated(); !slices.Equal(got, []netip.Prefix{own}) {
		t.Errorf("translated are %v, want %v", got, own)
	}
}
