package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// services are shop/web, of which a slot is missing, and default/db.
type services struct{}

func (services) Report(_ context.Context, name store.ObjectName) (*dnat.Report, error) {
	endpoint := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	web := dnat.ServiceState{Namespace: "shop", Name: "web", Warnings: []string{"port https has no endpoints"}, Frontends: []dnat.FrontendState{{
		Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: "TCP", Kind: "ClusterIP", PortName: "http", Scheduler: "random", Masquerade: "off-cluster",
		Affinity: 10800, Plan: "random-3-offcluster-sticky-10800", Hits: 12, Endpoints: 1,
		Slots:   []dnat.SlotState{{Slot: 0, Endpoint: endpoint("10.5.1.7:8080"), Local: true, Weight: 2}, {Slot: 1}, {Slot: 2, Endpoint: endpoint("10.5.1.7:8080"), Local: true, Weight: 2}},
		Clients: []dnat.ClientState{{Client: netip.MustParseAddr("10.5.2.2"), Endpoint: endpoint("10.5.1.7:8080"), Left: 10799.7}, {Client: netip.MustParseAddr("10.5.2.3"), Left: 5}},
	}}}
	db := dnat.ServiceState{Namespace: "default", Name: "db", Frontends: []dnat.FrontendState{{Address: netip.MustParseAddr("fd00:96::1"), Port: 5432, Protocol: "TCP",
		Kind: "LoadBalancer", Scheduler: "rr", Masquerade: "all", SourceRanges: []netip.Prefix{}, Plan: "dropped"}}}
	missing := dnat.Difference{Service: "shop/web", Family: "ip", Difference: kernel.Difference{What: "endpoints: 10.96.0.1 tcp 80 slot 1", Have: "nothing", Want: "10.5.1.8:8080"}}
	switch name.String() {
	case "/":
		return &dnat.Report{Services: []dnat.ServiceState{db, web}, Differences: []dnat.Difference{missing}}, nil
	case "shop/web":
		return &dnat.Report{Services: []dnat.ServiceState{web}, Differences: []dnat.Difference{missing}}, nil
	case "default/db":
		return &dnat.Report{Services: []dnat.ServiceState{db}, Differences: []dnat.Difference{}}, nil
	}
	return nil, errors.New(name.String() + ": this node knows no such Service")
}

func TestServiceCommand(t *testing.T) {
	runDir := withDaemon(t, nil, services{}, nil)
	tests := []struct {
		args   []string
		code   int
		stdout []string
		stderr string
	}{
		{nil, 1, []string{
			"NAME         ADDRESS                 KIND           SCHEDULER   ENDPOINTS   HITS   DIFFERENCES",
			"default/db   [fd00:96::1]:5432/TCP   LoadBalancer   rr          0           0      -",
			"shop/web     10.96.0.1:80/TCP        ClusterIP      random      1           12     1",
			"shop/web   ip twill-proxy   endpoints: 10.96.0.1 tcp 80 slot 1: kernel has nothing, should be 10.5.1.8:8080"}, ""},
		{[]string{"-o", "wide"}, 1, []string{"http        off-cluster   3h0m0s     random-3-offcluster-sticky-10800"}, ""},
		{[]string{"-n", "default"}, 0, []string{"default/db"}, ""},
		{[]string{"-n", "shop", "web"}, 1, []string{
			"Service shop/web\n",
			"10.96.0.1:80/TCP   http        ClusterIP   random      off-cluster   3h0m0s     all       12     random-3-offcluster-sticky-10800",
			"FRONTEND           ENDPOINT        NODE   WEIGHT   SLOTS\n10.96.0.1:80/TCP   10.5.1.7:8080   this   2        0,2\n10.96.0.1:80/TCP   (missing)       -      -        1\n",
			"CLIENT     FRONTEND           ENDPOINT        LEFT\n10.5.2.2   10.96.0.1:80/TCP   10.5.1.7:8080   2h59m59s\n10.5.2.3   10.96.0.1:80/TCP   (gone)          5s\n",
			"warning: port https has no endpoints"}, ""},
		{[]string{"db"}, 0, []string{"none      0      dropped"}, ""},
		{[]string{"shop/web", "-o", "json"}, 1, []string{`"endpoint": "10.5.1.7:8080"`, `"have": "nothing"`}, ""},
		{[]string{"db", "-o", "yaml"}, 0, []string{"differences: []\n", "sourceRanges: []\n"}, ""},
		{[]string{"nobody"}, 1, nil, "twilld answers: default/nobody: this node knows no such Service"},
		{[]string{"shop/web", "-n", "default"}, 1, nil, "name shop/web is not in namespace default"},
		{[]string{"a/b/c"}, 1, nil, "want NAME or NAMESPACE/NAME"},
		{[]string{"-o", "xml"}, 1, nil, "want table, wide, yaml or json"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			answer{tt.code, tt.stdout, tt.stderr}.check(t, append(append([]string{"service"}, tt.args...), "--run-dir", runDir)...)
		})
	}
	if code, _, stderr := runLine(t, "service", "--run-dir", t.TempDir()); code != 1 || !strings.Contains(stderr, "twilld does not run") {
		t.Errorf("without a daemon: exit code %d, stderr %q", code, stderr)
	}
}

func TestManySlotsAndDifferences(t *testing.T) {
	var out strings.Builder
	state := dnat.ServiceState{Namespace: "a", Name: "b", Frontends: []dnat.FrontendState{{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: "UDP"}}}
	for slot := range 4096 {
		state.Frontends[0].Slots = append(state.Frontends[0].Slots, dnat.SlotState{Slot: slot, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(slot % 2)}), 80), Weight: 1})
	}
	if err := printSlots(&out, state, false); err != nil {
		t.Fatal(err)
	}
	want := "\nFRONTEND           ENDPOINT      NODE    WEIGHT   SLOTS\n" +
		"10.96.0.1:80/UDP   10.0.0.0:80   other   1        2048 of 4096\n10.96.0.1:80/UDP   10.0.0.1:80   other   1        2048 of 4096\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	if err := printDifferences(&out, make([]dnat.Difference, 30)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "and 10 more; -o json lists all\n") {
		t.Error(out.String())
	}
}
