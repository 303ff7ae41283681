package nft

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// judging returns a table that judges packets by whose address they bear: what is known of an address is a number, a pair of numbers leads to a third
// one, and that one has ports. In the test, packets to an address bear what a policy for their sender would look for.
func judging() kernel.Table {
	type operands = []kernel.Operand
	type types = []kernel.Type
	priority := types{kernel.TypePriority}
	verdict := types{kernel.TypeVerdict}
	rule := func(exprs ...kernel.Expr) kernel.Rule { return kernel.Rule{Exprs: exprs} }
	numbered := func(from, to string, n uint32) kernel.Element {
		return kernel.Element{Key: []kernel.Datum{addr(from)}, KeyEnd: []kernel.Datum{addr(to)}, Value: []kernel.Datum{number(n)}}
	}
	leads := func(from string, v kernel.Verdict) kernel.Element {
		return kernel.Element{Key: []kernel.Datum{addr(from)}, Value: []kernel.Datum{{Verdict: &v}}}
	}
	ports := func(of, protocol, first, last uint32) kernel.Element {
		return kernel.Element{Key: []kernel.Datum{number(of), number(protocol), number(first)}, KeyEnd: []kernel.Datum{number(of), number(protocol), number(last)}}
	}
	l4 := operands{kernel.FieldPriority, kernel.FieldL4Proto, kernel.FieldDport}
	subject := kernel.Numgen{Modulus: 1, Offset: 70000}
	return kernel.Table{Family: kernel.FamilyInet, Name: "twill-test", Sets: []kernel.Set{
		{Name: "networks4", Key: types{kernel.TypeIPv4Addr}, Value: priority, Interval: true, Elements: []kernel.Element{
			numbered("127.0.0.0", "127.0.0.9", 3), numbered("127.0.0.10", "127.0.0.19", 4), numbered("255.0.0.0", "255.255.255.255", 5)}},
		{Name: "networks6", Key: types{kernel.TypeIPv6Addr}, Value: priority, Interval: true, Elements: []kernel.Element{numbered("fd00::", "fd00::ffff", 3)}},
		{Name: "pods4", Key: types{kernel.TypeIPv4Addr}, Value: priority, Bulk: true},
		{Name: "pods6", Key: types{kernel.TypeIPv6Addr}, Value: priority, Bulk: true},
		{Name: "egress4", Key: types{kernel.TypeIPv4Addr}, Value: verdict, Elements: []kernel.Element{
			leads("127.0.0.1", kernel.Verdict{Kind: kernel.Jump, Chain: "egress"}), leads("10.0.0.2", kernel.Verdict{Kind: kernel.Jump, Chain: "open"})}},
		{Name: "self4", Key: types{kernel.TypeIPv4Addr, kernel.TypeIPv4Addr}, Elements: []kernel.Element{elem(addr("10.0.0.2"), addr("10.0.0.2"))}},
		{Name: "pairs", Key: types{kernel.TypeNumber, kernel.TypePriority}, Value: priority, Bulk: true},
		{Name: "ports", Key: types{kernel.TypePriority, kernel.TypeInetProto, kernel.TypeInetService}, Bulk: true},
		{Name: "ranges", Key: types{kernel.TypePriority, kernel.TypeInetProto, kernel.TypeInetService}, Interval: true, Elements: []kernel.Element{
			ports(0x01020304, 17, 1000, 1999), ports(0x01020304, 6, 1, 65535), ports(0x04030201, 17, 0, 65535)}},
	}, Chains: []kernel.Chain{
		{Name: "out", Hook: &kernel.Hook{Type: "filter", Hook: "output"}, Rules: []kernel.Rule{
			rule(kernel.Compare{Field: kernel.FieldCTMark, Mask: 0x80, Value: number(0x80)}, kernel.Verdict{Kind: kernel.Drop}),
			rule(kernel.Lookup{Fields: operands{kernel.FieldIPSaddr, kernel.FieldIPDaddr}, Set: "self4"}, kernel.Verdict{Kind: kernel.Accept}),
			rule(kernel.VerdictMap{Fields: operands{kernel.FieldIPSaddr}, Map: "egress4"}),
		}},
		{Name: "open"},
		{Name: "egress", Rules: []kernel.Rule{
			rule(kernel.SetPriority{}),
			rule(kernel.SetPriority{Fields: operands{kernel.FieldIPDaddr}, Map: "networks4"}),
			rule(kernel.SetPriority{Fields: operands{kernel.FieldIP6Daddr}, Map: "networks6"}),
			rule(kernel.SetPriority{Fields: operands{kernel.FieldIPDaddr}, Map: "pods4"}),
			rule(kernel.SetPriority{Fields: operands{kernel.FieldIP6Daddr}, Map: "pods6"}),
			rule(kernel.SetPriority{Fields: operands{subject, kernel.FieldPriority}, Map: "pairs"}, kernel.Verdict{Kind: kernel.Goto, Chain: "by-ports"}),
			rule(kernel.SetPriority{}, kernel.Counter{}, kernel.Verdict{Kind: kernel.Drop}),
		}},
		{Name: "by-ports", Rules: []kernel.Rule{
			rule(kernel.Lookup{Fields: l4, Set: "ports"}, kernel.SetPriority{}, kernel.Verdict{Kind: kernel.Accept}),
			rule(kernel.Lookup{Fields: l4, Set: "ranges"}, kernel.SetPriority{}, kernel.Verdict{Kind: kernel.Accept}),
			rule(kernel.Counter{}, kernel.Limit{Rate: 10, Burst: 20}, kernel.Log{Group: 84, Prefix: "egress", Length: 128}),
			rule(kernel.Verdict{Kind: kernel.Drop}),
		}},
	}}
}

