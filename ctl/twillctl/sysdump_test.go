package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/daemontest"
)

// On another node "twillctl check" is told what the daemon was, and its exit code is no reason to leave out what it said.
func TestCheckThere(t *testing.T) {
	runDir := t.TempDir()
	settings := []config.Setting{{Name: "backend", Value: "bgp"}, {Name: "etcd-prefix", Value: "/x"}, {Name: "page"}, {Name: "cni-bin-dir"}}
	server, err := api.Listen(runDir, api.About{Dump: &api.Dump{Settings: settings}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	daemontest.Start(t, server.Run)
	failed := errors.New("command terminated with exit code 1")
	tests := []struct {
		name, says string
		err        error
		want       string // what is taken, or a part of the error
	}{
		{"all is well", `[{"check": "ports"}]`, nil, `[{"check": "ports"}]`},
		{"something fails", `[{"check": "ports"}]`, failed, `[{"check": "ports"}]`},
		{"it cannot be run", "", failed, "exit code 1"},
		{"it ends early", `[{"check"`, failed, "exit code 1"},
	}
	for _, tt := range tests {
		var asked []string
		n := dumpedNode{viewpoint: viewpoint{client: api.NewClient(runDir), runs: func(_ context.Context, args ...string) ([]byte, error) {
			asked = args
			return []byte(tt.says), tt.err
		}}}
		have, err := n.checkThere(t.Context())
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && string(have) != tt.want {
			t.Errorf("%s: %s, error %v", tt.name, have, err)
		}
		if diff := cmp.Diff([]string{"check", "--output=json", "--backend=bgp", "--cni-bin-dir="}, asked); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}
