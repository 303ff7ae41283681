package attach

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

func TestCheck(t *testing.T) {
	owner := request("a", "").Owner
	link := hostLink("net", owner, 0)
	tests := []struct {
		name  string
		spoil func(*node, *Request)
		want  string // part of the error; empty: all is well
	}{
		{"all is well", func(*node, *Request) {}, ""},
		{"more routes and addresses", func(n *node, _ *Request) {
			c := n.netns["/ns/a"]["eth0"]
			c.Addresses = append(c.Addresses, netip.MustParsePrefix("192.0.2.1/32"))
			c.Routes = append(c.Routes, kernel.PodRoute{Dst: netip.MustParsePrefix("192.0.2.0/24")})
			n.netns["/ns/a"]["eth0"] = c
		}, ""},
		{"no network namespace", func(n *node, _ *Request) { delete(n.netns, "/ns/a") }, "does not exist"},
		{"no record", func(n *node, _ *Request) { clear(n.records) }, "attachment record"},
		{"no interface", func(n *node, _ *Request) { clear(n.netns["/ns/a"]) }, "interface eth0 is missing"},
		{"no host link", func(n *node, _ *Request) { clear(n.pairs) }, "host link " + link + " is missing"},
		{"host link down", func(n *node, _ *Request) { p := n.pairs[link]; p.up = false; n.pairs[link] = p }, "is down"},
		{"other bridge", func(n *node, _ *Request) { n.bridge.Name = "br1" }, `is a port of "br1", not of bridge cni0`},
		{"hairpin off", func(n *node, _ *Request) { p := n.pairs[link]; p.Hairpin = false; n.pairs[link] = p }, "hairpin mode false"},
		{"another pod's interface", func(n *node, _ *Request) { p := n.pairs[link]; p.netns = "/ns/b"; n.pairs[link] = p }, "is not the other end"},
		{"another owner", func(n *node, _ *Request) { p := n.pairs[link]; p.Owner.ContainerID = "z"; n.pairs[link] = p }, "belongs to z/eth0"},
		{"MAC address", func(n *node, _ *Request) {
			c := n.netns["/ns/a"]["eth0"]
			c.MAC = kernel.MAC{2}
			n.netns["/ns/a"]["eth0"] = c
		}, "interface eth0 has MAC address 02:00:00:00:00:00"},
		{"MTU", func(n *node, _ *Request) { p := n.pairs[link]; p.MTU = 1400; n.pairs[link] = p }, "has MTU 1400, not 1450"},
		{"address", func(n *node, _ *Request) {
			c := n.netns["/ns/a"]["eth0"]
			c.Addresses = c.Addresses[:1]
			n.netns["/ns/a"]["eth0"] = c
		}, "has no address fd00::2/64"},
		{"route", func(n *node, _ *Request) {
			c := n.netns["/ns/a"]["eth0"]
			c.Routes = c.Routes[1:]
			n.netns["/ns/a"]["eth0"] = c
		}, "route 0.0.0.0/0 via 10.0.0.1 is missing"},
		{"lease", func(n *node, _ *Request) { clear(n.leases) }, "lease"},
		{"host port", func(n *node, _ *Request) { clear(n.ports) }, "port 80"},
		{"shaping of what comes in", func(n *node, _ *Request) { p := n.pairs[link]; p.shape.Ingress.Bits = 0; n.pairs[link] = p }, "does not shape"},
		{"shaping of what goes out", func(n *node, _ *Request) { clear(n.shapers) }, "shaper " + shaper("net", owner)},
		{"no prevResult", func(_ *node, r *Request) { r.Config.PrevResult = nil }, "CHECK needs the result"},
		{"prevResult of another namespace", func(_ *node, r *Request) {
			r.Config.PrevResult = json.RawMessage(strings.ReplaceAll(string(r.Config.PrevResult), "/ns/a", "/ns/b"))
		}, "no address of interface eth0"},
		{"prevResult with a wrong index", func(_ *node, r *Request) {
			r.Config.PrevResult = json.RawMessage(strings.ReplaceAll(string(r.Config.PrevResult), `"interface":2`, `"interface":9`))
		}, "interface 9 of 3"},
		{"prevResult that is no result", func(_ *node, r *Request) { r.Config.PrevResult = json.RawMessage(`{"ips":7}`) }, "cannot be decoded"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "/ns/a")
			req := request("a", "/ns/a")
			result, err := n.plugin().Add(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if req.Config.PrevResult, err = json.Marshal(result); err != nil {
				t.Fatal(err)
			}
			test.spoil(n, &req)
			err = n.plugin().Check(t.Context(), req)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("have error %v, want one about %q", err, test.want)
			}
		})
	}
}

