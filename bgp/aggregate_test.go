package bgp

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// announcer is a planner whose announcements are given.
type announcer struct{ announcements []Announcement }

func (announcer) Attributes(kernel.Uplink) (store.Attributes, error) { return store.Attributes{}, nil }
func (a announcer) Plan(PlanInput) Planned {
	return Planned{Instance: Instance{Announcements: a.announcements}}
}

func TestPacketsThatFitNoneOfAnAggregateAreDropped(t *testing.T) {
	announce := func(prefixes ...string) Setup {
		all := []Announcement{{Prefix: prefix("10.5.1.0/24")}, {Prefix: prefix("10.99.0.0/16")}}
		for _, p := range prefixes {
			all = append(all, Announcement{Prefix: prefix(p), Aggregate: true})
		}
		return Setup{Planner: announcer{all}}
	}
	b := New(Options{Speaker: &fakeSpeaker{learned: []*Route{learned("10.5.2.0/24", "192.0.2.2")}}}, Setup{})
	s := here()
	step := func(why string, uplink kernel.Uplink, setup Setup, want string) *kernel.Fragment {
		t.Helper()
		if setup.Planner != nil {
			b.Change(setup)
		}
		fragments, _, err := b.Fragments(uplink, s.self, nil)
		if err != nil {
			t.Fatal(err)
		}
		const others = `bgp 10.5.2.0/24: route 10.5.2.0/24 via 192.0.2.2 dev eth0 metric 32 type 0
own subnets: route 10.5.1.0/24 metric 4096 type 1
own subnets: route fd00:5:0:1::/64 metric 4096 type 1`
		if diff := cmp.Diff(others+want, text(fragments)); diff != "" {
			t.Errorf("%s: %s", why, diff)
		}
		return fragments[len(fragments)-1]
	}
	const both = `
own summaries: route 10.5.0.0/16 metric 4096 type 1
own summaries: route fd00:5::/56 metric 4096 type 1`
	step("none", s.uplink, announce(), "")
	first := step("both families", s.uplink, announce("10.5.0.0/16", "fd00:5::/56"), both)
	if step("planned again", s.uplink, announce("10.5.0.0/16", "fd00:5::/56"), both) != first {
		t.Error("the fragment is another one although nothing about it changed")
	}
	step("those that need none", s.uplink, announce("0.0.0.0/0", "::/0", "192.0.2.0/24", "192.0.2.128/25"), "")
	moved := s.uplink
	moved.Addresses = []netip.Prefix{prefix("192.0.2.1/25"), prefix("2001:db8::1/64")}
	step("the network is smaller", moved, Setup{}, `
own summaries: route 192.0.2.0/24 metric 4096 type 1
own summaries: route 192.0.2.128/25 metric 4096 type 1`)
	step("gone", s.uplink, announce(), "")
}
