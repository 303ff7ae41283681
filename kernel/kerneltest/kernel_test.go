package kerneltest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

var (
	vtep     = kernel.MAC{2, 0, 0, 0, 0, 1}
	device   = kernel.Link{Name: "flannel.1", Up: true, MTU: 1450, MAC: vtep, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/32")}, VXLAN: &kernel.VXLAN{VNI: 1}}
	entry    = kernel.FDBEntry{Link: "flannel.1", MAC: vtep, Dst: netip.MustParseAddr("192.0.2.2")}
	neighbor = kernel.Neighbor{Link: "flannel.1", IP: netip.MustParseAddr("10.0.1.0"), MAC: vtep}
	route    = onLink("10.0.1.0/24", "10.0.1.0")
)

const dump = `fdb 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.2
link flannel.1 up mtu 1450 mac 02:00:00:00:00:01 addr 10.0.0.0/32 vxlan id 1 port 8472
neighbor 10.0.1.0 dev flannel.1 lladdr 02:00:00:00:00:01
route 10.0.1.0/24 via 10.0.1.0 dev flannel.1 onlink
`

func onLink(dst, via string) kernel.Route {
	return kernel.Route{Dst: netip.MustParsePrefix(dst), NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr(via), Link: "flannel.1", OnLink: true}}}
}

func put[V any](v V) []kernel.Change[V] { return []kernel.Change[V]{{Value: v}} }

func del[V any](v V) []kernel.Change[V] { return []kernel.Change[V]{{Value: v, Delete: true}} }

// onePeer is a kernel that holds all four objects.
func onePeer(t *testing.T) *kerneltest.Kernel {
	t.Helper()
	k, ctx := kerneltest.New(), t.Context()
	for _, errs := range [][]error{
		k.ApplyLinks(ctx, put(device)), k.ApplyFDB(ctx, put(entry)), k.ApplyNeighbors(ctx, put(neighbor)), k.ApplyRoutes(ctx, put(route)),
	} {
		if errs != nil {
			t.Fatal(errs)
		}
	}
	return k
}

func TestDumpIsSortedText(t *testing.T) {
	k := onePeer(t)
	if diff := cmp.Diff(dump, k.Dump()); diff != "" {
		t.Errorf("dump (-want +got):\n%s", diff)
	}
	k.PutLink(kernel.Link{Name: "eth0", MTU: 1500, MAC: vtep}, kerneltest.Foreign)
	if line := "link eth0 down mtu 1500 mac 02:00:00:00:00:01 foreign\n"; !strings.Contains(k.Dump(), line) {
		t.Errorf("no line %q in:\n%s", line, k.Dump())
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name  string
		apply func(ctx context.Context, k *kerneltest.Kernel) []error
		want  error
	}{
		{"fdb entry without its link", func(ctx context.Context, k *kerneltest.Kernel) []error {
			k.DeleteLink("flannel.1")
			return k.ApplyFDB(ctx, put(entry))
		}, kerneltest.ErrNoDevice},
		{"fdb entry on a bridge", func(ctx context.Context, k *kerneltest.Kernel) []error {
			k.PutLink(kernel.Link{Name: "cni0", Bridge: &kernel.Bridge{}}, kerneltest.Ours)
			return k.ApplyFDB(ctx, put(kernel.FDBEntry{Link: "cni0", MAC: vtep}))
		}, kerneltest.ErrNotVXLAN},
		{"neighbor without its link", func(ctx context.Context, k *kerneltest.Kernel) []error {
			k.DeleteLink("flannel.1")
			return k.ApplyNeighbors(ctx, put(neighbor))
		}, kerneltest.ErrNoDevice},
		{"route without its link", func(ctx context.Context, k *kerneltest.Kernel) []error {
			k.DeleteLink("flannel.1")
			return k.ApplyRoutes(ctx, put(route))
		}, kerneltest.ErrNoDevice},
		{"route on a link that is down", func(ctx context.Context, k *kerneltest.Kernel) []error {
			k.SetUp("flannel.1", false)
			return k.ApplyRoutes(ctx, put(route))
		}, kerneltest.ErrDown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if errs := tt.apply(t.Context(), onePeer(t)); len(errs) != 1 || !errors.Is(errs[0], tt.want) {
				t.Errorf("errors %v, want %v", errs, tt.want)
			}
		})
	}
}

