package nft

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// TestLogDrift changes what tells and limits in one word only.
func TestLogDrift(t *testing.T) {
	tests := map[string]struct{ find, replace string }{
		"rate":            {"rate 100/second", "rate 101/second"},
		"unit":            {"rate 1/second", "rate 1/minute"},
		"burst":           {"burst 200 packets", "burst 201 packets"},
		"over":            {"limit rate 100/second", "limit rate over 100/second"},
		"bytes":           {"rate 100/second burst 200 packets", "rate 100 bytes/second burst 200 bytes"},
		"group":           {"group 84", "group 85"},
		"length":          {"snaplen 128", "snaplen 64"},
		"no length":       {"snaplen 128", ""},
		"prefix":          {`"refused: a"`, `"refused: b"`},
		"no prefix":       {`prefix "refused: a"`, ""},
		"group 0":         {"log group 0", "log group 1"},
		"queue":           {"group 84", "group 84 queue-threshold 2"},
		"log for group":   {"log group 0", "log"},
		"type of message": {"nd-neighbor-solicit", "nd-neighbor-advert"},
		"ICMP":            {"icmpv6 type mld2-listener-report", "meta l4proto 58 th sport 143"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			syncTables(t, h, everything())
			want := list(t)
			listing := nft(t, "list", "table", "inet", "twill-test")
			changed := strings.ReplaceAll(listing, tc.find, tc.replace)
			if changed == listing {
				t.Fatalf("no %q in\n%s", tc.find, listing)
			}
			nftScript(t, "delete table inet twill-test\n"+changed)
			again, log := openHere(t)
			syncTables(t, again, everything())
			wantWrites(t, log, 1)
			if diff := cmp.Diff(want, list(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCounters(t *testing.T) {
	h, _ := open(t)
	count := func(comment string, more ...kernel.Expr) kernel.Rule {
		return kernel.Rule{Exprs: append(more, kernel.Counter{}), Comment: comment}
	}
	syncTables(t, h, kernel.Table{Family: kernel.FamilyInet, Name: "twill-test", Chains: []kernel.Chain{
		{Name: "out", Hook: &kernel.Hook{Type: "filter", Hook: "output"}, Rules: []kernel.Rule{
			count("all"),
			{Exprs: []kernel.Expr{kernel.Verdict{Kind: kernel.Jump, Chain: "refuse"}}, Comment: "does not count"},
		}},
		{Name: "refuse", Rules: []kernel.Rule{
			count("no such protocol", kernel.Compare{Field: kernel.FieldL4Proto, Value: number(200)}),
			count("twice", kernel.Counter{}),
		}},
		{Name: "else", Rules: []kernel.Rule{count("not asked for")}},
	}})
	loopbackDatagram(t)
	have, err := h.Counters(t.Context(), kernel.FamilyInet, "twill-test", "refuse", "out", "nowhere")
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 3 || have[2].Packets == 0 {
		t.Fatalf("have %v", have)
	}
	packets, bytes := have[2].Packets, have[2].Bytes
	want := []RuleCount{{Chain: "refuse", Comment: "no such protocol"}, {"refuse", "twice", 2 * packets, 2 * bytes}, {"out", "all", packets, bytes}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if bytes < 29*packets { // an IPv4 header, a UDP header and the datagram's one byte
		t.Errorf("%d packets of %d bytes", packets, bytes)
	}
	if have, err := h.Counters(t.Context(), kernel.FamilyInet, "twill-none", "out"); len(have) > 0 || err != nil {
		t.Errorf("have %v, %v of a table that is not there", have, err)
	}
}
