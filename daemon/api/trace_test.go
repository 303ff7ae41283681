package api

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel/path"
)

func TestTrace(t *testing.T) {
	dir := t.TempDir()
	records := filepath.Join(dir, "attachments", "twill")
	if err := os.MkdirAll(records, 0o700); err != nil {
		t.Fatal(err)
	}
	const text = `{"network":"twill","containerID":"c","ifName":"eth0","netns":"/run/netns/none","pod":"shop/web","bridge":"cni0none","hostLink":"veth0none","addresses":["10.244.1.2/24","fd00::2/64"]}`
	if err := os.WriteFile(filepath.Join(records, "c:eth0"), []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	serveAbout(t, dir, About{}, slog.New(slog.DiscardHandler))
	c := NewClient(dir)
	want := []path.Pod{
		{Name: "shop/web", Netns: "/run/netns/none", IfName: "eth0", HostLink: "veth0none", Bridge: "cni0none", Address: netip.MustParseAddr("10.244.1.2")},
		{Name: "shop/web", Netns: "/run/netns/none", IfName: "eth0", HostLink: "veth0none", Bridge: "cni0none", Address: netip.MustParseAddr("fd00::2")},
	}
	pods, err := c.TracePods(t.Context())
	if diff := cmp.Diff(want, pods, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for pod, other := range map[string]string{"10.244.1.3": "10.244.2.2", "10.244.1.2": "fd00::9"} {
		if _, err := c.Trace(t.Context(), netip.MustParseAddr(pod), netip.MustParseAddr(other)); err == nil || !strings.Contains(err.Error(), pod) {
			t.Errorf("%s to %s: %v", pod, other, err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("looking at nftables needs root")
	}
	view, err := c.Trace(t.Context(), want[0].Address, netip.MustParseAddr("10.244.2.2"))
	if err != nil || view.Host.Found || view.Host.Name != "veth0none" || view.Pod.Error == "" {
		t.Errorf("%v: %+v", err, view)
	}
}
