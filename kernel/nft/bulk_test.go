package nft

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
)

// endpoint returns the i-th entry of the map `endpoints` of table choosing, which leads to the given port.
func endpoint(i int, to uint16) kernel.Entry {
	b := kernel.AppendAddr(nil, netip.AddrFrom4([4]byte{10, 96, byte(i >> 11), byte(i >> 3)}))
	b = kernel.AppendPort(kernel.AppendProto(b, unix.IPPROTO_TCP), 80)
	b = kernel.AppendNumber(b, uint32(i%8))
	key := len(b)
	b = kernel.AppendPort(kernel.AppendAddr(b, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), to)
	return kernel.Entry{Key: string(b[:key]), Value: string(b[key:])}
}

func endpoints(from, n int) []kernel.Entry {
	out := make([]kernel.Entry, n)
	for i := range out {
		out[i] = endpoint(from+i, 8080)
	}
	return out
}

func keys(entries []kernel.Entry) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Key
	}
	return out
}

func setChange(set string, remove []string, add ...kernel.Entry) kernel.SetChange {
	return kernel.SetChange{Set: set, Remove: remove, Add: add}
}

func changeElements(tb testing.TB, h *Handle, changes ...kernel.SetChange) {
	tb.Helper()
	if err := h.ChangeElements(tb.Context(), kernel.FamilyIPv4, "twill-test", changes); err != nil {
		tb.Fatal(err)
	}
}

// entries lists a set of table choosing.
func entries(tb testing.TB, h *Handle, set string) map[string]string {
	tb.Helper()
	have := map[string]string{}
	err := h.Entries(tb.Context(), kernel.SetID{Family: kernel.FamilyIPv4, Table: "twill-test", Set: set},
		func() { clear(have) }, func(e kernel.Entry) { have[e.Key] = e.Value })
	if err != nil {
		tb.Fatal(err)
	}
	return have
}

func asMap(entries ...kernel.Entry) map[string]string {
	m := map[string]string{}
	for _, e := range entries {
		m[e.Key] = e.Value
	}
	return m
}

// openChoosing returns a handle on an empty table choosing whose sets have been listed.
func openChoosing(t *testing.T) (*Handle, *strings.Builder) {
	t.Helper()
	h, log := open(t)
	syncTables(t, h, choosing(kernel.FamilyIPv4))
	listBulk(t, h)
	return h, log
}

func listBulk(tb testing.TB, h *Handle) {
	tb.Helper()
	for _, set := range []string{"services", "endpoints", "slots", "members"} {
		entries(tb, h, set)
	}
}

func TestChangeElements(t *testing.T) {
	h, _ := openChoosing(t)
	service := kernel.Entry{Key: endpoint(0, 0).Key[:12], Value: string(kernel.AppendNumber(nil, 5))}
	changeElements(t, h)
	changeElements(t, h, setChange("endpoints", nil, endpoint(0, 8080), endpoint(1, 8080)), setChange("services", nil, service))
	if diff := cmp.Diff(asMap(endpoint(0, 8080), endpoint(1, 8080)), entries(t, h, "endpoints")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(asMap(service), entries(t, h, "services")); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"10.96.0.0 . tcp . 80 . 1 : 10.0.0.1 . 8080", "10.96.0.0 . tcp . 80 counter packets 0 bytes 0 : 0:5"} {
		if listing := nft(t, "list", "table", "ip", "twill-test"); !strings.Contains(listing, line) {
			t.Errorf("no %q in\n%s", line, listing)
		}
	}
	// An element that is there, one that goes, one whose value changes.
	changeElements(t, h, setChange("endpoints", []string{endpoint(1, 0).Key}, endpoint(0, 8080), endpoint(1, 9090)), setChange("services", []string{service.Key}))
	if diff := cmp.Diff(asMap(endpoint(0, 8080), endpoint(1, 9090)), entries(t, h, "endpoints")); diff != "" {
		t.Error(diff)
	}
	if have := entries(t, h, "services"); len(have) > 0 {
		t.Errorf("services has %q", have)
	}
}

