package nft

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

func list(t *testing.T) string {
	t.Helper()
	return normal(nft(t, "list", "table", "inet", "twill-test"))
}

// everythingListed is how nft prints the table that everything returns.
func everythingListed(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("testdata/everything.nft")
	if err != nil {
		t.Fatal(err)
	}
	return normal(string(b))
}

// writes returns how many transactions the handle has logged.
func writes(log *strings.Builder) int { return strings.Count(log.String(), "nftables table changed") }

func wantWrites(t *testing.T, log *strings.Builder, want int) {
	t.Helper()
	if got := writes(log); got != want {
		t.Errorf("%d transactions, want %d\n%s", got, want, log)
	}
}

func TestListing(t *testing.T) {
	h, _ := open(t)
	syncTables(t, h, everything())
	if diff := cmp.Diff(everythingListed(t), list(t)); diff != "" {
		t.Error(diff)
	}
}

func TestRestartWritesNothing(t *testing.T) {
	h, _ := open(t)
	syncTables(t, h, everything())
	again, log := openHere(t)
	syncTables(t, again, everything())
	wantWrites(t, log, 0)
}

// TestRestartAfterPackets has the kernel change counters, which are no part of what is desired.
func TestRestartAfterPackets(t *testing.T) {
	h, _ := open(t)
	table := kernel.Table{Family: kernel.FamilyInet, Name: "twill-test", Chains: []kernel.Chain{
		{Name: "out", Hook: &kernel.Hook{Type: "filter", Hook: "output"}, Rules: []kernel.Rule{{Exprs: []kernel.Expr{kernel.Counter{}}}}},
	}}
	syncTables(t, h, table)
	loopbackDatagram(t)
	if strings.Contains(list(t), "counter packets 0 ") {
		t.Fatalf("the counter did not move:\n%s", list(t))
	}
	again, log := openHere(t)
	syncTables(t, again, table)
	wantWrites(t, log, 0)
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	h, log := open(t)
	syncTables(t, h, everything())
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		table := everything()
		random.Shuffle(len(table.Sets), func(i, j int) { table.Sets[i], table.Sets[j] = table.Sets[j], table.Sets[i] })
		random.Shuffle(len(table.Chains), func(i, j int) { table.Chains[i], table.Chains[j] = table.Chains[j], table.Chains[i] })
		for _, s := range table.Sets {
			random.Shuffle(len(s.Elements), func(i, j int) { s.Elements[i], s.Elements[j] = s.Elements[j], s.Elements[i] })
		}
		h.Resync()
		syncTables(t, h, table)
	}
	wantWrites(t, log, 1)
}

