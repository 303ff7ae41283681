package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/daemontest"
)

// wellNode is a node that has run for an hour.
func wellNode() api.NodeStatus {
	began := time.Now().Add(-time.Hour)
	return api.NodeStatus{
		Node: "node-a", Version: "v1", Backend: "bgp", Started: began, Datastore: api.DatastoreStatus{Kind: "etcd"},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Uplink: "eth0", UplinkMTU: 1500, PodMTU: 1450,
		Peers: api.PeerStatus{LastSync: time.Now().Add(-90 * time.Second), Peers: 2, Desired: 12, Programmed: 12, Repaired: 7},
		BGP:   &api.BGPStatus{Sessions: 2, Established: 2}, Services: &api.LoopStatus{LastSync: began}, Pods: 3,
		Addresses: []api.RangeUse{{Size: 0}, {Range: "10.244.1.1-10.244.1.254", Used: 200, Size: 253}, {Range: "fd00::1-fd00::ffff", Used: 3, Size: 65534}},
		Conntrack: api.ConntrackUse{Used: 100, Max: 65536},
	}
}

// withStatus answers as a daemon does that is asked how its node is.
func withStatus(t *testing.T, status func(context.Context) api.NodeStatus) (runDir string) {
	t.Helper()
	runDir = t.TempDir()
	server, err := api.Listen(runDir, api.About{Status: status}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Start(t, server.Run)
	return runDir
}

func TestStatusCommand(t *testing.T) {
	tests := []struct {
		name string
		args string
		harm func(*api.NodeStatus)
		want answer
	}{
		{"healthy", "", nil, answer{stdout: []string{"NODE     READY   BACKEND   DATASTORE   PEERS   OBJECTS   REPAIRED",
			"node-a   yes     bgp       etcd        2       12/12     7          1m30s   2/2   1h0m0s     off        3      200/253     100/65536   1450", "\n\nnothing is wrong\n"}}},
		{"wide", "-o wide", nil, answer{stdout: []string{"SUBNETS", "10.244.1.0/24   eth0 (1500)   1h0m0s   v1"}}},
		{"broken", "", func(s *api.NodeStatus) { s.NotReady, s.BGP.Established = []string{"the kernel cannot be watched"}, 0 },
			answer{code: 1, stdout: []string{"node-a   NO ", " 0/2 ", "\nnode-a: not ready: the kernel cannot be watched: the daemon tries", "\nnode-a: 2 of 2 BGP sessions are not established: `"}}},
		{"degraded", "", func(s *api.NodeStatus) { s.Datastore.Error, s.NotReady = "away", []string{"datastore: away"} },
			answer{stdout: []string{"etcd AWAY", "\nnode-a: the datastore (etcd) does not answer: away: see that it runs"}}},
		{"a loop fails", "", func(s *api.NodeStatus) { s.Services.Error = "no" }, answer{code: 1, stdout: []string{" FAILS ", "Services are not programmed: no"}}},
		{"nothing is known", "-o wide", func(s *api.NodeStatus) { *s = api.NodeStatus{Node: "node-a", Started: time.Now()} }, answer{stdout: []string{"node-a   yes", "nothing is wrong"}}},
		{"bad format", "-o xml", nil, answer{code: 1, stderr: `--output "xml"`}},
		{"bad interval", "--watch --interval 0s", nil, answer{code: 1, stderr: "--interval 0s"}},
		{"two targets", "--lab demo", nil, answer{code: 1, stderr: "[lab run-dir]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runDir := withStatus(t, func(context.Context) api.NodeStatus {
				s := wellNode()
				if tt.harm != nil {
					tt.harm(&s)
				}
				return s
			})
			tt.want.check(t, append([]string{"status", "--run-dir", runDir}, strings.Fields(tt.args)...)...)
		})
	}
}