func addressed(a string, n uint32) kernel.Entry {
	return kernel.Entry{Key: string(kernel.AppendAddr(nil, netip.MustParseAddr(a))), Value: string(kernel.AppendNumber(nil, n))}
}

func pair(a, b, n uint32) kernel.Entry {
	return kernel.Entry{Key: string(kernel.AppendNumber(kernel.AppendNumber(nil, a), b)), Value: string(kernel.AppendNumber(nil, n))}
}

func portOf(n uint32, protocol uint8, port uint16) kernel.Entry {
	return kernel.Entry{Key: string(kernel.AppendPort(kernel.AppendProto(kernel.AppendNumber(nil, n), protocol), port))}
}

var judgingEntries = map[string][]kernel.Entry{
	"pods4": {addressed("127.0.0.5", 6), addressed("127.0.0.6", 7), addressed("10.1.1.1", 1<<31)},
	"pods6": {addressed("fd00::5", 6)},
	"pairs": {pair(70000, 3, 0x01020304), pair(70000, 6, 0x04030201), pair(70001, 4, 0x04030201), pair(70000, 7, 9)},
	"ports": {portOf(9, unix.IPPROTO_UDP, 53), portOf(0x01020304, unix.IPPROTO_UDP, 53), portOf(9, unix.IPPROTO_SCTP, 54)},
}

// openJudging returns a handle on the table judging with all its elements.
func openJudging(t *testing.T) *Handle {
	t.Helper()
	h, _ := open(t)
	syncTables(t, h, judging())
	var changes []kernel.SetChange
	for set, add := range judgingEntries {
		if have := judgingSet(t, h, set); len(have) > 0 {
			t.Fatalf("a new set %s has %v", set, have)
		}
		changes = append(changes, kernel.SetChange{Set: set, Add: add})
	}
	changeJudging(t, h, changes...)
	return h
}

func changeJudging(t *testing.T, h *Handle, changes ...kernel.SetChange) {
	t.Helper()
	if err := h.ChangeElements(t.Context(), kernel.FamilyInet, "twill-test", changes); err != nil {
		t.Fatal(err)
	}
}