func TestGC(t *testing.T) {
	a, b := plain("a", "/ns/a").Owner, plain("b", "/ns/b").Owner
	other := kernel.PodOwner{ContainerID: "o", IfName: "eth0"}
	free := address(4, 77).Prefix.Addr()
	tests := []struct {
		name  string
		valid []kernel.PodOwner
		spoil func(*node)
		want  []string // of what GC removes
	}{
		{"no list", nil, func(*node) {}, nil},
		{"all valid", []kernel.PodOwner{a, b}, func(*node) {}, nil},
		{"one valid", []kernel.PodOwner{b}, func(*node) {}, []string{"interface /ns/a eth0", "lease a/eth0", "link " + hostLink("net", a, 0),
			"port 80", "record a/eth0", "shaper " + shaper("net", a)}},
		{"records lost", []kernel.PodOwner{b}, func(n *node) { clear(n.records) }, []string{"interface /ns/a eth0", "lease a/eth0",
			"link " + hostLink("net", a, 0), "port 80", "shaper " + shaper("net", a)}},
		{"only a lease is left", []kernel.PodOwner{a, b}, func(n *node) { n.leases[other] = Lease{} }, []string{"lease o/eth0"}},
		{"only host ports are left", []kernel.PodOwner{a, b}, func(n *node) { n.ports[81], n.ports[82] = free, free }, []string{"port 81", "port 82"}},
		{"host ports and a valid attachment of which nothing is known", []kernel.PodOwner{a, b, other}, func(n *node) { n.ports[81] = free }, nil},
		{"host ports and a valid attachment without a lease", []kernel.PodOwner{a, b}, func(n *node) { n.ports[81] = free; clear(n.leases) },
			[]string{"port 81"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "/ns/a", "/ns/b")
			for _, r := range []Request{request("a", "/ns/a"), plain("b", "/ns/b")} {
				if _, err := n.plugin().Add(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			// Another network's link, which this network's GC knows nothing of.
			foreign := hostLink("other", other, 0)
			n.pairs[foreign] = pair{PodPair: kernel.PodPair{HostLink: foreign, Owner: other}}
			// Host ports that are not the network's to remove.
			n.ports[1000] = netip.MustParseAddr("192.0.2.7")
			n.ports[1001] = address(4, 78).Prefix.Addr()
			n.elsewhere = []Record{{Network: "other", ContainerID: "o", IfName: "eth0", Addresses: []netip.Prefix{address(4, 78).Prefix}}}
			test.spoil(n)
			before := n.left()
			cfg := plain("", "").Config
			cfg.ValidAttachments = test.valid
			if err := n.plugin().GC(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			after := n.left()
			var removed []string
			for _, thing := range before {
				if !contains(after, thing) {
					removed = append(removed, thing)
				}
			}
			if diff := cmp.Diff(test.want, removed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// GC goes on past errors, tells all of them, and does not free the addresses of what it could not remove.
func TestGCGoesOn(t *testing.T) {
	n := newNode(t, "/ns/a", "/ns/b")
	for _, r := range []Request{plain("a", "/ns/a"), plain("b", "/ns/b")} {
		if _, err := n.plugin().Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	n.fail = 1 // the removal of the first link
	cfg := plain("", "").Config
	cfg.ValidAttachments = []kernel.PodOwner{}
	err := n.plugin().GC(t.Context(), cfg)
	if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), "a/eth0") {
		t.Errorf("have error %v, want the injected one with the attachment's name", err)
	}
	want := []string{"interface /ns/a eth0", "lease a/eth0", "link " + hostLink("net", plain("a", "").Owner, 0), "record a/eth0"}
	if diff := cmp.Diff(want, n.left()); diff != "" {
		t.Error(diff)
	}
}