// TestDrift undoes what somebody did with nft, in one transaction each.
func TestDrift(t *testing.T) {
	tests := map[string]string{
		"table deleted":             "delete table inet twill-test",
		"table dormant":             "add table inet twill-test { flags dormant; }",
		"ruleset flushed":           "flush ruleset",
		"rules flushed":             "flush table inet twill-test",
		"rules of a chain flushed":  "flush chain inet twill-test filter",
		"rule inserted":             "insert rule inet twill-test filter accept",
		"rule added":                "add rule inet twill-test post accept",
		"rule with anonymous set":   "insert rule inet twill-test filter ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport vmap { 80 : accept, 81 : drop }",
		"rule of unknown kind":      "insert rule inet twill-test filter limit rate 10/second log prefix \"x\" reject",
		"chain added":               "add chain inet twill-test extra { type filter hook input priority 0; }",
		"chain added and jumped to": "add chain inet twill-test extra; insert rule inet twill-test filter jump extra",
		"chain emptied and deleted": "flush chain inet twill-test post; delete chain inet twill-test post",
		"policy changed":            "chain inet twill-test filter { policy accept; }",
		"hook moved": "flush chain inet twill-test post; delete chain inet twill-test post; " +
			"add chain inet twill-test post { type nat hook postrouting priority 99; }",
		"element deleted":            "delete element inet twill-test marks { 0x4000 }",
		"element added":              "add element inet twill-test ports6 { tcp . 81 : fd00::5 . 81 }",
		"range deleted":              "delete element inet twill-test net4 { 10.0.1.0/24 }",
		"range added":                "add element inet twill-test net4 { 172.16.0.0/12, 255.0.0.0/8 }",
		"range of everything":        "flush set inet twill-test net6; add element inet twill-test net6 { ::/0 }",
		"concatenated range changed": "flush set inet twill-test pairs; add element inet twill-test pairs { 10.2.0.0/16 . tcp . 80-91 }",
		"map value changed":          "delete element inet twill-test ports4 { 192.0.2.1 . tcp . 8080 }; add element inet twill-test ports4 { 192.0.2.1 . tcp . 8080 : 10.0.0.66 . 80 }",
		"element comment changed":    "delete element inet twill-test ports4 { 192.0.2.1 . tcp . 8080 }; add element inet twill-test ports4 { 192.0.2.1 . tcp . 8080 comment \"x\" : 10.0.0.5 . 80 }",
		"verdict changed":            "delete element inet twill-test dispatch { \"eth1\" }; add element inet twill-test dispatch { \"eth1\" : accept }",
		"set flushed":                "flush map inet twill-test dispatch",
		"element for every key":      "add element inet twill-test marks { * }",
		"value for every key":        "add element inet twill-test dispatch { * : drop }",
		"pair for every key":         "add element inet twill-test pairs { * }",
		"set added":                  "add set inet twill-test extra { type ipv4_addr; elements = { 10.0.0.1 }; }",
		"set of other shape": "flush chain inet twill-test filter; delete set inet twill-test marks; " +
			"add set inet twill-test marks { type mark; size 32; }",
		"nothing left but the name": "delete table inet twill-test; add table inet twill-test",
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			h, log := open(t)
			syncTables(t, h, everything())
			want := list(t)
			nftScript(t, strings.ReplaceAll(script, "; ", "\n"))
			syncTables(t, h, everything())
			if diff := cmp.Diff(want, list(t)); diff != "" {
				t.Error(diff)
			}
			wantWrites(t, log, 2)
			syncTables(t, h, everything())
			wantWrites(t, log, 2)
		})
	}
}

// TestRuleRemovedOneByOne removes each rule of the table in turn.
func TestRuleRemovedOneByOne(t *testing.T) {
	h, log := open(t)
	syncTables(t, h, everything())
	want := list(t)
	repairs := 1
	for handle := range handles(t) {
		nft(t, "delete", "rule", "inet", "twill-test", handle.chain, "handle", handle.number)
		syncTables(t, h, everything())
		repairs++
		wantWrites(t, log, repairs)
		if diff := cmp.Diff(want, list(t)); diff != "" {
			t.Fatalf("after rule %v: %s", handle, diff)
		}
	}
}

