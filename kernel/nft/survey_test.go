package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSurvey(t *testing.T) {
	h, _ := open(t)
	if all, err := h.Survey(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("of nothing: %v, error %v", all, err)
	}
	nftScript(t, `
table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ip daddr 10.0.0.1 accept; counter; }; chain DOCKER { return; tcp dport 80 drop; udp dport 53 counter reject; mark set 0; }; }
table inet filter { chain FORWARD { type filter hook input priority 0; policy accept; }; }
`)
	all, err := h.Survey(t.Context())
	want := []Sighting{
		{Family: "ip", Table: "filter", Chain: "FORWARD", Base: true, Hook: 2, Drops: true, Rules: 2},
		{Family: "ip", Table: "filter", Chain: "DOCKER", Rules: 4, Refusing: 2},
		{Family: "inet", Table: "filter", Chain: "FORWARD", Base: true, Hook: 1},
	}
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
