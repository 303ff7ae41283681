package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/daemontest"
)

// fakeBGP answers with what it has, and keeps the query.
type fakeBGP struct {
	sessions []bgp.SessionState
	leftOut  []bgp.LeftOut
	routes   []bgp.LearnedRoute
	paths    []bgp.Path
	query    bgp.PathQuery
	err      error
}

func (f *fakeBGP) Sessions() []bgp.SessionState { return f.sessions }
func (f *fakeBGP) LeftOut() []bgp.LeftOut       { return f.leftOut }
func (f *fakeBGP) Routes() []bgp.LearnedRoute   { return f.routes }
func (f *fakeBGP) Paths(_ context.Context, query bgp.PathQuery, visit func(bgp.Path)) error {
	f.query = query
	for _, p := range f.paths {
		visit(p)
	}
	return f.err
}

var comparable = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func serve(t *testing.T, dir string, about func() BGP) {
	t.Helper()
	serveAbout(t, dir, About{BGP: about, Services: func() Services { return nil }}, slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func serveAbout(t *testing.T, dir string, about About, log *slog.Logger) {
	t.Helper()
	s, err := Listen(dir, about, log)
	if err != nil {
		t.Fatal(err)
	}
	stop := daemontest.Start(t, s.Run)
	t.Cleanup(func() {
		stop()
		if _, err := os.Stat(SocketPath(dir)); err == nil {
			t.Error("the socket is still there")
		}
	})
}

func TestAnswers(t *testing.T) {
	addr, prefix := netip.MustParseAddr("192.0.2.2"), netip.MustParsePrefix("10.5.2.0/24")
	f := &fakeBGP{
		sessions: []bgp.SessionState{{Name: "node b", Address: addr, AS: 64512, State: "Established"}},
		leftOut:  []bgp.LeftOut{{What: "peer tor", Why: "it has no password"}},
		routes:   []bgp.LearnedRoute{{Prefix: prefix, NextHops: []netip.Addr{addr}}, {Prefix: netip.MustParsePrefix("10.5.1.0/24"), Local: true}},
		paths:    []bgp.Path{{Prefix: prefix, NextHop: addr, ASPath: []uint32{65001}, Communities: []bgp.Community{64512<<16 | 100}, Rejected: "import filter"}},
	}
	dir := t.TempDir()
	serve(t, dir, func() BGP { return f })
	c := NewClient(dir)
	sessions, err := c.Sessions(t.Context())
	if diff := cmp.Diff(f.sessions, sessions, comparable); diff != "" || err != nil {
		t.Error(diff, err)
	}
	leftOut, err := c.LeftOut(t.Context())
	if diff := cmp.Diff(f.leftOut, leftOut); diff != "" || err != nil {
		t.Error(diff, err)
	}
	routes, err := c.Routes(t.Context())
	if diff := cmp.Diff(f.routes, routes, comparable); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, query := range []bgp.PathQuery{{}, {Prefix: prefix}, {Peer: addr, To: addr, Prefix: prefix}} {
		paths, err := c.Paths(t.Context(), query)
		if diff := cmp.Diff(f.paths, paths, comparable); diff != "" || err != nil {
			t.Error(diff, err)
		}
		if f.query != query {
			t.Errorf("asked %+v, heard %+v", query, f.query)
		}
	}
	f.err = errors.New("no such neighbour")
	if _, err := c.Paths(t.Context(), bgp.PathQuery{}); err == nil || !strings.Contains(err.Error(), "twilld answers: no such neighbour") {
		t.Errorf("error %v", err)
	}
}

func TestOnlyRootMayAsk(t *testing.T) {
	dir := t.TempDir()
	serve(t, dir, func() BGP { return nil })
	info, err := os.Stat(SocketPath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
}

func TestNothingToAnswer(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(dir).Sessions(t.Context()); err == nil || !strings.Contains(err.Error(), "twilld does not run") {
		t.Errorf("error %v", err)
	}
	serve(t, dir, func() BGP { return nil })
	if _, err := NewClient(dir).Sessions(t.Context()); err == nil || !strings.Contains(err.Error(), "backend is not bgp") {
		t.Errorf("error %v", err)
	}
}

func TestTheSocketOfADeadDaemonIsReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(SocketPath(dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, func() BGP { return &fakeBGP{sessions: []bgp.SessionState{}} })
	if _, err := NewClient(dir).Sessions(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLongRunDirectory(t *testing.T) {
	dir := t.TempDir() + "/" + strings.Repeat("d", 120)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, func() BGP { return &fakeBGP{sessions: []bgp.SessionState{}} })
	if _, err := NewClient(dir).Sessions(t.Context()); err != nil {
		t.Error(err)
	}
}