func judgingSet(t *testing.T, h *Handle, set string) map[string]string {
	t.Helper()
	have := map[string]string{}
	err := h.Entries(t.Context(), kernel.SetID{Family: kernel.FamilyInet, Table: "twill-test", Set: set}, func() { clear(have) },
		func(e kernel.Entry) { have[e.Key] = e.Value })
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// TestJudgingListing has nft print all of it, and take it back.
func TestJudgingListing(t *testing.T) {
	h := openJudging(t)
	want, err := os.ReadFile("testdata/judging.nft")
	if err != nil {
		t.Fatal(err)
	}
	listing := nft(t, "list", "table", "inet", "twill-test")
	if diff := cmp.Diff(normal(string(want)), normal(listing)); diff != "" {
		t.Error(diff)
	}
	for set, entries := range judgingEntries {
		if diff := cmp.Diff(asMap(entries...), judgingSet(t, h, set)); diff != "" {
			t.Error(diff)
		}
	}
	again, log := openHere(t)
	syncTables(t, again, judging())
	wantWrites(t, log, 0)
	file := filepath.Join(t.TempDir(), "listing.nft")
	if err := os.WriteFile(file, []byte(listing), 0o600); err != nil {
		t.Fatal(err)
	}
	nft(t, "delete", "table", "inet", "twill-test")
	nft(t, "-c", "-f", file)
}

// TestRangesOfNumbers reads, changes and removes elements whose keys have numbers in the network's byte order.
func TestRangesOfNumbers(t *testing.T) {
	h := openJudging(t)
	want := judging().Sets[8].Elements
	have, err := h.ListElements(kernel.FamilyInet, "twill-test", "ranges")
	if err != nil {
		t.Fatal(err)
	}
	byKey := []kernel.Element{want[1], want[0], want[2]}
	if diff := cmp.Diff(byKey, have, equateAddrs); diff != "" {
		t.Error(diff)
	}
	remove := map[string][]kernel.Element{"ranges": {want[0]}}
	for range 2 { // the second time it is not there
		if err := h.DeleteElements(t.Context(), kernel.FamilyInet, "twill-test", remove); err != nil {
			t.Fatal(err)
		}
	}
	if listing := nft(t, "list", "set", "inet", "twill-test", "ranges"); strings.Contains(listing, "1000-1999") || !strings.Contains(listing, "tcp . 1-65535") {
		t.Error(listing)
	}
	nftScript(t, "add element inet twill-test ranges { 102:304 . udp . 1000-1998 }")
	syncTables(t, h, judging())
	if have, err = h.ListElements(kernel.FamilyInet, "twill-test", "ranges"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byKey, have, equateAddrs); diff != "" {
		t.Error(diff)
	}
}

// TestJudging sends datagrams, of which those that are dropped on their way out are errors of the send.
func TestJudging(t *testing.T) {
	h := openJudging(t)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("set lo up: %v: %s", err, out)
	}
	tests := []struct {
		name, to string
		want     bool
	}{
		{"port in a range", "127.0.0.1:1000", true},
		{"last port of a range", "127.0.0.1:1999", true},
		{"port behind a range", "127.0.0.1:2000", false},
		{"single port", "127.0.0.9:53", true},
		{"range with the bytes of its number reversed", "127.0.0.5:7", true},
		{"pair of another subject", "127.0.0.10:1000", false},
		{"pod within a network", "127.0.0.6:1000", false},
		{"single port of a pod", "127.0.0.6:53", true},
		{"single port of another protocol", "127.0.0.6:54", false},
		{"unknown address", "127.0.0.20:1000", false},
	}
	send := func(to string) bool {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err == nil
	}
	refused := uint64(0)
	for _, tt := range tests {
		if have := send(tt.to); have != tt.want {
			t.Errorf("%s: a datagram to %s is let out: %v, want %v", tt.name, tt.to, have, tt.want)
		}
		if !tt.want {
			refused++
		}
	}
	counts, err := h.Counters(t.Context(), kernel.FamilyInet, "twill-test", "egress", "by-ports")
	if err != nil || len(counts) != 2 || counts[0].Packets != 2 || counts[1].Packets < refused-2 { // which counts ICMP errors as well
		t.Errorf("counted %v, %v; want 2 packets and %d", counts, err, refused-2)
	}
	// A pod's change is one removal and one addition.
	changeJudging(t, h, kernel.SetChange{Set: "pods4", Remove: []string{addressed("127.0.0.6", 0).Key}, Add: []kernel.Entry{addressed("127.0.0.6", 3)}})
	if !send("127.0.0.6:1000") {
		t.Error("a pod that has become what is let out is not")
	}
}

// TestDisjointRangesChange goes from one random division of the address space to another, in which ranges split, join, move their ends and change
// their numbers, each time in one transaction.
func TestDisjointRangesChange(t *testing.T) {
	h, _ := open(t)
	random := rand.New(rand.NewPCG(1, 2))
	at := func(n int) kernel.Datum { return addr(netip.AddrFrom4([4]byte{byte(n), 0, 0, 0}).String()) }
	last := func(n int) kernel.Datum { return addr(netip.AddrFrom4([4]byte{byte(n), 255, 255, 255}).String()) }
	table := kernel.Table{Family: kernel.FamilyInet, Name: "twill-test", Sets: []kernel.Set{
		{Name: "networks", Key: []kernel.Type{kernel.TypeIPv4Addr}, Value: []kernel.Type{kernel.TypePriority}, Interval: true}}}
	for range 100 {
		var want []kernel.Element
		for n := random.IntN(8); n < 256; n += random.IntN(2) * random.IntN(40) { // many of them adjacent
			end := min(n+random.IntN(20), 255)
			want = append(want, kernel.Element{Key: []kernel.Datum{at(n)}, KeyEnd: []kernel.Datum{last(end)}, Value: []kernel.Datum{number(random.Uint32N(3))}})
			n = end + 1
		}
		table.Sets[0].Elements = want
		syncTables(t, h, table)
		have, err := h.ListElements(kernel.FamilyInet, "twill-test", "networks")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, have, equateAddrs); diff != "" {
			t.Fatal(diff)
		}
	}
}
