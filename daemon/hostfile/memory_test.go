package hostfile

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	h := New(Options{RunDir: dir, Log: slog.New(slog.DiscardHandler)})
	if data, err := h.Recall(MemoryOfLease); len(data) > 0 || err != nil {
		t.Errorf("recalls %q at first, error %v", data, err)
	}
	for _, text := range []string{`{"a":1}`, `{"b":2}`} {
		if err := h.Remember(MemoryOfLease, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, err := h.Recall(MemoryOfLease); string(data) != text || err != nil {
			t.Errorf("recalls %q, error %v, want %q", data, err, text)
		}
	}
	if data, err := h.Recall(MemoryOfServices); len(data) > 0 || err != nil {
		t.Errorf("recalls %q of something else, error %v", data, err)
	}
	path := filepath.Join(dir, string(MemoryOfLease))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), maxMemory+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Recall(MemoryOfLease); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a memory too large: error %v", err)
	}
	removed, err := h.Remove()
	if err != nil || !strings.Contains(strings.Join(removed, " "), string(MemoryOfLease)) {
		t.Errorf("removed %v, error %v", removed, err)
	}
}
