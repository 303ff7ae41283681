package dnat

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
)

var fourServers = []string{"10.1.1.2:8080", "10.1.2.2:8080", "10.1.2.3:8080", "10.1.2.4:8080"}

func stickyFrontend(f family, timeout time.Duration, endpoints ...string) service.Frontend {
	fe := f.frontend("10.96.0.1:80", endpoints...)
	fe.Affinity = timeout
	return fe
}

// affinityEntries returns how many clients the kernel remembers.
func (r *rig) affinityEntries() (n int) {
	r.t.Helper()
	elements, err := r.handle.ListElements(r.family.config.Family, TableName, setAffinity)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(elements)
}

func TestAffinityInTheKernel(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			f.config.AffinitySize = 3
			r := newRig(t, f)
			r.serve()
			clients := []string{"10.1.7.1", "10.1.7.2", "10.1.7.3", "10.1.7.4", "10.1.7.5"}
			where := func(tries int) map[string]string {
				t.Helper()
				out := map[string]string{}
				for _, c := range clients {
					for range tries {
						at := r.clients.reach(f.addr(c), f.at("10.96.0.1:80"))
						if out[c] != "" && out[c] != at {
							t.Fatalf("client %s was at %s, and is at %s", c, out[c], at)
						}
						out[c] = at
					}
				}
				return out
			}
			r.set(svc("it", stickyFrontend(f, 2*time.Second, fourServers...)))
			first := where(10) // two clients of five find no room, and keep their endpoints by hash
			if n := r.affinityEntries(); n != 3 {
				t.Errorf("%d clients are remembered, want 3", n)
			}
			gone := first[clients[0]]
			var rest []string
			for _, s := range fourServers {
				if f.at(s).String() != gone {
					rest = append(rest, s)
				}
			}
			r.set(svc("it", stickyFrontend(f, 2*time.Second, rest...)))
			for c, at := range where(3) {
				remembered := c != clients[3] && c != clients[4]
				if at == gone || !strings.Contains(at, ":8080") || remembered && first[c] != gone && at != first[c] {
					t.Errorf("client %s: %s -> %s after %s went", c, first[c], at, gone)
				}
			}
			r.set(svc("it"))
			if at := r.clients.reach(f.addr(clients[0]), f.at("10.96.0.1:80")); at != "drop" {
				t.Errorf("without the Service: %s", at)
			}
			for deadline := time.Now().Add(20 * time.Second); r.affinityEntries() > 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%d clients are remembered after their time", r.affinityEntries())
				}
				_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e8}, nil)
			}
		})
	}
}

// TestRestartWritesNothing starts anew on what is in the kernel.
func TestRestartWritesNothing(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f)
			var all []*service.Service
			for i, s := range scenarios() {
				one := svc(s.name)
				for _, fe := range s.frontends(f) {
					fe.Port = uint16(1000 + i) // of its own
					one.Frontends = append(one.Frontends, fe)
				}
				all = append(all, one)
			}
			all = append(all, svc("sticky", stickyFrontend(f, time.Hour, fourServers...)))
			r.set(all...)
			all[len(all)-1] = svc("sticky", stickyFrontend(f, time.Hour, fourServers[1:]...))
			r.set(all[len(all)-1]) // slots that only history explains
			if r.table.Prune() {
				r.sync()
			}
			before := r.written()
			adopting := New(f.config)
			r.adopt(adopting)
			if d := cmp.Diff(r.table.Skeleton(), adopting.Skeleton(), equateAddrs); d != "" {
				t.Errorf("the skeleton of a daemon that has not seen a Service yet: %s", d)
			}
			if n := r.start(all...); n > 0 {
				t.Errorf("a restart writes %d elements", n)
			}
			if after := r.written(); after != before {
				t.Error("a restart writes the skeleton anew")
			}
			r.listing()
			id := kernel.SetID{Family: f.config.Family, Table: TableName, Set: setServices}
			var first kernel.Entry
			if err := r.handle.Entries(t.Context(), id, func() {}, func(e kernel.Entry) { first = e }); err != nil {
				t.Fatal(err)
			}
			r.change([]kernel.SetChange{{Set: setServices, Remove: []string{first.Key}}}) // by somebody else
			c := r.table.Compare(r.list())
			if size(c) != 1 || c[0].Add[0] != first {
				t.Errorf("one entry was removed: %v", c)
			}
			r.change(c)
		})
	}
}

// written tells the states of the table apart: rules that are written anew have other handles.
func (r *rig) written() string {
	r.t.Helper()
	family := map[kernel.TableFamily]string{kernel.FamilyIPv4: "ip", kernel.FamilyIPv6: "ip6"}[r.family.config.Family]
	return r.node.run("nft -a -t list table " + family + " " + TableName)
}

// listing has nft print the table, and read what it printed. nft 1.0.6 finds no registers for an IPv6 client's key in a statement that changes a
// map (it prints such a rule, and the kernel takes it), so it is spared these lines.
func (r *rig) listing() {
	r.t.Helper()
	family := map[kernel.TableFamily]string{kernel.FamilyIPv4: "ip", kernel.FamilyIPv6: "ip6"}[r.family.config.Family]
	text := r.node.run("nft list table " + family + " " + TableName)
	file, readable := r.t.TempDir()+"/listing.nft", text
	if r.family.config.v6() {
		readable = regexp.MustCompile(`(?m)^\s*(update|delete) @affinity .*$`).ReplaceAllString(text, "")
	}
	if err := os.WriteFile(file, []byte(readable), 0o600); err != nil {
		r.t.Fatal(err)
	}
	newPlace(r.t).run("nft -c -f " + file)
}
