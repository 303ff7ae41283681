package sysdump

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits of an archive, in bytes before compression.
const (
	MaxFile  = 16 << 20
	MaxTotal = 1 << 30
)

// Index is the name of the manifest in the archive.
const Index = "index.json"

// Part is a file of the archive.
type Part struct {
	Name string // a path in the archive, such as nodes/node1/status.json
	By   string // what takes it, for people: "twilld's socket", "the kernel"
	Take func(ctx context.Context) ([]byte, error)
}

// Entry is what the manifest says of a part.
type Entry struct {
	Name      string    `json:"name"`
	By        string    `json:"by"`
	At        time.Time `json:"at"` // when it was begun
	Seconds   float64   `json:"seconds"`
	Size      int       `json:"size"`                // bytes in the archive
	Truncated bool      `json:"truncated,omitempty"` // it was larger
	Error     string    `json:"error,omitempty"`     // why it is not in the archive
}

// Manifest is index.json.
type Manifest struct {
	Program string    `json:"program"` // that made the archive, and its version
	Begun   time.Time `json:"begun"`
	Files   []Entry   `json:"files"`
}

// Failed returns the entries that could not be taken.
func (m *Manifest) Failed() []Entry {
	return slices.DeleteFunc(slices.Clone(m.Files), func(e Entry) bool { return e.Error == "" })
}

// Options say how to collect.
type Options struct {
	Program  string
	AtOnce   int           // parts that are taken at the same time
	Patience time.Duration // with each part
}

// Write takes all parts and writes the archive to w, the parts in their order and the manifest first of all. The error is one of writing: what could not be
// taken is in the manifest.
func Write(ctx context.Context, w io.Writer, parts []Part, o Options) (*Manifest, error) {
	m := &Manifest{Program: o.Program, Begun: time.Now(), Files: make([]Entry, len(parts))}
	contents := make([][]byte, len(parts))
	room := &budget{left: MaxTotal}
	var taking sync.WaitGroup
	free := make(chan struct{}, max(o.AtOnce, 1))
	for i, p := range parts {
		free <- struct{}{}
		taking.Go(func() {
			defer func() { <-free }()
			contents[i], m.Files[i] = take(ctx, p, o.Patience)
			if m.Files[i].Error == "" && !room.spend(len(contents[i])) {
				contents[i], m.Files[i].Size = nil, 0
				m.Files[i].Error = fmt.Sprintf("left out: the archive would be larger than %d bytes", MaxTotal)
			}
		})
	}
	taking.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return m, pack(w, m, contents)
}

// budget is what is left of MaxTotal.
type budget struct {
	mu   sync.Mutex
	left int
}

func (b *budget) spend(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func take(ctx context.Context, p Part, patience time.Duration) ([]byte, Entry) {
	e := Entry{Name: p.Name, By: p.By, At: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	content, err := p.Take(ctx)
	e.Seconds = time.Since(e.At).Seconds()
	if err != nil {
		e.Error = err.Error()
		return nil, e
	}
	if len(content) > MaxFile {
		content, e.Truncated = content[:MaxFile], true
	}
	e.Size = len(content)
	return content, e
}

func pack(w io.Writer, m *Manifest, contents [][]byte) error {
	index, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	put := func(name string, at time.Time, content []byte) error {
		header := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: at.Truncate(time.Second), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	if err := put(Index, m.Begun, append(index, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", Index, err)
	}
	for i, e := range m.Files {
		if e.Error != "" {
			continue
		}
		if err := put(e.Name, e.At, contents[i]); err != nil {
			return fmt.Errorf("write %s: %w", e.Name, err)
		}
	}
	return errors.Join(archive.Close(), compressed.Close())
}

// WriteFile has fill write a file that root alone may read. It is there under its name when all of it is, and not at all otherwise.
func WriteFile(path string, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(fill(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// JSON makes a part's content of a value.
func JSON[T any](take func(ctx context.Context) (T, error)) func(ctx context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		value, err := take(ctx)
		if err != nil {
			return nil, err
		}
		text, err := json.MarshalIndent(value, "", "  ")
		return append(text, '\n'), err
	}
}

// Lines makes a part's content of lines.
func Lines(all []string) []byte {
	var b bytes.Buffer
	for _, line := range all {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// FileName makes a name into one that a file of an archive can have.
func FileName(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, name)
	if clean = strings.TrimLeft(clean, "."); clean == "" {
		return "_"
	}
	return clean
}
