package nft

import (
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