func TestChangesOfTheTable(t *testing.T) {
	index := func(name string) int {
		return slices.IndexFunc(everything().Sets, func(s kernel.Set) bool { return s.Name == name })
	}
	chain := func(name string) int {
		return slices.IndexFunc(everything().Chains, func(c kernel.Chain) bool { return c.Name == name })
	}
	tests := map[string]func(*kernel.Table){
		"element added": func(t *kernel.Table) {
			s := &t.Sets[index("net4")]
			s.Elements = append(s.Elements, elem(prefix("10.0.2.0/24")))
		},
		"range grows": func(t *kernel.Table) { t.Sets[index("net4")].Elements[0] = elem(prefix("10.0.0.0/25")) },
		"map value":   func(t *kernel.Table) { t.Sets[index("ports4")].Elements[0].Value[0] = addr("10.0.0.77") },
		"set renamed and lookups with it": func(t *kernel.Table) {
			t.Sets[index("marks")].Name = "markings"
			t.Chains[chain("filter")].Rules[9].Exprs[0] = kernel.Lookup{Fields: []kernel.Operand{kernel.FieldMark}, Set: "markings"}
		},
		"set size":       func(t *kernel.Table) { t.Sets[index("marks")].Size = 64 },
		"rules swapped":  func(t *kernel.Table) { r := t.Chains[chain("filter")].Rules; r[1], r[2] = r[2], r[1] },
		"rule comment":   func(t *kernel.Table) { t.Chains[chain("post")].Rules[0].Comment = "other" },
		"chain priority": func(t *kernel.Table) { t.Chains[chain("post")].Hook.Priority = 101 },
		"chain policy":   func(t *kernel.Table) { t.Chains[chain("filter")].Hook.Drop = false },
		"jump target renamed": func(t *kernel.Table) {
			t.Chains[chain("sub")].Name = "sub2"
			r := t.Chains[chain("filter")].Rules
			r[len(r)-1].Exprs[4] = kernel.Verdict{Kind: kernel.Goto, Chain: "sub2"}
			t.Sets[index("dispatch")].Elements[0].Value[0].Verdict.Chain = "sub2"
		},
		"empty": func(t *kernel.Table) { t.Sets, t.Chains = nil, nil },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			ahead := 0 // transactions: a chain to which a verdict map leads has its rules before
			if name == "jump target renamed" {
				ahead = 1
			}
			h, log := open(t)
			changed := everything()
			change(&changed)
			syncTables(t, h, everything())
			syncTables(t, h, changed)
			wantWrites(t, log, 2+ahead)
			got := list(t)

			nft(t, "delete", "table", "inet", "twill-test")
			fresh, _ := openHere(t)
			syncTables(t, fresh, changed)
			if diff := cmp.Diff(list(t), got); diff != "" {
				t.Errorf("a changed table is not what a new one would be (-new +changed): %s", diff)
			}
			again, log := openHere(t)
			syncTables(t, again, changed)
			wantWrites(t, log, 0)
			syncTables(t, again, everything())
			syncTables(t, again, changed)
			wantWrites(t, log, 2+2*ahead)
		})
	}
}

func TestForeignElementsSurvive(t *testing.T) {
	tests := map[string]func(*kernel.Table){
		"rule changes":            func(t *kernel.Table) { t.Chains[3].Rules = t.Chains[3].Rules[:1] },
		"another set changes":     func(t *kernel.Table) { t.Sets[6].Size = 64 },
		"size of the set":         func(t *kernel.Table) { t.Sets[7].Size = 100 },
		"everything else is gone": func(t *kernel.Table) { t.Chains, t.Sets = nil, t.Sets[7:] },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := open(t)
			syncTables(t, h, everything())
			nft(t, "add", "element", "inet", "twill-test", "others", "{ 192.0.2.77, 192.0.2.78 }")
			changed := everything()
			change(&changed)
			syncTables(t, h, changed)
			got, err := h.ListElements(kernel.FamilyInet, "twill-test", "others")
			if err != nil {
				t.Fatal(err)
			}
			if want := []kernel.Element{elem(addr("192.0.2.77")), elem(addr("192.0.2.78"))}; !cmp.Equal(want, got, equateAddrs) {
				t.Error(cmp.Diff(want, got, equateAddrs))
			}
		})
	}
}

