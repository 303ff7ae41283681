package sysdump

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func text(s string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(s), nil }
}

// unpack returns the archive's files and their names in order.
func unpack(t *testing.T, archive io.Reader) (files map[string]string, names []string) {
	t.Helper()
	raw, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for r := tar.NewReader(raw); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, names
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		files[h.Name], names = string(content), append(names, h.Name)
	}
}

// A part that fails, hangs or is too large is told in the manifest, and the others are there in their order.
func TestWrite(t *testing.T) {
	parts := []Part{
		{Name: "b.txt", By: "x", Take: text("bee")},
		{Name: "fails.json", By: "y", Take: func(context.Context) ([]byte, error) { return nil, errors.New("no daemon") }},
		{Name: "hangs.json", By: "y", Take: func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }},
		{Name: "large", By: "y", Take: func(context.Context) ([]byte, error) { return make([]byte, MaxFile+1), nil }},
		{Name: "a.json", By: "y", Take: JSON(func(context.Context) (any, error) { return map[string]int{"n": 1}, nil })},
	}
	var archive bytes.Buffer
	m, err := Write(t.Context(), &archive, parts, Options{Program: "p", AtOnce: 2, Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	files, names := unpack(t, &archive)
	if want := []string{Index, "b.txt", "large", "a.json"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	if files["b.txt"] != "bee" || files["a.json"] != "{\n  \"n\": 1\n}\n" || len(files["large"]) != MaxFile {
		t.Errorf("contents %q, %q, %d bytes", files["b.txt"], files["a.json"], len(files["large"]))
	}
	var index Manifest
	if err := json.Unmarshal([]byte(files[Index]), &index); err != nil || index.Program != "p" || len(index.Files) != len(parts) {
		t.Fatalf("%v: %s", err, files[Index])
	}
	for i, e := range index.Files {
		if e.Name != parts[i].Name || e.By != parts[i].By || e.At.IsZero() || e.Truncated != (e.Name == "large") {
			t.Errorf("%+v", e)
		}
	}
	if failed := m.Failed(); len(failed) != 2 || failed[0].Error != "no daemon" || failed[1].Error != context.DeadlineExceeded.Error() {
		t.Errorf("failed: %+v", failed)
	}
	if len(m.Files) != len(parts) {
		t.Error("Failed has changed the manifest")
	}
}

func TestTheArchiveIsBounded(t *testing.T) {
	b := &budget{left: 10}
	if !b.spend(10) || b.spend(1) || !b.spend(0) {
		t.Error("the budget is not kept")
	}
}

// The file is there when it is whole, for its owner alone, and otherwise not at all.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.tar.gz")
	if err := WriteFile(path, func(io.Writer) error { return errors.New("disk full") }); err == nil {
		t.Error("no error")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := WriteFile(path, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 1 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := WriteFile(filepath.Join(dir, "none", "d"), func(io.Writer) error { return nil }); err == nil {
		t.Error("no error without a directory")
	}
}

func TestFileName(t *testing.T) {
	for name, want := range map[string]string{"node-1.example": "node-1.example", "../../etc": "_.._etc", "": "_", "..": "_", "a/b c": "a_b_c"} {
		if got := FileName(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}
