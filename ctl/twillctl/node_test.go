package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/store"
)

// fakeNodes answers with what it has.
type fakeNodes struct {
	nodes []api.ClusterNode
	held  api.NodeHeld
}

func (f fakeNodes) List(context.Context, store.NodeDetail) (*api.NodeListing, error) {
	if f.nodes == nil {
		return nil, errors.New("etcd is away")
	}
	return &api.NodeListing{Node: "node-a", Datastore: "etcd", Nodes: f.nodes}, nil
}

func (f fakeNodes) Held(_ context.Context, name string) (*api.NodeHeld, error) {
	if name != "node-b" {
		return nil, fmt.Errorf("no node of the datastore is %q", name)
	}
	return &f.held, nil
}

func TestNodeCommand(t *testing.T) {
	b := api.ClusterNode{Name: "node-b", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
		Backend: "bgp", AS: 64512, RouterID: netip.MustParseAddr("192.0.2.2"), Zone: "z1", Expires: time.Now().Add(time.Hour), Created: time.Now().Add(-time.Minute)}
	bad := api.ClusterNode{Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Error: "no JSON"}
	well := api.HeldObject{Kind: "route", Should: "route 10.244.2.0/24 via 192.0.2.2", Is: "route 10.244.2.0/24 via 192.0.2.2", Verdict: api.HeldWell}
	missing := api.HeldObject{Kind: "neighbor", Should: "neighbor 10.244.2.0", Verdict: api.HeldMissing}
	session := bgp.SessionState{Address: netip.MustParseAddr("192.0.2.2"), AS: 64512, State: "Active"}
	full := fakeNodes{nodes: []api.ClusterNode{bad, b}, held: api.NodeHeld{Node: b, Objects: []api.HeldObject{well}}}
	lacking := fakeNodes{nodes: full.nodes, held: api.NodeHeld{Node: b, Objects: []api.HeldObject{well, missing}, Sessions: []bgp.SessionState{session}}}
	none := fakeNodes{nodes: full.nodes, held: api.NodeHeld{Node: b, Why: "it has not registered"}}
	for _, tt := range []struct {
		name  string
		nodes fakeNodes
		args  []string
		want  answer
	}{
		{"the list", full, nil, answer{stdout: []string{"NODE     SUBNETS", "node-b   10.244.2.0/24   192.0.2.2   bgp        1h0m0s       z1     1m0s\n-        10.244.1.0/24   -           UNUSABLE   -"}}},
		{"wide", full, []string{"-o", "wide"}, answer{stdout: []string{"64512   192.0.2.2", "no JSON"}}},
		{"JSON", full, []string{"-o", "json"}, answer{stdout: []string{`"datastore": "etcd"`, `"zone": "z1"`}}},
		{"YAML", full, []string{"-o", "yaml"}, answer{stdout: []string{"datastore: etcd\n", "  zone: z1\n"}}},
		{"etcd is away", fakeNodes{}, nil, answer{code: 1, stderr: "etcd is away"}},
		{"a node", full, []string{"node-b"}, answer{stdout: []string{"this node   route   ok        route 10.244.2.0/24 via 192.0.2.2   the same"}}},
		{"a node that is not well", lacking, []string{"node-b"}, answer{code: 1, stdout: []string{"MISSING", "neighbor 10.244.2.0", "Active"}}},
		{"a node that is not held", none, []string{"node-b", "-o", "json"}, answer{code: 1, stdout: []string{`"on": "this node"`, `"why": "it has not registered"`}}},
		{"nobody", full, []string{"node-c"}, answer{code: 1, stdout: []string{"NO ANSWER", `no node of the datastore is "node-c"`}}},
		{"two", full, []string{"node-b", "node-c"}, answer{code: 1, stderr: "accepts at most 1 arg"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runDir := t.TempDir()
			server, err := api.Listen(runDir, api.About{Nodes: tt.nodes}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			daemontest.Start(t, server.Run)
			tt.want.check(t, append([]string{"node", "--run-dir", runDir}, tt.args...)...)
			if tt.name == "the list" {
				answer{stdout: []string{"node-b\n:4"}, stderr: "Completion ended"}.check(t, "__complete", "node", "--run-dir", runDir, "node-")
			}
		})
	}
}

// askedNodes has one node, and keeps what it is asked.
type askedNodes struct {
	fakeNodes
	asked chan string
}

func (f askedNodes) List(ctx context.Context, what store.NodeDetail) (*api.NodeListing, error) {
	f.asked <- fmt.Sprint("list ", what)
	return f.fakeNodes.List(ctx, what)
}

func (f askedNodes) Held(_ context.Context, name string) (*api.NodeHeld, error) {
	f.asked <- "held " + name
	return &f.held, nil
}

// Of many nodes one is asked who a node is; the others are asked for its subnet.
func TestManyNodesAreAskedBySubnet(t *testing.T) {
	subnet := netip.MustParsePrefix("10.244.2.0/24")
	var views []viewpoint
	asked := make(chan string, 16)
	for _, name := range []string{"node-a", "node-b"} {
		runDir := t.TempDir()
		nodes := askedNodes{fakeNodes{nodes: []api.ClusterNode{{Name: "node-b", Subnets: []netip.Prefix{subnet}, Zone: "z1"}}, held: api.NodeHeld{Node: api.ClusterNode{Subnets: []netip.Prefix{subnet}}}}, asked}
		server, err := api.Listen(runDir, api.About{Nodes: nodes}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		daemontest.Start(t, server.Run)
		views = append(views, viewpoint{node: name, client: api.NewClient(runDir)})
	}
	var out strings.Builder
	if err := showHeld(t.Context(), &out, views, "node-b", ""); err != nil || !strings.Contains(out.String(), "node-b   10.244.2.0/24") || !strings.Contains(out.String(), "z1") {
		t.Errorf("%v\n%s", err, out.String())
	}
	var got []string
	for len(asked) > 0 {
		got = append(got, <-asked)
	}
	if want := []string{"list 0", "held 10.244.2.0/24", "held 10.244.2.0/24"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}
