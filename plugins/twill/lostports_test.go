//go:build linux

package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/hostport"
)

// mapped is the configuration of a pod with one TCP host port.
func mapped(port int) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}}}
}

// lead adds a host port that leads to an IPv4 address, by hand.
func (n *node) lead(port uint16, to string) {
	n.t.Helper()
	n.do(func() error {
		tables, err := nft.Open(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		e := kernel.Element{Key: []kernel.Datum{{Number: 6}, {Number: uint32(port)}},
			Value: []kernel.Datum{{Addr: netip.MustParseAddr(to)}, {Number: 80}}}
		err = tables.AddElements(n.t.Context(), hostport.Table(), map[string][]kernel.Element{"ports4": {e}})
		return errors.Join(err, tables.Close())
	})
}

// lose removes files below the node's directory, which must be there.
func (n *node) lose(pattern string) {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, pattern))
	if err != nil || len(files) == 0 {
		n.t.Fatalf("no file %s, error %v", pattern, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			n.t.Fatal(err)
		}
	}
}

// crowded is a node with host ports that none of the tests' pods may lose: of a pod of the same network, of one of another network
// with the same addresses, and one that was made by hand.
func crowded(t *testing.T) *node {
	n := newNode(t, subnet4, subnet6)
	n.add("neighbour", mapped(1000))
	other := mapped(2000)
	other["name"] = "other"
	other["ipam"] = map[string]any{"type": "twill-ipam", "dataDir": n.dir + "/other", "subnet": "10.5.1.0/24", "rangeStart": "10.5.1.100"}
	n.add("elsewhere", other)
	n.lead(3000, "192.0.2.7")
	return n
}

// The record of an attachment is lost or damaged. A DEL removes its host ports nevertheless.
func TestDelWithLostRecord(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*node)
	}{
		{"record lost", func(n *node) { n.lose("run/attachments/net/a:eth0") }},
		{"record damaged", func(n *node) {
			if err := os.WriteFile(n.dir+"/run/attachments/net/a:eth0", []byte("{"), 0o600); err != nil {
				n.t.Fatal(err)
			}
		}},
		{"record lost and lease damaged", func(n *node) {
			n.lose("run/attachments/net/a:eth0")
			if err := os.WriteFile(n.dir+"/ipam/net/leases/a:eth0", nil, 0o600); err != nil {
				n.t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := crowded(t)
			before := n.left()
			p := n.add("a", everything)
			test.spoil(n)
			for range 2 {
				n.must(call{verb: "DEL", id: "a", netns: p.path, keys: everything})
				if diff := cmp.Diff(before, n.left()); diff != "" {
					t.Errorf("left behind (+), or lost (-):\n%s", diff)
				}
			}
		})
	}
}

// Host ports whose pod nobody knows any more go with the next GC.
func TestGCOfLostHostPorts(t *testing.T) {
	n := crowded(t)
	valid := map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "neighbour", "ifname": "eth0"}}}
	before := n.left()
	tests := []struct {
		name  string
		spoil func()
	}{
		{"record lost", func() { n.add("a", everything); n.lose("run/attachments/net/a:eth0") }},
		{"record and lease lost", func() {
			n.add("a", everything)
			n.lose("run/attachments/net/a:eth0")
			n.lose("ipam/net/leases/a:eth0")
		}},
		{"nothing but a host port", func() { n.lead(8080, "10.5.1.77") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.spoil()
			for range 2 {
				n.must(call{verb: "GC", keys: valid})
				if diff := cmp.Diff(before, n.left()); diff != "" {
					t.Errorf("left behind (+), or lost (-):\n%s", diff)
				}
			}
		})
	}
	t.Run("the pod lives, and its record is lost", func(t *testing.T) {
		n.lose("run/attachments/net/neighbour:eth0")
		before := n.left()
		n.must(call{verb: "GC", keys: valid})
		if diff := cmp.Diff(before, n.left()); diff != "" {
			t.Errorf("left behind (+), or lost (-):\n%s", diff)
		}
	})
}
