package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
)

// speaker is a node with one peer that announces two prefixes, one of them in vain.
type speaker struct{}

var (
	peerB  = netip.MustParseAddr("192.0.2.2")
	good   = netip.MustParsePrefix("10.244.2.0/24")
	banned = netip.MustParsePrefix("10.9.0.0/16")
)

func (speaker) Routes() []bgp.LearnedRoute {
	return []bgp.LearnedRoute{
		{Prefix: netip.MustParsePrefix("10.244.1.0/24"), Local: true},
		{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Local: true, Origin: bgp.OriginService},
		{Prefix: good, NextHops: []netip.Addr{peerB}},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), NextHops: []netip.Addr{peerB}, Refused: "it is connected"},
	}
}

func (speaker) Sessions() []bgp.SessionState {
	return []bgp.SessionState{{Name: "node b", Address: peerB, AS: 64512, State: "Established", Received: 2, Accepted: 1, Announced: 1, BFD: "Up"}}
}

func (speaker) LeftOut() []bgp.LeftOut {
	return []bgp.LeftOut{{What: "peer tor", Why: "it has no password"}}
}

func (speaker) Paths(_ context.Context, query bgp.PathQuery, visit func(bgp.Path)) error {
	switch {
	case query.Prefix == good && query.Peer == peerB:
		visit(bgp.Path{Prefix: good, NextHop: peerB, LocalPref: 100, Best: true, Communities: []bgp.Community{64512<<16 | 7}})
	case query.Prefix == banned && query.Peer == peerB:
		visit(bgp.Path{Prefix: banned, NextHop: peerB, ASPath: []uint32{65001, 65002}, Rejected: "import filter"})
	}
	return nil
}

func TestBGPCommands(t *testing.T) {
	runDir := withDaemon(t, speaker{}, nil, nil)
	tests := []struct {
		args   []string
		code   int
		stdout []string
		stderr string
	}{
		{[]string{"routes"}, 0, []string{
			"10.244.1.0/24    (this node)            -", "10.244.2.0/24    192.0.2.2              -", "192.0.2.2              it is connected",
			"203.0.113.7/32   (this node: Service)   -",
		}, ""},
		{[]string{"routes", "-o", "json"}, 0, []string{`"origin": "Service"`}, ""},
		{[]string{"explain", "203.0.113.7/32"}, 0, []string{"this node's own, origin: Service"}, ""},
		{[]string{"peers"}, 0, []string{"node b   192.0.2.2   64512   Established   -       2    1      1     0       Up    -"}, ""},
		{[]string{"peers"}, 0, []string{"LEFT OUT   WHY\npeer tor   it has no password\n"}, ""},
		{[]string{"peers", "-o", "json"}, 0, []string{`"address": "192.0.2.2"`}, ""},
		{[]string{"explain", "10.244.2.0/24"}, 0, []string{"by way of 192.0.2.2", "heard from   node b   192.0.2.2", "64512:7", "best"}, ""},
		{[]string{"explain", "10.9.0.0/16"}, 0, []string{"nothing was chosen", "65001 65002", "import filter"}, ""},
		{[]string{"explain", "10.9.0.0"}, 1, nil, "no '/'"},
		{[]string{"explain"}, 1, nil, "accepts 1 arg(s)"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			answer{tt.code, tt.stdout, tt.stderr}.check(t, append(append([]string{"bgp"}, tt.args...), "--run-dir", runDir)...)
		})
	}
	if code, _, stderr := runLine(t, "bgp", "peers", "--run-dir", t.TempDir()); code != 1 || !strings.Contains(stderr, "twilld does not run") {
		t.Errorf("without a daemon: exit code %d, stderr %q", code, stderr)
	}
}

func TestSessionsAreShownWithTheirAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var out bytes.Buffer
	sessions := []bgp.SessionState{
		{Name: "tor", Address: peerB, AS: 65000, State: "Active", Since: now.Add(-90 * time.Second), LastError: "hold timer expired", Restarted: true},
	}
	if err := printSessions(&out, sessions, now); err != nil {
		t.Fatal(err)
	}
	want := "PEER   ADDRESS     AS      STATE               SINCE   IN   USED   OUT   FLAPS   BFD   LAST ERROR\n" +
		"tor    192.0.2.2   65000   Active (restarts)   1m30s   0    0      0     0       -     hold timer expired\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