func TestForeignTablesAreLeftAlone(t *testing.T) {
	h, _ := open(t)
	const script = "table inet other { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; chain c { type filter hook input priority 0; }; }\n" +
		"table ip twill-test { chain c { }; }\n"
	nftScript(t, script)
	before := nft(t, "list", "table", "inet", "other") + nft(t, "list", "table", "ip", "twill-test")
	syncTables(t, h, everything())
	if err := h.SyncTables(t.Context(), nil, []string{"other", "twill-none"}); err != nil {
		t.Fatal(err)
	}
	after := nft(t, "list", "table", "inet", "other") + nft(t, "list", "table", "ip", "twill-test")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

func TestStaleTables(t *testing.T) {
	h, _ := open(t)
	nftScript(t, "add table inet twill-old\nadd table ip6 twill-old\nadd table inet twill-keep\n")
	if err := h.SyncTables(t.Context(), []kernel.Table{everything()}, []string{"twill-old"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("table inet twill-keep\ntable inet twill-test\n", nft(t, "list", "tables")); diff != "" {
		t.Error(diff)
	}
}

func TestDeleteTables(t *testing.T) {
	h, _ := open(t)
	nftScript(t, "add table inet twill-old\nadd table bridge twill-b\nadd table inet other\nadd table inet xtwill-\n")
	syncTables(t, h, everything())
	for range 2 {
		if err := h.DeleteTables(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("table inet other\ntable inet xtwill-\n", nft(t, "list", "tables")); diff != "" {
		t.Error(diff)
	}
	syncTables(t, h, everything())
	if diff := cmp.Diff(everythingListed(t), list(t)); diff != "" {
		t.Errorf("the handle remembers a table that it deleted: %s", diff)
	}
}

// TestRefusedTable has a table that the kernel refuses beside one that it takes.
func TestRefusedTable(t *testing.T) {
	h, _ := open(t)
	syncTables(t, h, everything())
	refused := everything()
	refused.Chains[0].Rules = append(refused.Chains[0].Rules, kernel.Rule{Exprs: []kernel.Expr{kernel.Masquerade{}}}) // not on the way of filter chains
	other := kernel.Table{Family: kernel.FamilyIPv4, Name: "twill-other"}
	err := h.SyncTables(t.Context(), []kernel.Table{refused, other}, nil)
	if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "sync table twill-test: add rule 2 to chain sub: ") {
		t.Errorf("have error %v", err)
	}
	if diff := cmp.Diff(everythingListed(t), list(t)); diff != "" {
		t.Errorf("a refused transaction had an effect: %s", diff)
	}
	if tables := nft(t, "list", "tables"); !strings.Contains(tables, "table ip twill-other") {
		t.Errorf("the other table was not synced: %s", tables)
	}
	syncTables(t, h, everything(), other)
}

func TestCancelled(t *testing.T) {
	h, log := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.SyncTables(ctx, []kernel.Table{everything()}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want %v", err, context.Canceled)
	}
	wantWrites(t, log, 0)
}

// TestManyElements needs many messages, a batch larger than a socket's default buffers, and grows and shrinks the set.
func TestManyElements(t *testing.T) {
	h, log := open(t)
	table := manyElements(50_000)
	syncTables(t, h, table)
	again, log2 := openHere(t)
	syncTables(t, again, table)
	wantWrites(t, log2, 0)
	syncTables(t, h, manyElements(10))
	syncTables(t, h, table)
	wantWrites(t, log, 3)
	got, err := h.ListElements(kernel.FamilyInet, "twill-test", "ports")
	if err != nil || len(got) != 50_000 {
		t.Errorf("%d elements, error %v", len(got), err)
	}
}

// TestCommentsAreNotWorthAWrite changes comments that the kernel cannot change in place.
func TestCommentsAreNotWorthAWrite(t *testing.T) {
	h, log := open(t)
	syncTables(t, h, everything())
	table := everything()
	table.Sets[0].Comment, table.Chains[0].Comment = "new", "new"
	syncTables(t, h, table)
	wantWrites(t, log, 1)
}

// TestSyncWhileOthersWrite has another program change its own table a thousand times a second.
func TestSyncWhileOthersWrite(t *testing.T) {
	h, _ := open(t)
	other, _ := openHere(t)
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		tick := time.NewTicker(3 * time.Millisecond) // more than a listing takes with the race detector
		defer tick.Stop()
		table := kernel.Table{Family: kernel.FamilyInet, Name: "busy", Sets: []kernel.Set{{Name: "s", Key: []kernel.Type{kernel.TypeMark}}}}
		for i := uint32(0); ; i++ {
			table.Sets[0].Elements = []kernel.Element{elem(number(i))}
			if err := other.SyncTables(context.Background(), []kernel.Table{table}, nil); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	for i := range 50 {
		table := everything()
		table.Sets[6].Size = uint32(i + 1)
		syncTables(t, h, table)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
