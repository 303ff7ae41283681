package lab

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// binaries makes a directory that New takes for that of the programs.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"twilld", "twillctl"} {
		if err := os.WriteFile(filepath.Join(dir, program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestNetworkConfig(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		want    string
	}{
		{"default", Options{}, `{"Backend":{"Type":"vxlan"},"EnableIPv4":true,"EnableIPv6":false,"Network":"10.244.0.0/16"}`},
		{"IPv6", Options{Family: IPv6}, `{"Backend":{"Type":"vxlan"},"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:244::/48"}`},
		{"dual stack, networks in any order", Options{Family: DualStack, Networks: prefixes("fd01::/40", "10.0.0.1/8")},
			`{"Backend":{"Type":"vxlan"},"EnableIPv4":true,"EnableIPv6":true,"IPv6Network":"fd01::/40","Network":"10.0.0.0/8"}`},
		{"backend", Options{Routing: Routing{Backend: VXLAN}, BackendConfig: json.RawMessage(`{"VNI":7,"Port":4789}`)},
			`{"Backend":{"Port":4789,"Type":"vxlan","VNI":7},"EnableIPv4":true,"EnableIPv6":false,"Network":"10.244.0.0/16"}`},
		{"BGP", Options{Routing: Routing{Backend: BGP}}, `{"Backend":{"Type":"bgp"},"EnableIPv4":true,"EnableIPv6":false,"Network":"10.244.0.0/16"}`},
		{"as it is", Options{NetworkConfig: json.RawMessage(`{"Network":"x"}`), Networks: prefixes("fd01::/40")}, `{"Network":"x"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.BinDir = binaries(t)
			l, err := New(tt.options)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(l.options.NetworkConfig)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		want    string
	}{
		{"name with a slash", Options{Name: "../x"}, `lab name "../x"`},
		{"name with capitals", Options{Name: "Demo"}, `lab name "Demo"`},
		{"name too long", Options{Name: strings.Repeat("x", 43)}, "at most 42"},
		{"family", Options{Family: "ipv5"}, `family "ipv5"`},
		{"nodes", Options{Nodes: -1}, "-1 nodes"},
		{"more nodes than addresses", Options{Nodes: 501, Subnets: 2}, "0 to 500"},
		{"subnets", Options{Subnets: -1}, "-1 subnets"},
		{"too many subnets", Options{Subnets: 251}, "251 subnets"},
		{"pods", Options{PodsPerNode: -1}, "-1 pods"},
		{"MTU", Options{MTU: 500}, "MTU 500"},
		{"network of the other family", Options{Networks: prefixes("fd00::/48")}, "network fd00::/48 does not fit the family ipv4"},
		{"backend config", Options{BackendConfig: json.RawMessage("{")}, "backend config {"},
		{"overlay without BGP", Options{Routing: Routing{Overlay: OverlayAlways}}, "need the backend bgp, not vxlan"},
		{"reflectors without BGP", Options{Nodes: 3, Routing: Routing{Reflectors: 1}}, "need the backend bgp, not vxlan"},
		{"router without BGP", Options{Routing: Routing{ToR: true}}, "need the backend bgp, not vxlan"},
		{"overlay", Options{Routing: Routing{Backend: BGP, Overlay: "some"}}, `overlay "some"`},
		{"more reflectors than nodes", Options{Nodes: 2, Routing: Routing{Backend: BGP, Reflectors: 3}}, "3 reflectors"},
		{"no programs", Options{BinDir: "/nowhere"}, "/nowhere/twilld"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.options.BinDir == "" {
				tt.options.BinDir = binaries(t)
			}
			_, err := New(tt.options)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestDaemonEnv(t *testing.T) {
	n := &Node{lab: &Lab{options: Options{DaemonEnv: []string{"A=1"}}}, record: nodeRecord{NodeOptions: NodeOptions{Env: []string{"A=2"}}}}
	got := n.daemonEnv([]string{"PATH=/bin", "TWILLD_BACKEND=bgp", "TWILL_FAILPOINT=x"})
	if diff := cmp.Diff([]string{"PATH=/bin", "A=1", "A=2"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSortPods(t *testing.T) {
	pods := []*Pod{{Name: "node1-pod10"}, {Name: "node1-pod2"}, {Name: "node1-pod1"}}
	sortPods(pods)
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"node1-pod1", "node1-pod2", "node1-pod10"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := tail(path); !strings.Contains(got, "no log") {
		t.Errorf("of a missing file: %q", got)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("early\n", 50)+"late\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := tail(path)
	if !strings.HasSuffix(got, "\n    late") || strings.Count(got, "early") != 14 {
		t.Errorf("got %q", got)
	}
}
