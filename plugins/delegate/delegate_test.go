//go:build linux

package delegate

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
)

// plugin returns a Plugin whose program is the shell script.
func plugin(t *testing.T, script string) Plugin {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return Plugin{Name: "fake", Netconf: []byte(`{"name":"net"}`), Path: "/nowhere:" + dir, Netns: "/ns/a", Args: "X=y"}
}

var owner = kernel.PodOwner{ContainerID: "a", IfName: "eth0"}

var same = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestParseLease(t *testing.T) {
	table := 7
	tests := []struct {
		name, result string
		want         attach.Lease
		err          bool
	}{
		{"version 0.4.0", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}`,
			attach.Lease{Addresses: []ipam.Address{{Prefix: netip.MustParsePrefix("10.0.0.2/24"), Gateway: netip.MustParseAddr("10.0.0.1")}},
				Routes: []ipam.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0")}}}, false},
		{"version 1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"fd00::2/64"}],"routes":[{"dst":"10.1.2.3/8","gw":"10.0.0.1","mtu":1400,"table":7}],
			"dns":{"nameservers":["192.0.2.53"]}}`,
			attach.Lease{Addresses: []ipam.Address{{Prefix: netip.MustParsePrefix("fd00::2/64")}}, DNS: netconf.DNS{Nameservers: []string{"192.0.2.53"}},
				Routes: []ipam.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), GW: netip.MustParseAddr("10.0.0.1"), MTU: 1400, Table: &table}}}, false},
		{"empty", `{}`, attach.Lease{}, false},
		{"nothing", ``, attach.Lease{}, true},
		{"no address", `{"ips":[{}]}`, attach.Lease{}, true},
		{"bad address", `{"ips":[{"address":"10.0.0.2"}]}`, attach.Lease{}, true},
		{"IPv4 written as IPv6", `{"ips":[{"address":"::ffff:10.0.0.2/120"}]}`, attach.Lease{}, true},
		{"destination of IPv4 written as IPv6", `{"routes":[{"dst":"::ffff:10.0.0.0/104"}]}`, attach.Lease{}, true},
		{"scope that a byte cannot hold", `{"routes":[{"dst":"10.0.0.0/8","scope":509}]}`, attach.Lease{}, true},
		{"no destination", `{"routes":[{"gw":"10.0.0.1"}]}`, attach.Lease{}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseLease([]byte(test.result))
			if (err != nil) != test.err {
				t.Fatalf("have error %v", err)
			}
			if diff := cmp.Diff(test.want, got, same); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPluginGetsWhatItNeeds(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	t.Setenv("CNI_COMMAND", "DEL") // of the call that is being served
	p := plugin(t, `(env | grep ^CNI_ | sort; cat) > `+out)
	if err := p.Release(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := "CNI_ARGS=X=y\nCNI_COMMAND=DEL\nCNI_CONTAINERID=a\nCNI_IFNAME=eth0\nCNI_NETNS=/ns/a\nCNI_PATH=" + p.Path + "\n" + `{"name":"net"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestGCHandsOnWhatIsKept(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	if err := plugin(t, `cat > `+out).Retain(t.Context(), []kernel.PodOwner{owner}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	want := `{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"name":"net"}`
	if err != nil || string(got) != want {
		t.Errorf("have %s, error %v; want %s", got, err, want)
	}
}

func TestErrors(t *testing.T) {
	allocate := func(p Plugin) error {
		_, err := p.Allocate(t.Context(), attach.Request{Owner: owner, Config: &netconf.Config{}})
		return err
	}
	status := func(p Plugin) error { return p.Status(t.Context()) }
	tests := []struct {
		name, script string
		verb         func(Plugin) error
		code         uint // 0: not of an error object
		want         string
	}{
		{"an error object", `echo '{"code":103,"msg":"full","details":"really"}'; exit 1`, allocate, 103, "IPAM plugin fake: ADD: full; really"},
		{"no error object", `echo oops; exit 3`, allocate, 0, "exit status 3: oops"},
		{"no result", `true`, allocate, 0, "result of IPAM plugin fake"},
		{"STATUS fails", `echo '{"code":50,"msg":"full"}'; exit 1`, status, 50, "full"},
		{"STATUS is not known", `echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1`, status, 0, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.verb(plugin(t, test.script))
			if test.want == "" {
				if err != nil {
					t.Errorf("have error %v, want none", err)
				}
				return
			}
			var theirs *Error
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.As(err, &theirs) != (test.code != 0) || theirs != nil && theirs.Code != test.code {
				t.Errorf("have error %v, want code %d about %q", err, test.code, test.want)
			}
		})
	}
	for _, name := range []string{"", "none", "../fake"} {
		p := plugin(t, "true")
		p.Name = name
		if err := allocate(p); !errors.Is(err, attach.ErrNoPlugin) {
			t.Errorf("%q: have error %v, want ErrNoPlugin", name, err)
		}
	}
}

func FuzzParseLease(f *testing.F) {
	f.Add([]byte(`{"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"::/0"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lease, err := parseLease(data)
		if err != nil {
			return
		}
		for _, a := range lease.Addresses {
			if !a.Prefix.IsValid() || a.Prefix.Addr().Is4In6() {
				t.Fatalf("address %v got through", a)
			}
		}
	})
}
