package health

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/bgp"
)

type twoSessions struct{}

func (twoSessions) Counters() []bgp.SessionState {
	return []bgp.SessionState{
		{Name: "node b", Address: netip.MustParseAddr("192.0.2.2"), State: "Established", Received: 3, Accepted: 2, Announced: 1, UpdatesIn: 7, BFD: "Up"},
		{Name: "tor", Address: netip.MustParseAddr("192.0.2.254"), State: "Active", Flaps: 4, Restarted: true, Announced: bgp.NotCounted},
	}
}

func (twoSessions) Routes() []bgp.LearnedRoute {
	return []bgp.LearnedRoute{{Local: true}, {}, {Refused: "no way"}}
}

func TestBGPMetrics(t *testing.T) {
	address := freeAddress(t)
	m := NewMetrics("v1", "bgp")
	m.FollowBGP(twoSessions{})
	serve(t, Addresses{Metrics: address}, m)
	_, body := get(t, "http://"+address+"/metrics")
	for _, want := range []string{
		`twill_bgp_session_up{address="192.0.2.2",peer="node b"} 1`,
		`twill_bgp_session_up{address="192.0.2.254",peer="tor"} 0`,
		`twill_bgp_session_flaps_total{address="192.0.2.254",peer="tor"} 4`,
		`twill_bgp_peer_restarting{address="192.0.2.254",peer="tor"} 1`,
		`twill_bgp_bfd_up{address="192.0.2.2",peer="node b"} 1`,
		`twill_bgp_prefixes{address="192.0.2.2",peer="node b",state="received"} 3`,
		`twill_bgp_prefixes{address="192.0.2.2",peer="node b",state="accepted"} 2`,
		`twill_bgp_prefixes{address="192.0.2.2",peer="node b",state="announced"} 1`,
		`twill_bgp_updates_total{address="192.0.2.2",direction="in",peer="node b"} 7`,
		`twill_bgp_routes{state="learned"} 2`,
		`twill_bgp_routes{state="refused"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, `address="192.0.2.254",peer="tor",state="announced"`) {
		t.Error("a metric of what was not counted")
	}
	if strings.Contains(body, `twill_bgp_bfd_up{address="192.0.2.254"`) {
		t.Error("a metric of BFD although it is off")
	}
}
