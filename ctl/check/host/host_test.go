//go:build linux

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/check"
)

const tcpFile = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:281E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:281E 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
`

const udp6File = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  102: 00000000000000000000000000000000:2118 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 0
  103: B80D0120000000000000000001000000:2118 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98 2 0000000000000000 0
`

func TestParseSockets(t *testing.T) {
	tests := []struct {
		name, text, protocol string
		want                 []string
		err                  bool
	}{
		{"TCP that listens", tcpFile, "tcp", []string{"tcp 127.0.0.1:10270 4711"}, false},
		{"UDP of IPv6", udp6File, "udp", []string{"udp [::]:8472 99", "udp [2001:db8::1]:8472 98"}, false},
		{"nothing", "", "udp", nil, false},
		{"half a line", "  1: 0100007F:281E 0", "udp", nil, false},
		{"no address", "0: x:1 0:0 07 0 0 0 0 0 9 1", "udp", nil, true},
		{"no port", "0: 0100007F 0:0 07 0 0 0 0 0 9 1", "udp", nil, true},
		{"three bytes", "0: 010000:0001 0:0 07 0 0 0 0 0 9 1", "udp", nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := parseSockets(tt.text, tt.protocol)
			var got []string
			for _, s := range all {
				got = append(got, fmt.Sprint(s.Protocol, " ", s.Address, " ", s.inode))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.err {
				t.Error(diff, err)
			}
		})
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add(tcpFile)
	f.Add(udp6File)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseSockets(text, "udp")
		for _, s := range all {
			if !s.Address.IsValid() || err != nil {
				t.Errorf("%+v, error %v", s, err)
			}
		}
	})
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestNetworks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	write(t, file, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_MTU=1450\nFLANNEL_NETWORK=many\n", 0o600)
	want := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(networks(file))); diff != "" {
		t.Error(diff)
	}
	if got := networks(file + "x"); got != nil {
		t.Error(got)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"00-none.conf": "{}", "10-twill.conflist": `{"plugins":[{"type":"twill"},{"type":"bandwidth"}]}`, "05-x.json": "{", "README": "{"} {
		write(t, filepath.Join(dir, name), text, 0o600)
	}
	write(t, filepath.Join(dir, "twill"), "", 0o755)
	write(t, filepath.Join(dir, "twill-ipam"), "", 0o600)
	f := &check.Facts{Setup: check.Setup{ConfDir: dir, PluginsDir: dir}}
	if err := errors.Join(lookAtConf(f), lookAtPlugins(f)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range f.Confs {
		got = append(got, fmt.Sprintf("%s %s %v", c.Name, c.Types, c.Err))
	}
	for _, p := range f.Plugins {
		got = append(got, fmt.Sprint(p.Name, " ", p.Err))
	}
	want := []string{"05-x.json [] unexpected end of JSON input", "10-twill.conflist [twill bandwidth] <nil>", "twill <nil>", "twill-ipam it cannot be run (mode -rw-------)", "loopback it is not there"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f = &check.Facts{Setup: check.Setup{ConfDir: dir + "/none"}}
	if err := lookAtConf(f); err != nil || f.Confs != nil {
		t.Errorf("%v, error %v", f.Confs, err)
	}
	if err := lookAtPlugins(f); err == nil || f.Plugins != nil {
		t.Errorf("plugins without a directory: %v, error %v", f.Plugins, err)
	}
}
