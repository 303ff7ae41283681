package nft

import (
	"encoding/binary"
	"github.com/google/go-cmp/cmp/cmpopts"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// inNamespace moves the test's thread into a new network namespace, which vanishes with the thread at the test's end.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends a locked thread with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (tests of kernel/nft need root): %v", err)
	}
}

// open returns a handle in a new network namespace, and its log.
func open(t *testing.T) (*Handle, *strings.Builder) {
	t.Helper()
	inNamespace(t)
	return openHere(t)
}

func openHere(t *testing.T) (*Handle, *strings.Builder) {
	t.Helper()
	var log strings.Builder
	h, err := Open(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, &log
}

// nft runs the nft program in the test's namespace, since the test's thread is in it, and returns what it prints.
func nft(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// nftScript feeds commands to nft.
func nftScript(t *testing.T, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script.nft")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	nft(t, "-f", file)
}

func syncTables(t *testing.T, h *Handle, tables ...kernel.Table) {
	t.Helper()
	if err := h.SyncTables(t.Context(), tables, nil); err != nil {
		t.Fatal(err)
	}
}

func addr(s string) kernel.Datum      { return kernel.Datum{Addr: netip.MustParseAddr(s)} }
func prefix(s string) kernel.Datum    { return kernel.Datum{Prefix: netip.MustParsePrefix(s)} }
func number(n uint32) kernel.Datum    { return kernel.Datum{Number: n} }
func ifname(name string) kernel.Datum { return kernel.Datum{Name: name} }

func elem(key ...kernel.Datum) kernel.Element { return kernel.Element{Key: key} }

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// normal brings a listing of nft into an order of its own: the kernel lists sets and chains by age and the elements of hash sets
// at random.
func normal(listing string) string {
	elements := regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	listing = elements.ReplaceAllStringFunc(listing, func(s string) string {
		list := strings.Split(elements.FindStringSubmatch(s)[1], ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		slices.Sort(list)
		return "elements = { " + strings.Join(list, ", ") + " }"
	})
	head, rest, _ := strings.Cut(strings.TrimSuffix(listing, "}\n"), "\n")
	blocks := strings.Split(strings.TrimSpace(rest), "\n\n\t")
	slices.Sort(blocks)
	return head + "\n" + strings.Join(blocks, "\n\n")
}

// loopbackDatagram sends one datagram to the namespace's own loopback device.
func loopbackDatagram(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("set lo up: %v: %s", err, out)
	}
	conn, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

// ruleHandle names one rule in the kernel.
type ruleHandle struct{ chain, number string }

// handles returns the rules' handles as nft lists them at this moment for the next rule of each chain: a rule that was written
// anew has a new handle.
func handles(t *testing.T) func(yield func(ruleHandle) bool) {
	t.Helper()
	read := func() []ruleHandle {
		var out []ruleHandle
		chain := ""
		for line := range strings.Lines(nft(t, "-a", "list", "table", "inet", "twill-test")) {
			fields := strings.Fields(line)
			if len(fields) < 3 {
				continue
			}
			if fields[0] == "chain" {
				chain = fields[1]
			} else if chain != "" && fields[len(fields)-2] == "handle" {
				out = append(out, ruleHandle{chain, fields[len(fields)-1]})
			}
		}
		return out
	}
	return func(yield func(ruleHandle) bool) {
		for i := range read() {
			if !yield(read()[i]) {
				return
			}
		}
	}
}

// manyElements returns a table whose map has n elements with comments.
func manyElements(n int) kernel.Table {
	set := kernel.Set{Name: "ports", Key: []kernel.Type{kernel.TypeIPv6Addr, kernel.TypeInetProto, kernel.TypeInetService},
		Value: []kernel.Type{kernel.TypeIPv6Addr, kernel.TypeInetService}}
	base := netip.MustParseAddr("fd00::").As16()
	for i := range n {
		a := base
		binary.BigEndian.PutUint32(a[12:], uint32(i))
		at := kernel.Datum{Addr: netip.AddrFrom16(a)}
		set.Elements = append(set.Elements, kernel.Element{Key: []kernel.Datum{at, number(6), number(80)},
			Value: []kernel.Datum{at, number(8080)}, Comment: "pod namespace/name of some length"})
	}
	return kernel.Table{Family: kernel.FamilyInet, Name: "twill-test", Sets: []kernel.Set{set}}
}
