//go:build linux

package record

import (
	"fmt"
	"testing"
)

// BenchmarkLook is what it costs the daemon to see the records of 250 pods.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	s := Open(dir, "net")
	for i := range 250 {
		e, err := s.Begin(named("net", fmt.Sprint("pod", i)))
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Commit(); err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
	for b.Loop() {
		if seen, err := Look(dir); err != nil || len(seen) != 250 {
			b.Fatal(len(seen), err)
		}
	}
}
