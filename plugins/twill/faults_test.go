//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/delegate"
)

// everything is a pod with a host port and shaping both ways, so that no step is left out.
var everything = map[string]any{"runtimeConfig": map[string]any{
	"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		map[string]any{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}},
	"bandwidth": map[string]any{"ingressRate": 8_000_000, "egressRate": 8_000_000}}}

// failpoints returns the names of all kill points in the packages that the plugin is made of, by the verb that starts the name.
func failpoints(t *testing.T, verb string) []string {
	t.Helper()
	var names []string
	hit := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	for _, dir := range []string{"../attach", "../../kernel/podnet", "../../ipam/filestore"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range hit.FindAllStringSubmatch(string(text), -1) {
				names = append(names, m[1])
			}
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		isDel := strings.HasPrefix(n, "del-") || strings.Contains(n, "release")
		return isDel != (verb == "DEL")
	})
	if len(names) < 5 {
		t.Fatalf("found only the failpoints %v", names)
	}
	return names
}

// An ADD that is killed at any step leaves nothing that a DEL, a GC or another ADD does not end, with neighbours unharmed.
func TestKilledAdd(t *testing.T) {
	n := newNode(t, subnet4, subnet6)
	n.add("neighbour", nil)
	before := n.left()
	gc := map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "neighbour", "ifname": "eth0"}}}
	p := newNetns(t)
	died := 0
	for _, name := range failpoints(t, "ADD") {
		for _, end := range []string{"DEL", "DEL without namespace", "GC", "ADD"} {
			t.Run(name+" then "+end, func(t *testing.T) {
				_, err := n.run(call{verb: "ADD", id: "a", netns: p.path, keys: everything, failpoint: name})
				if errors.Is(err, errDied) {
					died++
				} else if err != nil {
					t.Fatal(err)
				}
				switch end {
				case "DEL":
					n.must(call{verb: "DEL", id: "a", netns: p.path, keys: everything})
				case "DEL without namespace":
					n.must(call{verb: "DEL", id: "a"})
				case "GC":
					n.must(call{verb: "GC", keys: gc})
				case "ADD":
					if name != "add-commit" && err != nil { // else the attachment is complete
						n.must(call{verb: "ADD", id: "a", netns: p.path, keys: everything})
					}
					n.must(call{verb: "DEL", id: "a", netns: p.path})
				}
				if diff := cmp.Diff(before, n.left()); diff != "" {
					t.Errorf("left behind (+), or lost (-):\n%s", diff)
				}
			})
		}
	}
	if died < 40 {
		t.Errorf("the plugin died %d times only: the failpoints do not work", died)
	}
}

func TestKilledDel(t *testing.T) {
	n := newNode(t, subnet4, subnet6)
	p := newNetns(t)
	for _, name := range failpoints(t, "DEL") {
		t.Run(name, func(t *testing.T) {
			n.must(call{verb: "ADD", id: "a", netns: p.path, keys: everything})
			if _, err := n.run(call{verb: "DEL", id: "a", failpoint: name}); err != nil && !errors.Is(err, errDied) {
				t.Fatal(err)
			}
			for range 2 {
				n.must(call{verb: "DEL", id: "a"})
			}
			n.wantNothingLeft()
		})
	}
}

// A reboot takes links and the run directory, and what is on a disk stays.
func TestReboot(t *testing.T) {
	for _, lost := range []string{"run", "ipam"} {
		t.Run(lost+" directory lost", func(t *testing.T) {
			n := newNode(t, subnet4)
			p := newNetns(t)
			n.must(call{verb: "ADD", id: "a", netns: p.path})
			if err := os.RemoveAll(filepath.Join(n.dir, lost)); err != nil {
				t.Fatal(err)
			}
			n.do(func() error { return removeVeths() })
			n.must(call{verb: "ADD", id: "a", netns: p.path})
			n.must(call{verb: "DEL", id: "a"})
			n.wantNothingLeft()
		})
	}
}

