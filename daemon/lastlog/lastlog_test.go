package lastlog

import (
	"fmt"
	"strings"
	"testing"
)

func TestLast(t *testing.T) {
	for lines := range 100 {
		r := New(40)
		for i := range lines {
			fmt.Fprintf(r, "line %02d\n", i)
		}
		want := ""
		for i := max(0, lines-5); i < lines; i++ {
			want += fmt.Sprintf("line %02d\n", i)
		}
		if got := r.Last(); !strings.HasSuffix(want, got) || len(got) < min(len(want), 32) {
			t.Errorf("of %d lines: %q, want %q", lines, got, want)
		}
	}
	r := New(10)
	if n, err := r.Write([]byte(strings.Repeat("x", 1000))); n != 1000 || err != nil || len(r.Last()) != 10 {
		t.Errorf("%d, %v: %q", n, err, r.Last())
	}
}
