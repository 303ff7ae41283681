package hostfile

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/store"
)

func subnets(ipv4, ipv6 string) store.Subnets {
	var s store.Subnets
	if ipv4 != "" {
		s.IPv4 = netip.MustParsePrefix(ipv4)
	}
	if ipv6 != "" {
		s.IPv6 = netip.MustParsePrefix(ipv6)
	}
	return s
}

func announcement(ipv4, ipv6 string, mtu int) node.Announcement {
	return node.Announcement{
		Network: store.Network{
			IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16")}, IPv6: store.Pool{Network: netip.MustParsePrefix("fd00:5::/48")},
		},
		Subnets: subnets(ipv4, ipv6), MTU: mtu,
	}
}

// The expected text is what flanneld writes for the same subnets.
func TestSubnetEnvIsFlannels(t *testing.T) {
	tests := []struct{ name, ipv4, ipv6, want string }{
		{"IPv4", "10.5.1.0/24", "", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
		{"IPv6", "", "fd00:5:0:1::/64", "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
		{"dual stack", "10.5.1.0/24", "fd00:5:0:1::/64", "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\n" +
			"FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := announcement(tt.ipv4, tt.ipv6, 1450)
			env := SubnetEnv{Network: a.Network.IPv4.Network, IPv6Network: a.Network.IPv6.Network, Subnets: a.Subnets, MTU: a.MTU, IPMasq: true}
			got := env.Encode()
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if back, err := ParseSubnets(got); err != nil || back != a.Subnets {
				t.Errorf("read back as %v, error %v", back, err)
			}
		})
	}
}

func TestParseSubnets(t *testing.T) {
	tests := []struct {
		name, text string
		want       store.Subnets
		wantErr    string
	}{
		{"empty", "", store.Subnets{}, ""},
		{"foreign lines", "# made by flannel\nFOO=bar\n\nFLANNEL_SUBNET=10.5.1.1/24", subnets("10.5.1.0/24", ""), ""},
		{"quoted", `FLANNEL_SUBNET="10.5.1.1/24"`, subnets("10.5.1.0/24", ""), ""},
		{"no prefix", "FLANNEL_SUBNET=10.5.1.1", store.Subnets{}, `FLANNEL_SUBNET: "10.5.1.1" is no subnet of its family`},
		{"wrong family", "FLANNEL_IPV6_SUBNET=10.5.1.1/24", store.Subnets{}, `FLANNEL_IPV6_SUBNET: "10.5.1.1/24" is no subnet of its family`},
		{"cut off", "FLANNEL_SUBNET=10.5.", store.Subnets{}, `FLANNEL_SUBNET: "10.5." is no subnet of its family`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSubnets([]byte(tt.text))
			if text := errorText(err); got != tt.want || text != tt.wantErr {
				t.Errorf("got %v, error %q, want %v, error %q", got, text, tt.want, tt.wantErr)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzParseSubnets(f *testing.F) {
	f.Add([]byte("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"))
	f.Add([]byte("FLANNEL_IPV6_SUBNET='fd00::1/64'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSubnets(data)
		if err != nil && s != (store.Subnets{}) {
			t.Errorf("%v beside error %v", s, err)
		}
		for _, p := range []netip.Prefix{s.IPv4, s.IPv6} {
			if p.IsValid() && p != p.Masked() {
				t.Errorf("%s has host bits", p)
			}
		}
	})
}

func TestConflist(t *testing.T) {
	got, err := Conflist{Bridge: "cni0", MTU: 1450, Subnets: subnets("10.5.1.0/24", "fd00:5:1::/64"), RunDir: "/run/twill", DataDir: "/run/twill/ipam",
		HostLocalDir: "/var/lib/cni/networks"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.0.0","1.1.0"],"name":"twill","plugins":[{"type":"twill","bridge":"cni0",` +
		`"mtu":1450,"runDir":"/run/twill","ipam":{"type":"twill-ipam","ranges":[[{"subnet":"10.5.1.0/24"}],[{"subnet":"fd00:5:1::/64"}]],` +
		`"dataDir":"/run/twill/ipam","hostLocalDir":"/var/lib/cni/networks"},"capabilities":{"bandwidth":true,"dns":true,"ips":true,"mac":true,"portMappings":true}}]}`
	var compact bytes.Buffer
	if err := json.Compact(&compact, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.TrimSpace(compact.String())); diff != "" {
		t.Error(diff)
	}
}

// Pods are told of the node's DNS server when there is one.
func TestConflistDNS(t *testing.T) {
	got, err := Conflist{Bridge: "cni0", Subnets: subnets("10.5.1.0/24", "fd00:5:1::/64"), ClusterDomain: "cluster.local"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, got); err != nil {
		t.Fatal(err)
	}
	const want = `"dns":{"nameservers":["10.5.1.1","fd00:5:1::1"],"search":["svc.cluster.local","cluster.local"],"options":["ndots:5"]},"clusterDomain":"cluster.local"`
	if !strings.Contains(compact.String(), want) {
		t.Errorf("%s: want %s", compact.String(), want)
	}
}

// testHost returns a Host on directories of its own, with plugins to install.
func testHost(t *testing.T) (*Host, Options) {
	t.Helper()
	dir := t.TempDir()
	opts := Options{
		SubnetFile: filepath.Join(dir, "run/flannel/subnet.env"), RunDir: "/run/twill", ConfDir: filepath.Join(dir, "net.d"),
		BinDir: filepath.Join(dir, "bin"), PluginsDir: filepath.Join(dir, "from"), IPMasq: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, name := range plugins() {
		writeFile(t, filepath.Join(opts.PluginsDir, name), name+" v1")
	}
	return New(opts), opts
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree lists the files below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAnnounceWritesAndRemoveTakesAway(t *testing.T) {
	h, opts := testHost(t)
	if err := h.Announce(announcement("10.5.1.0/24", "", 1450)); err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(opts.ConfDir)
	want := []string{"bin/twill", "bin/twill-ipam", "from/twill", "from/twill-ipam", "net.d/10-twill.conflist", "run/flannel/subnet.env"}
	if diff := cmp.Diff(want, tree(t, root)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(filepath.Join(opts.BinDir, "twill"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("plugin has mode %v, error %v", info.Mode(), err)
	}
	removed, err := h.Remove()
	if err != nil || len(removed) != 4 || filepath.Base(removed[0]) != ConflistName {
		t.Errorf("removed %v, error %v: want four files, the conflist first", removed, err)
	}
	if diff := cmp.Diff([]string{"from/twill", "from/twill-ipam"}, tree(t, root)); diff != "" {
		t.Error(diff)
	}
	if removed, err := h.Remove(); err != nil || len(removed) > 0 {
		t.Errorf("removed %v again, error %v", removed, err)
	}
}

func TestAnnounceWritesOnlyWhatDiffers(t *testing.T) {
	h, opts := testHost(t)
	a := announcement("10.5.1.0/24", "", 1450)
	if err := h.Announce(a); err != nil {
		t.Fatal(err)
	}
	files := []string{opts.SubnetFile, filepath.Join(opts.ConfDir, ConflistName), filepath.Join(opts.BinDir, "twill"), filepath.Join(opts.BinDir, "twill-ipam")}
	inodes := func() []os.FileInfo {
		var infos []os.FileInfo
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			infos = append(infos, info)
		}
		return infos
	}
	changed := func(before, after []os.FileInfo) []string {
		var names []string
		for i := range files {
			if !os.SameFile(before[i], after[i]) {
				names = append(names, filepath.Base(files[i]))
			}
		}
		return names
	}
	tests := []struct {
		name    string
		disturb func()
		want    []string
	}{
		{"nothing", func() {}, nil},
		{"another MTU", func() { a.MTU = 1400 }, []string{"subnet.env", ConflistName}},
		{"a new plugin beside twilld", func() { writeFile(t, filepath.Join(opts.PluginsDir, "twill"), "twill v2") }, []string{"twill"}},
		{"a plugin cut short", func() { writeFile(t, files[3], "twill-ipam") }, []string{"twill-ipam"}},
		{"a plugin that cannot be run", func() { _ = os.Chmod(files[3], 0o644) }, []string{"twill-ipam"}},
		{"a conflist edited by hand", func() { writeFile(t, files[1], "{}") }, []string{ConflistName}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.disturb()
			before := inodes()
			if err := h.Announce(a); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, changed(before, inodes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoConflistWithoutPlugins(t *testing.T) {
	h, opts := testHost(t)
	if err := os.Remove(filepath.Join(opts.PluginsDir, "twill-ipam")); err != nil {
		t.Fatal(err)
	}
	err := h.Announce(announcement("10.5.1.0/24", "", 1450))
	if err == nil || !strings.Contains(err.Error(), "bin/twill-ipam: open ") {
		t.Errorf("error %v, want one that names the plugin", err)
	}
	if _, err := os.Stat(filepath.Join(opts.ConfDir, ConflistName)); err == nil {
		t.Error("the conflist was written although a plugin is missing")
	}
	if err := h.CheckPlugins(); err == nil || !strings.Contains(err.Error(), "plugin twill-ipam is not beside twilld") {
		t.Errorf("check: %v", err)
	}
}

func TestPluginsThatRunWhereTheyAre(t *testing.T) {
	_, opts := testHost(t)
	opts.BinDir = opts.PluginsDir
	h := New(opts)
	if err := h.Announce(announcement("10.5.1.0/24", "", 1450)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, opts.PluginsDir); !slices.Equal(got, plugins()) {
		t.Errorf("plugins are %v after Remove", got)
	}
}

func TestPreferred(t *testing.T) {
	h, opts := testHost(t)
	if got := h.Preferred(); got != nil {
		t.Errorf("%v without a file", got)
	}
	writeFile(t, opts.SubnetFile, "FLANNEL_SUBNET=10.5.7.1/24\n")
	if diff := cmp.Diff("[10.5.7.0/24]", sprint(h.Preferred())); diff != "" {
		t.Error(diff)
	}
	writeFile(t, opts.SubnetFile, "FLANNEL_SUBNET=garbage\n")
	if got := h.Preferred(); got != nil {
		t.Errorf("%v from garbage", got)
	}
}

func sprint(list []store.Subnets) string {
	var parts []string
	for _, s := range list {
		parts = append(parts, s.String())
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func TestLeftoversOfAKilledProcess(t *testing.T) {
	h, opts := testHost(t)
	old := filepath.Join(opts.ConfDir, "."+ConflistName+".123"+tempSuffix)
	young := filepath.Join(opts.ConfDir, "."+ConflistName+".456"+tempSuffix)
	foreign := filepath.Join(opts.ConfDir, "05-other.conflist")
	for _, f := range []string{old, young, foreign} {
		writeFile(t, f, `{"type":"multus"}`)
	}
	for _, f := range []string{old, foreign} {
		past := time.Now().Add(-time.Hour)
		if err := os.Chtimes(f, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Announce(announcement("10.5.1.0/24", "", 1450)); err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Base(young), "05-other.conflist", ConflistName}
	if diff := cmp.Diff(want, tree(t, opts.ConfDir)); diff != "" {
		t.Error(diff)
	}
}

func TestWriteWhereItCannot(t *testing.T) {
	h, opts := testHost(t)
	writeFile(t, filepath.Dir(opts.SubnetFile), "a file where a directory should be")
	err := h.Announce(announcement("10.5.1.0/24", "", 1450))
	if err == nil || !strings.Contains(err.Error(), "write "+opts.SubnetFile) {
		t.Errorf("error %v, want one that names the file", err)
	}
}

// A runtime takes the first configuration by name. Twill's own is written in any case, and nobody else's is touched.
func TestForeignConfigurations(t *testing.T) {
	const flannel = `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap"}]}`
	for _, tt := range []struct{ name, content, want string }{
		{"10-flannel.conflist", flannel, "/10-flannel.conflist, of flannel, portmap, before 10-twill.conflist"},
		{"05-cilium.conflist", `{"name":"cilium","plugins":[{"type":"cilium-cni"}]}`, "05-cilium.conflist, of cilium-cni, before"},
		{"00-bridge.conf", `{"name":"x","type":"bridge"}`, "00-bridge.conf, of bridge, before"},
		{"10-calico.conflist", "{", "10-calico.conflist, that cannot be read (unexpected end of JSON input), before"},
		{"10-containerd-net.json", `{"name":"x","type":"bridge"}`, "`mv "},
		{"00-multus.conf", `{"name":"multus-cni-network","type":"multus","delegates":[]}`, ""},
		{"05-twill-tuned.conflist", `{"name":"twill","plugins":[{"type":"twill"},{"type":"tuning"}]}`, ""},
		{"10-flannel.conflist.disabled", flannel, ""},
		{"01-empty.conflist", `{"name":"x","plugins":[]}`, ""},
		{"100-crio-bridge.conflist", flannel, ""},
		{"87-podman.conflist", flannel, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, opts := testHost(t)
			file := filepath.Join(opts.ConfDir, tt.name)
			writeFile(t, file, tt.content)
			err := h.Announce(announcement("10.5.1.0/24", "", 1450))
			if !strings.Contains(errorText(err), tt.want) || (err != nil) != (tt.want != "") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if reason := store.ReasonOf(err, ""); err != nil && reason != store.ReasonLeftover {
				t.Errorf("reason %q", reason)
			}
			if _, err := os.Stat(filepath.Join(opts.ConfDir, ConflistName)); err != nil {
				t.Error(err)
			}
			if have, err := os.ReadFile(file); err != nil || string(have) != tt.content {
				t.Errorf("%s holds %q, %v", tt.name, have, err)
			}
		})
	}
}