func removeVeths() error {
	links, err := netlink.LinkList()
	for _, l := range links {
		if l.Type() == "veth" {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	return err
}

// The record is lost, the link is not: the next ADD of the attachment takes the link's place.
func TestLostRecord(t *testing.T) {
	n := newNode(t, subnet4)
	p := newNetns(t)
	n.must(call{verb: "ADD", id: "a", netns: p.path})
	if err := os.RemoveAll(n.dir + "/run"); err != nil {
		t.Fatal(err)
	}
	n.must(call{verb: "ADD", id: "a", netns: p.path})
	n.must(call{verb: "DEL", id: "a"})
	n.wantNothingLeft()
}

func TestDelOfWhatNeverWas(t *testing.T) {
	n := newNode(t, subnet4)
	n.must(call{verb: "DEL", id: "a", netns: "/none"})
	n.must(call{verb: "DEL", id: "a", keys: everything})
	n.must(call{verb: "DEL", id: "a", args: "no pair"})
	n.wantNothingLeft()
}

// Sandboxes are re-used: a late DEL of the container before must not touch the one that is there now.
func TestReusedNamespace(t *testing.T) {
	n := newNode(t, subnet4)
	p := newNetns(t)
	n.must(call{verb: "ADD", id: "old", netns: p.path})
	n.must(call{verb: "DEL", id: "old", netns: p.path})
	out := n.must(call{verb: "ADD", id: "new", netns: p.path})
	before := n.left()
	n.must(call{verb: "DEL", id: "old", netns: p.path})
	if diff := cmp.Diff(before, n.left()); diff != "" {
		t.Error(diff)
	}
	n.must(call{verb: "CHECK", id: "new", netns: p.path, keys: map[string]any{"prevResult": json.RawMessage(out)}})
}

// Ranges that are wrong keep no pod from being removed. Without a data directory, what can be removed is, and the DEL tells why it is
// not done.
func TestDelWithBrokenIPAM(t *testing.T) {
	n := newNode(t, subnet4)
	p := newNetns(t)
	broken := func(dataDir string) map[string]any {
		return map[string]any{"ipam": map[string]any{"type": "twill-ipam", "ranges": "x", "dataDir": dataDir}, "runtimeConfig": "x"}
	}
	n.must(call{verb: "ADD", id: "a", netns: p.path, keys: everything})
	n.must(call{verb: "DEL", id: "a", keys: broken(n.dir + "/ipam")})
	n.wantNothingLeft()

	n.must(call{verb: "ADD", id: "a", netns: p.path, keys: everything})
	_, err := n.run(call{verb: "DEL", id: "a", keys: broken("nowhere")})
	var printed *delegate.Error
	if !errors.As(err, &printed) || printed.Code != 7 {
		t.Errorf("have error %v, want code 7", err)
	}
	for _, thing := range n.left() {
		if strings.HasPrefix(thing, "veth") || strings.HasPrefix(thing, "ifb") || strings.HasPrefix(thing, "element") {
			t.Errorf("left behind: %s", thing)
		}
	}
	n.must(call{verb: "DEL", id: "a"})
	n.wantNothingLeft()
}

func TestGC(t *testing.T) {
	n := newNode(t, subnet4, subnet6)
	kept := n.add("kept", nil)
	before := n.left()
	n.add("gone", everything)
	n.add("gone-without-record", nil)
	if err := os.Remove(n.dir + "/run/attachments/net/gone-without-record:eth0"); err != nil {
		t.Fatal(err)
	}
	all := n.left()
	n.must(call{verb: "GC"})
	if diff := cmp.Diff(all, n.left()); diff != "" {
		t.Errorf("a GC without a list removed something:\n%s", diff)
	}
	valid := map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "kept", "ifname": "eth0"}}}
	for range 2 {
		n.must(call{verb: "GC", keys: valid})
		if diff := cmp.Diff(before, n.left()); diff != "" {
			t.Errorf("left behind (+), or lost (-):\n%s", diff)
		}
	}
	n.must(call{verb: "CHECK", id: "kept", netns: kept.path, keys: kept.with(nil)})
	n.must(call{verb: "GC", keys: map[string]any{"cni.dev/valid-attachments": []any{}}})
	n.wantNothingLeft()
}

func TestCheck(t *testing.T) {
	inPod := func(f func(netlink.Link) error) func(*node, pod) {
		return func(_ *node, p pod) {
			p.do(func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return f(l)
			})
		}
	}
	onHost := func(name func(pod) string, f func(netlink.Link) error) func(*node, pod) {
		return func(n *node, p pod) {
			n.do(func() error {
				l, err := netlink.LinkByName(name(p))
				if err != nil {
					return err
				}
				return f(l)
			})
		}
	}
	hostLink := func(p pod) string { return p.result.Interfaces[1].Name }
	tests := []struct {
		name  string
		spoil func(*node, pod)
		want  string
	}{
		{"interface down", inPod(netlink.LinkSetDown), "eth0"},
		{"MTU", inPod(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) }), "MTU 1300"},
		{"address", inPod(func(l netlink.Link) error {
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			return errors.Join(err, netlink.AddrDel(l, &addrs[0]))
		}), "no address 10.5.1."},
		{"route", inPod(func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: nil, Gw: []byte{10, 5, 1, 1}})
		}), "route 0.0.0.0/0"},
		{"no interface", inPod(netlink.LinkDel), "eth0 is missing"},
		{"host link down", onHost(hostLink, netlink.LinkSetDown), "is down"},
		{"not on the bridge", onHost(hostLink, netlink.LinkSetNoMaster), "not of bridge cni0"},
		{"hairpin off", onHost(hostLink, func(l netlink.Link) error { return netlink.LinkSetHairpin(l, false) }), "hairpin"},
		{"shaping of what comes in", onHost(hostLink, func(l netlink.Link) error {
			return netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: 1 << 16}})
		}), "does not shape"},
		{"shaper", onHost(func(p pod) string { return "ifb-" + strings.TrimPrefix(hostLink(p), "veth") }, netlink.LinkDel), "shaper"},
		{"host port", func(n *node, p pod) {
			n.do(func() error {
				tables, err := nft.Open(slog.New(slog.DiscardHandler))
				if err != nil {
					return err
				}
				return errors.Join(tables.SyncTables(t.Context(), nil, []string{"twill-hostports"}), tables.Close())
			})
		}, "port"},
		{"lease", func(n *node, p pod) {
			if err := os.RemoveAll(n.dir + "/ipam"); err != nil {
				t.Fatal(err)
			}
		}, "lease"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, subnet4)
			p := n.add("a", everything)
			c := call{verb: "CHECK", id: "a", netns: p.path, keys: p.with(everything)}
			n.must(c)
			test.spoil(n, p)
			_, err := n.run(c)
			var printed *delegate.Error
			if !errors.As(err, &printed) || printed.Code != codeMismatch || !strings.Contains(printed.Msg, test.want) {
				t.Errorf("have error %v, want code %d about %q", err, codeMismatch, test.want)
			}
			n.must(call{verb: "DEL", id: "a"})
			n.wantNothingLeft()
		})
	}
}