func TestCascadesAndTheirNotifications(t *testing.T) {
	tests := []struct {
		name   string
		do     func(k *kerneltest.Kernel)
		dump   string
		events []kernel.Event
	}{
		{"link deleted: the IPv4 route goes silently", func(k *kerneltest.Kernel) { k.DeleteLink("flannel.1") }, "",
			[]kernel.Event{
				{Kind: kernel.KindNeighbor, Deleted: true, Neighbor: neighbor},
				{Kind: kernel.KindFDB, Deleted: true, FDB: entry},
				{Kind: kernel.KindLink, Deleted: true, Link: "flannel.1"},
			}},
		{"link set down: permanent FDB entries stay", func(k *kerneltest.Kernel) { k.SetUp("flannel.1", false) },
			`fdb 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.2
link flannel.1 down mtu 1450 mac 02:00:00:00:00:01 addr 10.0.0.0/32 vxlan id 1 port 8472
`,
			[]kernel.Event{
				{Kind: kernel.KindNeighbor, Deleted: true, Neighbor: neighbor},
				{Kind: kernel.KindLink, Link: "flannel.1"},
			}},
		{"another VNI: the device is made again", func(k *kerneltest.Kernel) {
			other := device
			other.VXLAN = &kernel.VXLAN{VNI: 2}
			k.PutLink(other, kerneltest.Ours)
		}, "link flannel.1 up mtu 1450 mac 02:00:00:00:00:01 addr 10.0.0.0/32 vxlan id 2 port 8472\n",
			[]kernel.Event{
				{Kind: kernel.KindNeighbor, Deleted: true, Neighbor: neighbor},
				{Kind: kernel.KindFDB, Deleted: true, FDB: entry},
				{Kind: kernel.KindLink, Deleted: true, Link: "flannel.1"},
				{Kind: kernel.KindLink, Link: "flannel.1", Intact: true},
			}},
		{"address added", func(k *kerneltest.Kernel) {
			other := device
			other.Addresses = append([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, device.Addresses...)
			k.PutLink(other, kerneltest.Ours)
		}, `fdb 02:00:00:00:00:01 dev flannel.1 dst 192.0.2.2
link flannel.1 up mtu 1450 mac 02:00:00:00:00:01 addr 10.0.0.0/32 addr 10.0.0.1/32 vxlan id 1 port 8472
neighbor 10.0.1.0 dev flannel.1 lladdr 02:00:00:00:00:01
route 10.0.1.0/24 via 10.0.1.0 dev flannel.1 onlink
`, []kernel.Event{{Kind: kernel.KindLink, Link: "flannel.1", Intact: true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := onePeer(t)
			var events []kernel.Event
			k.Observe(func(ev kernel.Event) { events = append(events, ev) })
			tt.do(k)
			if diff := cmp.Diff(tt.dump, k.Dump()); diff != "" {
				t.Errorf("dump (-want +got):\n%s", diff)
			}
			compare := cmp.Comparer(func(a, b kernel.Event) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
			if diff := cmp.Diff(tt.events, events, compare); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIPv6RoutesGoWithANotification(t *testing.T) {
	k := onePeer(t)
	v6 := onLink("fd00:1::/64", "fd00:1::")
	if err := k.PutRoute(v6, kerneltest.Ours); err != nil {
		t.Fatal(err)
	}
	var gone []string
	k.Observe(func(ev kernel.Event) {
		if ev.Kind == kernel.KindRoute && ev.Deleted {
			gone = append(gone, ev.Route.Dst.String())
		}
	})
	k.SetUp("flannel.1", false)
	if diff := cmp.Diff([]string{"fd00:1::/64"}, gone); diff != "" {
		t.Errorf("routes notified as deleted (-want +got):\n%s", diff)
	}
}

func TestViolations(t *testing.T) {
	k, ctx := kerneltest.New(), t.Context()
	k.ApplyLinks(ctx, put(device))
	k.ApplyRoutes(ctx, put(route))
	k.ApplyNeighbors(ctx, put(neighbor))
	k.ApplyFDB(ctx, put(entry))
	k.ApplyFDB(ctx, del(entry))
	k.ApplyNeighbors(ctx, del(neighbor))
	want := []string{
		"route 10.0.1.0/24 was made before neighbor 10.0.1.0 dev flannel.1",
		"neighbor 10.0.1.0 dev flannel.1 was made before fdb 02:00:00:00:00:01 dev flannel.1",
		"fdb 02:00:00:00:00:01 dev flannel.1 was removed while a neighbor uses it",
		"neighbor 10.0.1.0 dev flannel.1 was removed while a route uses it",
	}
	if diff := cmp.Diff(want, k.Violations()); diff != "" {
		t.Errorf("violations (-want +got):\n%s", diff)
	}
	if v := onePeer(t).Violations(); len(v) != 0 {
		t.Errorf("violations of the right order: %q", v)
	}
}

func TestFailures(t *testing.T) {
	k, ctx, refused := onePeer(t), t.Context(), errors.New("refused")
	k.FailNext(kerneltest.DumpRoutes, kernel.ErrStale)
	if _, err := k.Routes(ctx, nil); !errors.Is(err, kernel.ErrStale) {
		t.Errorf("dump: error %v", err)
	}
	if routes, err := k.Routes(ctx, nil); err != nil || len(routes) != 1 {
		t.Errorf("second dump: %v, error %v", routes, err)
	}
	k.FailObject("route 10.0.1.0/24", refused)
	errs := k.ApplyRoutes(ctx, append(put(onLink("10.0.2.0/24", "10.0.1.0")), del(route)...))
	if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], refused) {
		t.Errorf("errors %v: the second alone should fail", errs)
	}
	if errs := k.ApplyRoutes(ctx, del(route)); errs != nil {
		t.Errorf("second try: %v", errs)
	}
	if errs := k.ApplyRoutes(ctx, del(route)); errs != nil {
		t.Errorf("removing what is not there: %v", errs)
	}
}

func TestDumpsCoverOursAlone(t *testing.T) {
	k, ctx := onePeer(t), t.Context()
	k.PutLink(kernel.Link{Name: "eth0", Up: true}, kerneltest.Foreign)
	if err := k.PutRoute(kernel.Route{Dst: netip.MustParsePrefix("10.9.0.0/24"), NextHops: []kernel.NextHop{{Link: "eth0"}}}, kerneltest.Foreign); err != nil {
		t.Fatal(err)
	}
	links, _ := k.Links(ctx, nil)
	named, _ := k.Links(ctx, []string{"eth0"})
	routes, _ := k.Routes(ctx, []string{"eth0"})
	neighbors, _ := k.Neighbors(ctx, []string{"eth0"})
	fdb, _ := k.FDB(ctx, []string{"flannel.1"})
	got := []int{len(links), len(named), len(routes), len(neighbors), len(fdb)}
	if diff := cmp.Diff([]int{1, 2, 1, 0, 1}, got); diff != "" {
		t.Errorf("numbers of links, named links, routes, neighbors, fdb entries (-want +got):\n%s", diff)
	}
	for _, l := range named {
		if l.Unmarked != (l.Name == "eth0") {
			t.Errorf("link %s: unmarked %v", l.Name, l.Unmarked)
		}
	}
	if errs := k.ApplyRoutes(ctx, []kernel.Change[kernel.Route]{{Value: kernel.Route{Dst: netip.MustParsePrefix("10.9.0.0/24")}, Delete: true}}); errs != nil {
		t.Fatal(errs)
	}
	if routes, _ := k.Routes(ctx, nil); len(routes) != 1 {
		t.Error("a foreign route is gone")
	}
}

func TestTables(t *testing.T) {
	tables, ctx := kerneltest.NewTables(), t.Context()
	own := kernel.Table{Name: "twill-masquerade", Chains: []kernel.Chain{{Name: "postrouting", Rules: []kernel.Rule{{}}}}}
	tables.PutTable(kernel.Table{Name: "docker"})
	for range 2 {
		if err := tables.SyncTables(ctx, []kernel.Table{own}, []string{"docker", "twill-old"}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("table docker\ntable twill-masquerade\n  chain postrouting: 1 rules\n", tables.Dump()); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if n := tables.Writes(); n != 1 {
		t.Errorf("%d writes, want 1: the second call found nothing to do", n)
	}
}