func TestStatusForPrograms(t *testing.T) {
	well := wellNode()
	sick := well
	sick.Services = &api.LoopStatus{Error: "no"}
	tests := []struct {
		name     string
		status   api.NodeStatus
		code     int
		findings []any
	}{
		{"healthy", well, 0, []any{}},
		{"broken", sick, 1, []any{map[string]any{"severity": "broken", "node": "node-a", "what": "Services are not programmed: no",
			"mend": "it is tried until it works; `twillctl service` shows what the kernel has"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			runDir := withStatus(t, func(context.Context) api.NodeStatus { return tt.status })
			for format, read := range map[string]func([]byte, any) error{
				"json": json.Unmarshal, "yaml": func(text []byte, to any) error { return yaml.Unmarshal(text, to) },
			} {
				code, stdout, stderr := runLine(t, "status", "--run-dir", runDir, "-o", format)
				var report struct {
					At       time.Time
					Nodes    []struct{ Status api.NodeStatus }
					Findings []any
				}
				if err := read([]byte(stdout), &report); err != nil || code != tt.code || stderr != "" {
					t.Fatalf("%s: exit code %d, error %v, stderr %q\n%s", format, code, err, stderr, stdout)
				}
				if diff := cmp.Diff(tt.findings, report.Findings); diff != "" {
					t.Errorf("%s: %s", format, diff)
				}
				if len(report.Nodes) != 1 || report.Nodes[0].Status.Pods != 3 || time.Since(report.At) > daemontest.Patience {
					t.Errorf("%s: %+v", format, report)
				}
			}
		})
	}
}

func TestStatusWithoutDaemon(t *testing.T) {
	answer{code: 1, stdout: []string{"this node   NO ANSWER", "\nthis node: ask twilld: there is no socket ", "twilld does not run", "`systemctl status twilld` there"}}.
		check(t, "status", "--run-dir", t.TempDir())
}

// A node that keeps its answer to itself is told, and keeps nobody waiting but for its time.
func TestStatusOfASilentNode(t *testing.T) {
	silent := withStatus(t, func(ctx context.Context) api.NodeStatus { <-ctx.Done(); return api.NodeStatus{} })
	well := withStatus(t, func(context.Context) api.NodeStatus { return wellNode() })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	report := lookAround(ctx, []viewpoint{{node: "a", client: api.NewClient(silent)}, {node: "b", client: api.NewClient(well)}})
	if len(report.Findings) != 1 || report.Findings[0].Node != "a" || !strings.Contains(report.Findings[0].What, "deadline exceeded") {
		t.Errorf("findings %v", report.Findings)
	}
	if report.Nodes[0].Error == "" || report.Nodes[0].Status != nil || report.Nodes[1].Status == nil {
		t.Errorf("nodes %+v", report.Nodes)
	}
}

func TestStatusWatch(t *testing.T) {
	var looks atomic.Int32
	ctx, interrupt := context.WithCancel(t.Context())
	runDir := withStatus(t, func(context.Context) api.NodeStatus {
		if looks.Add(1) == 3 {
			interrupt()
		}
		s := wellNode()
		s.Services.Error = "no" // which is no reason to end, nor for another exit code
		return s
	})
	var out, stderr bytes.Buffer
	code := run(ctx, []string{"status", "--watch", "--interval", "1ms", "--run-dir", runDir}, streams{out: &out, err: &stderr})
	if code != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	if n := strings.Count(out.String(), "Services are not programmed"); n < 2 {
		t.Errorf("%d looks are printed:\n%s", n, out.String())
	}
}

func TestStatusThatNobodyReads(t *testing.T) {
	var out bytes.Buffer
	report := statusReport{At: time.Now()}
	if err := report.print(&out, "table"); err != nil || strings.Count(out.String(), "NODE") != 1 {
		t.Errorf("error %v\n%s", err, out.String())
	}
	if err := report.print(closedFile(t), "table"); err == nil {
		t.Error("a table that nobody got is no error")
	}
}

func closedFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}
