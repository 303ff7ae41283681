//go:build linux

package main

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/hostfile"
	"github.com/twill-cni/twill/proxy/service"
)

var samePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// announcer is a routing whose backend is there but not run.
func announcer(dir, backend, proxy string, log *strings.Builder) *routing {
	r := &routing{
		cfg: &config.Config{Backend: backend, Proxy: proxy}, log: slog.New(slog.NewTextHandler(log, nil)),
		host: hostfile.New(hostfile.Options{RunDir: dir, Log: slog.New(slog.DiscardHandler)}), offered: make(chan []bgp.ServiceAddress, 1),
	}
	r.backend.Store(bgp.New(bgp.Options{}, bgp.Setup{}))
	return r
}

// What the proxy offered last is what the next run begins with.
func TestOfferedServicesAreRemembered(t *testing.T) {
	var log strings.Builder
	dir := t.TempDir()
	host := func(s string, kind service.Kind, local bool) service.Route {
		return service.Route{Prefix: netip.MustParsePrefix(s), Kind: kind, Local: local}
	}
	r := announcer(dir, bgp.BackendType, "nftables", &log)
	if got := r.recallServices(); len(got) > 0 {
		t.Errorf("recalls %v at first", got)
	}
	r.offer([]service.Route{host("192.0.2.9/32", service.ExternalIP, false)})
	r.offer([]service.Route{host("10.96.0.1/32", service.ClusterIP, false), host("198.51.100.1/32", service.ExternalIP, false),
		host("2001:db8::7/128", service.LoadBalancer, true)})
	r.announce(<-r.offered)
	want := []bgp.ServiceAddress{
		{Prefix: netip.MustParsePrefix("10.96.0.1/32"), Kind: bgp.ClusterIP}, {Prefix: netip.MustParsePrefix("198.51.100.1/32"), Kind: bgp.ExternalIP},
		{Prefix: netip.MustParsePrefix("2001:db8::7/128"), Kind: bgp.LoadBalancerIP, Local: true},
	}
	if diff := cmp.Diff(want, announcer(dir, bgp.BackendType, "nftables", &log).recallServices(), samePrefix); diff != "" {
		t.Error(diff)
	}
	if got := announcer(dir, bgp.BackendType, "off", &log).recallServices(); got != nil {
		t.Errorf("without a proxy, %v is recalled", got)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}

// A memory that is wrong is told, and no reason not to start.
func TestBadMemoryOfServices(t *testing.T) {
	for _, text := range []string{"{", `[{"prefix":"10.0.0.0/8","kind":"ClusterIP"}]`, `[{"kind":"ClusterIP"}]`} {
		var log strings.Builder
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, string(hostfile.MemoryOfServices)), []byte(text), 0o600))
		if got := announcer(dir, bgp.BackendType, "nftables", &log).recallServices(); got != nil || !strings.Contains(log.String(), "is not known") {
			t.Errorf("%s: recalls %v, logs %q", text, got, &log)
		}
	}
}

// With another backend nothing is kept or waited for.
func TestServicesWithoutBGP(t *testing.T) {
	var log strings.Builder
	dir := t.TempDir()
	r := announcer(dir, "vxlan", "nftables", &log)
	r.offer([]service.Route{{Prefix: netip.MustParsePrefix("10.96.0.1/32")}})
	if len(r.offered) > 0 {
		t.Error("the addresses wait for a backend that never comes")
	}
	if files, err := fs.Glob(os.DirFS(dir), "*"); err != nil || len(files) > 0 {
		t.Errorf("files %v, error %v", files, err)
	}
}
