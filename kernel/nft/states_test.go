package nft

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

func states(t *testing.T, h *Handle, set kernel.SetID) []kernel.EntryState {
	t.Helper()
	var out []kernel.EntryState
	err := h.EntryStates(t.Context(), set, func() { out = nil }, func(s kernel.EntryState) { out = append(out, s) })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEntryStates sends one datagram to a frontend of an IPv6 table, with the longest key that there is: client and frontend. It is counted and
// remembered with the member that was chosen for it, in which key and value are in registers at once.
func TestEntryStates(t *testing.T) {
	h, _ := open(t)
	table := choosing(kernel.FamilyIPv6)
	for i := range table.Sets {
		if table.Sets[i].Name == "plans" {
			table.Sets[i].Elements[0].Value = []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: "choose"}}}
		}
	}
	syncTables(t, h, table)
	id := func(set string) kernel.SetID {
		return kernel.SetID{Family: kernel.FamilyIPv6, Table: table.Name, Set: set}
	}
	none := func(kernel.Entry) { t.Error("the table is not empty") }
	for _, set := range []string{"services", "slots"} {
		if err := h.Entries(t.Context(), id(set), func() {}, none); err != nil {
			t.Fatal(err)
		}
	}
	frontend := kernel.AppendPort(kernel.AppendProto(kernel.AppendAddr(nil, netip.IPv6Loopback()), 17), 9)
	slots := kernel.SetChange{Set: "slots"}
	for slot := range uint32(3) {
		slots.Add = append(slots.Add, kernel.Entry{Key: string(kernel.AppendNumber(frontend, 2+slot)), Value: string(kernel.AppendNumber(nil, 77))})
	}
	services := kernel.SetChange{Set: "services", Add: []kernel.Entry{{Key: string(frontend), Value: string(kernel.AppendNumber(nil, 5))}}}
	if err := h.ChangeElements(t.Context(), kernel.FamilyIPv6, table.Name, []kernel.SetChange{slots, services}); err != nil {
		t.Fatal(err)
	}

	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("set lo up: %v: %s", err, out)
	}
	conn, err := net.Dial("udp6", "[::1]:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}

	counted := []kernel.EntryState{{Entry: services.Add[0], Packets: 1, Bytes: 40 + 8 + 1}}
	if diff := cmp.Diff(counted, states(t, h, id("services"))); diff != "" {
		t.Error(diff)
	}
	remembered := states(t, h, id("affinity"))
	if len(remembered) != 1 {
		t.Fatalf("remembered are %v", remembered)
	}
	want := kernel.Entry{Key: string(kernel.AppendAddr(nil, netip.IPv6Loopback())) + string(frontend)}
	want.Value = string(kernel.AppendNumber(nil, 1)) // of numgen inc, in the rule after the one that looks slots up
	if diff := cmp.Diff(want, remembered[0].Entry); diff != "" {
		t.Error(diff)
	}
	if left := remembered[0].Expires; left > 3*time.Hour || left < 2*time.Hour {
		t.Errorf("expires in %v", left)
	}
	if have := states(t, h, id("nothing")); have != nil {
		t.Errorf("a set that is not there has %v", have)
	}
}
