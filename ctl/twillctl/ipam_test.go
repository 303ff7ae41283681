package main

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/daemontest"
)

// leases is a node with a dead pod, which it releases when it is asked to.
type leases struct {
	mu       sync.Mutex
	released bool
}

func (l *leases) Addresses(context.Context) (*api.AddressReport, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := func(pod, addr string) api.AddressLease {
		return api.AddressLease{Container: "0123456789abcdef", Interface: "eth0", Pod: pod, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Attached: true}
	}
	dead := lease("shop/dead", "10.1.1.3")
	dead.NetnsGone = true
	report := &api.AddressReport{Node: "node1", Ranges: []api.RangeUse{{Range: "10.1.1.1-10.1.1.254", Used: 2, Size: 253}}, Leases: []api.AddressLease{lease("shop/web", "10.1.1.2"), dead}}
	if l.released {
		report.Leases = report.Leases[:1]
	}
	return report, nil
}

func (l *leases) ReleaseDead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
}

func withLeases(t *testing.T) (runDir string) {
	t.Helper()
	runDir = t.TempDir()
	server, err := api.Listen(runDir, api.About{Addresses: &leases{}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Start(t, server.Run)
	return runDir
}

func TestIPAMCommands(t *testing.T) {
	leaked := "node1: pod shop/dead holds 10.1.1.3, and its network namespace is gone: twilld releases it"
	tests := []struct {
		args string
		answer
	}{
		{"show", answer{stdout: []string{"10.1.1.1-10.1.1.254", "2 of 253 taken", "shop/web", "0123456789ab eth0", "DEAD"}}},
		{"show -o json", answer{stdout: []string{`"netnsGone": true`}}},
		{"show -o yaml", answer{stdout: []string{"netnsGone: true"}}},
		{"show -o wide", answer{1, nil, `--output "wide": want table, yaml or json`}},
		{"check", answer{stdout: []string{leaked}}},
		{"check -o json", answer{stdout: []string{`"severity": "degraded"`}}},
		{"check --fix", answer{0, []string{"nothing is wrong"}, "dead pods are released when they are still dead in 0 s"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			tt.check(t, append(append([]string{"ipam"}, strings.Fields(tt.args)...), "--run-dir", withLeases(t))...)
		})
	}
	if code, _, stderr := runLine(t, "ipam", "show", "--run-dir", t.TempDir()); code != 1 || !strings.Contains(stderr, "twilld does not run") {
		t.Errorf("without a daemon: exit code %d, stderr %q", code, stderr)
	}
}
