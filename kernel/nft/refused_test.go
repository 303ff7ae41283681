package nft

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
)

// closed drops datagrams to 127.0.0.1, by way of a chain and a range of ports that no other variant has. The range of the variant before is still there, as in tables of
// policies: a packet may be on its way from the chain to the set when the table changes.
func closed(variant int) kernel.Table {
	name := fmt.Sprintf("sub%d", variant)
	ports := func(variant int) kernel.Element {
		key := func(port uint32) []kernel.Datum {
			return []kernel.Datum{{Number: uint32(variant)}, {Number: 17}, {Number: port}}
		}
		return kernel.Element{Key: key(1), KeyEnd: key(60_000)}
	}
	return kernel.Table{Family: kernel.FamilyInet, Name: "twill-gate",
		Sets: []kernel.Set{
			{Name: "subjects", Key: []kernel.Type{kernel.TypeIPv4Addr}, Value: []kernel.Type{kernel.TypeVerdict}, Elements: []kernel.Element{
				{Key: []kernel.Datum{addr("127.0.0.1")}, Value: []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Goto, Chain: name}}}}}},
			{Name: "ranges", Key: []kernel.Type{kernel.TypeNumber, kernel.TypeInetProto, kernel.TypeInetService}, Interval: true, Ahead: true,
				Elements: []kernel.Element{ports(variant), ports(variant - 1)}},
		},
		Chains: []kernel.Chain{
			{Name: "output", Hook: &kernel.Hook{Type: "filter", Hook: "output"}, Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldIPDaddr}, Map: "subjects"}}}}},
			{Name: name, Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.Lookup{Fields: []kernel.Operand{kernel.Numgen{Modulus: 1, Offset: uint32(variant)}, kernel.FieldL4Proto, kernel.FieldDport}, Set: "ranges"},
					kernel.Verdict{Kind: kernel.Drop}}}}},
		},
	}
}

// TestPacketsAreRefusedThroughout sends datagrams that each table drops. None gets out while one table becomes the next.
func TestPacketsAreRefusedThroughout(t *testing.T) {
	h, log := open(t)
	setLoUp(t)
	syncTables(t, h, closed(1))
	sender, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	if _, err := sender.Write([]byte("x")); err == nil {
		t.Fatal("the table lets it out")
	}
	stop := flood(sender)
	const changes = 200
	for i := range changes {
		syncTables(t, h, closed(i+2))
	}
	sent, dropped := stop()
	t.Logf("%d datagrams during %d changes", sent, changes)
	if passed := sent - dropped; passed > 0 || sent < changes {
		t.Errorf("%d of %d datagrams got out", passed, sent)
	}
	wantWrites(t, log, 2*changes+1) // what nothing leads to yet comes first
}

// TestWhatIsNewIsInTheWay has a table that somebody else has changed so that what is new cannot be made before what goes.
func TestWhatIsNewIsInTheWay(t *testing.T) {
	for name, script := range map[string]string{
		"a range that overlaps": "flush set inet twill-gate ranges; add element inet twill-gate ranges { 2 . udp . 1-100 }; " +
			"flush map inet twill-gate subjects",
		"a chain with a hook": "add chain inet twill-gate sub2 { type filter hook input priority 0; }",
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			syncTables(t, h, closed(1))
			nftScript(t, strings.ReplaceAll(script, "; ", "\n"))
			h.Resync()
			syncTables(t, h, closed(2))
			show := func() string { return nft(t, "list", "table", "inet", "twill-gate") }
			have := show()
			fresh, _ := open(t)
			syncTables(t, fresh, closed(2))
			if diff := cmp.Diff(show(), have); diff != "" {
				t.Errorf("it is not what a new one would be (-new +changed): %s", diff)
			}
		})
	}
}
