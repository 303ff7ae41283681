package hostfile

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// What Netconf returns is what the plugin and its IPAM understand.
func TestNetconf(t *testing.T) {
	dir := t.TempDir()
	h := New(Options{ConfDir: dir, Log: slog.New(slog.DiscardHandler)})
	if _, err := h.Netconf(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a conflist: %v", err)
	}
	list, err := Conflist{Bridge: "cni0", MTU: 1450, RunDir: "/run/x", DataDir: "/run/x/ipam",
		Subnets: store.Subnets{IPv4: netip.MustParsePrefix("10.5.1.0/24"), IPv6: netip.MustParsePrefix("fd00:5:1::/64")}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConflistName), list, 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := h.Netconf()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := netconf.Parse(data)
	if err != nil || conf.Name != NetworkName || conf.RunDir != "/run/x" || conf.Policy != nil {
		t.Errorf("%+v, %v", conf, err)
	}
	parsed, err := ipam.ParseConfig(data)
	if err != nil || len(parsed.Sets) != 2 || parsed.DataDir != "/run/x/ipam" {
		t.Errorf("%+v, %v", parsed, err)
	}
	for _, broken := range []string{"", "{", "[]", "{}", `{"name":"a","plugins":[]}`, `{"name":"a","plugins":[null]}`, `{"plugins":[{}]}`} {
		if conf, err := netconfOf([]byte(broken)); err == nil {
			t.Errorf("%q yields %s", broken, conf)
		}
	}
}

// The plugin makes the table that the daemon would make.
func TestNetconfWithPolicy(t *testing.T) {
	h, opts := testHost(t)
	policy := gate.Config{Bridge: node.Bridge, CutMark: 1 << 31, LogGroup: 7, LogRate: 10, LogBurst: 20}
	opts.Policy = &policy
	with := New(opts)
	for _, tt := range []struct {
		name string
		host *Host
		a    node.Announcement
		want []netip.Prefix // nil: without policies
	}{
		{"dual stack", with, announcement("10.5.1.0/24", "fd00:5:1::/64", 1450), []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("fd00:5:1::/64")}},
		{"IPv6", with, announcement("", "fd00:5:1::/64", 1450), []netip.Prefix{netip.MustParsePrefix("fd00:5:1::/64")}},
		{"off", h, announcement("10.5.1.0/24", "", 1450), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.host.Announce(tt.a); err != nil {
				t.Fatal(err)
			}
			data, err := tt.host.Netconf()
			if err != nil {
				t.Fatal(err)
			}
			conf, err := netconf.Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			var want *gate.Config
			if tt.want != nil {
				c := policy
				c.NodePods, want = tt.want, &c
			}
			if diff := cmp.Diff(want, conf.Policy, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
	if policy.NodePods != nil {
		t.Errorf("the options were changed: %v", policy.NodePods)
	}
}
