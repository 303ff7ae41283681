package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

func set(name string) kernel.SetID {
	return kernel.SetID{Family: kernel.FamilyIPv4, Table: dnat.TableName, Set: name}
}

// frontendKey is the key of the n-th Service's frontend.
func frontendKey(n byte) []byte {
	return kernel.AppendPort(kernel.AppendProto(kernel.AppendAddr(nil, netip.AddrFrom4([4]byte{10, 96, 0, n})), 6), 80)
}

func (r *rig) report(name store.ObjectName) *dnat.Report {
	r.t.Helper()
	report, err := NewInspector(r.proxy, r.tables).Report(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

func words(differences []dnat.Difference) (out []string) {
	for _, d := range differences {
		out = append(out, fmt.Sprintf("%s %s %s", d.Service, d.Family, d))
	}
	return out
}

func TestReportOfAll(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.tables.PutStates(set("services"), kernel.EntryState{Entry: kernel.Entry{Key: string(frontendKey(1))}, Packets: 7})
	report := r.report(store.ObjectName{})
	if len(report.Differences) > 0 {
		t.Error(report.Differences)
	}
	var have []string
	for _, s := range report.Services {
		for _, f := range s.Frontends {
			have = append(have, fmt.Sprint(s.Name, " ", netip.AddrPortFrom(f.Address, f.Port), " ", f.Kind, " ", f.Endpoints, " ", f.Hits, " ", len(f.Slots)+len(f.Clients)))
		}
	}
	want := []string{
		"dns 10.96.0.2:80 ClusterIP 1 0 0", "dns [fd00:96::2]:80 ClusterIP 0 0 0",
		"empty 10.96.0.4:80 ClusterIP 0 0 0", "empty [fd00:96::4]:80 ClusterIP 0 0 0",
		"outside 10.96.0.6:80 ClusterIP 2 0 0", "outside 192.0.2.1:30080 NodePort 2 0 0",
		"outside [2001:db8::1]:30080 NodePort 0 0 0", "outside [fd00:96::6]:80 ClusterIP 0 0 0",
		"six 10.96.0.5:80 ClusterIP 0 0 0", "six [fd00:96::5]:80 ClusterIP 2 0 0",
		"sticky 10.96.0.3:80 ClusterIP 2 0 0", "sticky [fd00:96::3]:80 ClusterIP 0 0 0",
		"web 10.96.0.1:80 ClusterIP 3 7 0", "web [fd00:96::1]:80 ClusterIP 0 0 0",
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
}

func TestReportOfOne(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	client := string(kernel.AppendAddr(nil, netip.MustParseAddr("203.0.113.9"))) + string(frontendKey(3))
	r.tables.PutStates(set("affinity"), kernel.EntryState{Entry: kernel.Entry{Key: client, Value: "gone"}, Expires: time.Minute})
	report := r.report(named("sticky"))
	if len(report.Services) != 1 || len(report.Differences) > 0 {
		t.Fatalf("%+v", report)
	}
	f := report.Services[0].Frontends[0]
	if len(f.Slots) != 2 || f.Slots[0].Endpoint.String() != "10.244.1.8:8080" || !f.Slots[0].Local || f.Slots[1].Local || f.Plan != "random-2-offcluster-sticky-3600" {
		t.Errorf("%+v", f)
	}
	if want := []dnat.ClientState{{Client: netip.MustParseAddr("203.0.113.9"), Left: 60}}; !cmp.Equal(want, f.Clients, cmp.Comparer(func(a, b dnat.ClientState) bool { return a == b })) {
		t.Errorf("clients are %+v", f.Clients)
	}
	_, err := NewInspector(r.proxy, r.tables).Report(t.Context(), named("nobody"))
	if !errors.Is(err, ErrNoService) || !strings.Contains(err.Error(), "shop/nobody") {
		t.Errorf("of a Service that is not there: %v", err)
	}
}

func TestReportBeforeTheFirstSync(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	if _, err := NewInspector(r.proxy, r.tables).Report(t.Context(), store.ObjectName{}); !errors.Is(err, errNotSynced) {
		t.Errorf("error %v", err)
	}
}

// TestReportTellsWhatOthersChanged looks in the time before the proxy repairs it: nobody tells it.
func TestReportTellsWhatOthersChanged(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.tables.DeleteEntries(set("services"), string(frontendKey(1)))
	r.tables.PutEntries(set("services"), kernel.Entry{Key: string(frontendKey(99)), Value: string(kernel.AppendNumber(nil, 5))})
	web := "shop/web ip services: 10.96.0.1 tcp 80: kernel has nothing, should be random-3-offcluster"
	if diff := cmp.Diff([]string{" ip services: 10.96.0.99 tcp 80: kernel has plan 5, which is unknown, should be nothing", web}, words(r.report(store.ObjectName{}).Differences)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{web}, words(r.report(named("web")).Differences)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string(nil), words(r.report(named("dns")).Differences)); diff != "" {
		t.Error(diff)
	}
	r.tables.DeleteTable(dnat.TableName)
	if have := words(r.report(named("six")).Differences); len(have) < 2 || have[0] != " ip table: kernel has nothing, should be a table" {
		t.Errorf("without the table: %q", have)
	}
}

// busy is a kernel that changes while it is listed.
type busy struct {
	*kerneltest.Tables
	change func()
}

func (b busy) EntryStates(ctx context.Context, id kernel.SetID, reset func(), each func(kernel.EntryState)) error {
	b.change()
	return b.Tables.EntryStates(ctx, id, reset, each)
}

// TestReportAmongChanges must not take for a difference what was changed between the look at the Services and that at the kernel.
func TestReportAmongChanges(t *testing.T) {
	r := newRig(t, kerneltest.NewTables())
	r.begin(cluster()...)
	r.tables.DeleteEntries(set("services"), string(frontendKey(2)))
	r.tables.PutEntries(set("services"), kernel.Entry{Key: string(frontendKey(2)), Value: string(kernel.AppendNumber(nil, 5))})
	n := 0
	b := busy{r.tables, func() {
		n++
		r.tell(slice("web", "10.244.1.5", fmt.Sprintf("10.244.2.%d", n)), svc("new", 100+n), slice("new", "10.244.1.6"))
		r.settled()
	}}
	report, err := NewInspector(r.proxy, b).Report(t.Context(), store.ObjectName{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{" ip services: 10.96.0.2 tcp 80: kernel has plan 5, which is unknown, should be nothing"}
	if diff := cmp.Diff(want, words(report.Differences)); diff != "" {
		t.Error(diff)
	}
}
