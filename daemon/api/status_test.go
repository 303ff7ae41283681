package api

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func serveStatus(t *testing.T, status func(context.Context) NodeStatus) *Client {
	t.Helper()
	dir := t.TempDir()
	serveAbout(t, dir, About{Status: status}, slog.New(slog.DiscardHandler))
	return NewClient(dir)
}

func TestStatus(t *testing.T) {
	at := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for name, want := range map[string]NodeStatus{
		"all": {
			Node: "a", Version: "v1", Backend: "bgp", Started: at, NotReady: []string{"two\nlines", "b"}, Datastore: DatastoreStatus{Kind: "etcd", Error: "away"},
			Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}, Uplink: "eth0", UplinkMTU: 1500, PodMTU: 1450,
			Peers: PeerStatus{LastSync: at, Error: "no", Peers: 1, Rejected: 2, Desired: 3, Programmed: 4, Repaired: 5},
			BGP:   &BGPStatus{Sessions: 3, Established: 2, LeftOut: 1}, Services: &LoopStatus{LastSync: at, WaitingSeconds: 1.5}, Policies: &LoopStatus{Error: "no"},
			Pods: 6, Addresses: []RangeUse{{Range: "r", Used: 1, Size: 1<<64 - 1}}, Conntrack: ConntrackUse{Used: 1, Max: 2}, Unknown: []string{"x"},
		},
		"nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serveStatus(t, func(context.Context) NodeStatus { return want }).Status(t.Context())
			if diff := cmp.Diff(want, got, comparable); diff != "" || err != nil {
				t.Error(diff, err)
			}
		})
	}
}

// The socket of a daemon that was killed is still there.
func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(dir).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody answers at "+SocketPath(dir)+": twilld was killed") {
		t.Errorf("error %v", err)
	}
}

func TestStatusIsNotAskedForever(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	c := serveStatus(t, func(ctx context.Context) NodeStatus { close(asked); <-ctx.Done(); return NodeStatus{} })
	go func() { <-asked; cancel() }()
	if _, err := c.Status(ctx); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("error %v", err)
	}
}