func TestManyMessages(t *testing.T) {
	h, _ := openChoosing(t)
	const n = 20_500 // of which 1,000 are more than 60 KiB
	all := endpoints(0, n)
	changeElements(t, h, setChange("endpoints", nil, all...))
	if diff := cmp.Diff(asMap(all...), entries(t, h, "endpoints")); diff != "" {
		t.Error(diff)
	}
	changeElements(t, h, setChange("endpoints", keys(all[100:])))
	if diff := cmp.Diff(asMap(all[:100]...), entries(t, h, "endpoints")); diff != "" {
		t.Error(diff)
	}
}

// TestChangeElementsRefused has changes that do not fit what there is: all of them stay without effect.
func TestChangeElementsRefused(t *testing.T) {
	tests := map[string]struct {
		changes []kernel.SetChange
		want    error
		says    string
	}{
		"another value": {[]kernel.SetChange{setChange("endpoints", nil, endpoint(9, 1), endpoint(0, 9090))}, unix.EEXIST, "add elements of set endpoints"},
		"missing key":   {[]kernel.SetChange{setChange("endpoints", []string{endpoint(9, 0).Key}, endpoint(8, 1))}, unix.ENOENT, "remove elements of set endpoints"},
		"second set":    {[]kernel.SetChange{setChange("endpoints", nil, endpoint(9, 1)), setChange("slots", []string{endpoint(9, 0).Key})}, unix.ENOENT, "remove elements of set slots"},
		"missing set":   {[]kernel.SetChange{setChange("nothing", nil, endpoint(9, 1))}, unix.ENOENT, "set nothing of table twill-test"},
		"key too short": {[]kernel.SetChange{setChange("endpoints", nil, kernel.Entry{Key: "abcd", Value: "efgh"})}, unix.EINVAL, "set endpoints"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := openChoosing(t)
			changeElements(t, h, setChange("endpoints", nil, endpoint(0, 8080)))
			err := h.ChangeElements(t.Context(), kernel.FamilyIPv4, "twill-test", tc.changes)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("have %v, want %v that says %q", err, tc.want, tc.says)
			}
			if diff := cmp.Diff(asMap(endpoint(0, 8080)), entries(t, h, "endpoints")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoTable(t *testing.T) {
	h, _ := open(t)
	err := h.ChangeElements(t.Context(), kernel.FamilyIPv4, "twill-test", []kernel.SetChange{setChange("endpoints", nil, endpoint(0, 1))})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("have %v, want ENOENT", err)
	}
	if have := entries(t, h, "endpoints"); len(have) > 0 {
		t.Errorf("have %q", have)
	}
}

// TestSetThatWasMadeHasToBeListed is what keeps a writer from trusting its memory when SyncTables had to make its set anew.
func TestSetThatWasMadeHasToBeListed(t *testing.T) {
	taller := choosing(kernel.FamilyIPv4)
	for i := range taller.Sets {
		if taller.Sets[i].Name == "endpoints" {
			taller.Sets[i].Size = 1 << 18
		}
	}
	other := choosing(kernel.FamilyIPv4)
	for i := range other.Sets {
		if other.Sets[i].Name == "endpoints" {
			other.Sets[i].Key[3] = kernel.TypeMark
		}
	}
	tests := map[string]struct {
		injury string
		then   kernel.Table
		want   map[string]string
	}{
		"table removed":      {"delete table ip twill-test", choosing(kernel.FamilyIPv4), map[string]string{}},
		"larger set":         {"", taller, asMap(endpoint(0, 8080))},
		"keys of other type": {"", other, map[string]string{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := openChoosing(t)
			changeElements(t, h, setChange("endpoints", nil, endpoint(0, 8080)))
			if tc.injury != "" {
				nftScript(t, tc.injury)
			}
			syncTables(t, h, tc.then)
			add := []kernel.SetChange{setChange("endpoints", nil, endpoint(1, 8080))}
			if err := h.ChangeElements(t.Context(), kernel.FamilyIPv4, "twill-test", add); !errors.Is(err, unix.ENOENT) {
				t.Errorf("have %v, want ENOENT", err)
			}
			if diff := cmp.Diff(tc.want, entries(t, h, "endpoints")); diff != "" {
				t.Error(diff)
			}
			changeElements(t, h, add...)
		})
	}
}

// TestSkeletonLeavesBulkAlone changes rules and sets around elements that SyncTables neither lists nor touches.
func TestSkeletonLeavesBulkAlone(t *testing.T) {
	h, log := openChoosing(t)
	all := endpoints(0, 3000)
	changeElements(t, h, setChange("endpoints", nil, all...))
	table := choosing(kernel.FamilyIPv4)
	syncTables(t, h, table)
	wantWrites(t, log, 1)
	table.Chains = append(table.Chains, kernel.Chain{Name: "more", Rules: []kernel.Rule{{Exprs: []kernel.Expr{
		kernel.DNAT{Fields: []kernel.Operand{kernel.FieldIPDaddr, kernel.FieldL4Proto, kernel.FieldDport, kernel.Numgen{Modulus: 9}}, Map: "endpoints"}}}}})
	syncTables(t, h, table)
	syncTables(t, h, choosing(kernel.FamilyIPv4)) // rules of all chains are written anew, since a chain goes
	h.Resync()
	syncTables(t, h, choosing(kernel.FamilyIPv4))
	wantWrites(t, log, 3)
	if diff := cmp.Diff(asMap(all...), entries(t, h, "endpoints")); diff != "" {
		t.Error(diff)
	}
	changeElements(t, h, setChange("endpoints", keys(all))) // nothing was made anew
}

// TestOwnChangesAreRemembered: a change of elements, which moves the generation, does not make SyncTables list the table.
func TestOwnChangesAreRemembered(t *testing.T) {
	h, _ := openChoosing(t)
	changeElements(t, h, setChange("endpoints", nil, endpoint(0, 8080)))
	syncTables(t, h)
	id := tableID{families[kernel.FamilyIPv4], "twill-test"}
	if h.known[id] == nil {
		t.Error("the handle forgot its table")
	}
	nftScript(t, "add table ip other")
	changeElements(t, h, setChange("endpoints", nil, endpoint(1, 8080)))
	syncTables(t, h)
	if h.known[id] != nil {
		t.Error("the handle remembers its table although somebody changed the rule set between its own changes")
	}
}

// TestEntryForEveryKey has somebody add the element `*`, which a writer can list and remove.
func TestEntryForEveryKey(t *testing.T) {
	h, _ := openChoosing(t)
	nftScript(t, "add element ip twill-test services { * : 0:7 }")
	have := entries(t, h, "services")
	if diff := cmp.Diff(asMap(kernel.Entry{Value: string(kernel.AppendNumber(nil, 7))}), have); diff != "" {
		t.Error(diff)
	}
	changeElements(t, h, setChange("services", []string{""}))
	if have := entries(t, h, "services"); len(have) > 0 {
		t.Errorf("have %q", have)
	}
}

func TestBulkContract(t *testing.T) {
	h, _ := open(t)
	kerneltest.BulkContract(t, h)
}

// TestEntriesWhileSetGrows lists a set while another handle fills it, so that its hash table is resized between the messages of a listing.
func TestEntriesWhileSetGrows(t *testing.T) {
	h, _ := openChoosing(t)
	other, _ := openHere(t)
	const there, more, piece = 5000, 60_000, 500
	first := endpoints(0, there)
	changeElements(t, h, setChange("endpoints", nil, first...))
	done := make(chan error, 1)
	go func() {
		for i := there; i < there+more; i += piece {
			err := other.ChangeElements(context.Background(), kernel.FamilyIPv4, "twill-test", []kernel.SetChange{setChange("endpoints", nil, endpoints(i, piece)...)})
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	listings := 0
	for growing := true; growing; listings++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			growing = false
		default:
		}
		have := entries(t, h, "endpoints")
		for _, e := range first {
			if have[e.Key] != e.Value {
				t.Fatalf("listing %d of %d elements lacks one that is there all the time", listings, len(have))
			}
		}
	}
	if have := entries(t, h, "endpoints"); len(have) != there+more {
		t.Errorf("have %d elements after %d listings", len(have), listings)
	}
}
