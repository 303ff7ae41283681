package conntrack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUse(t *testing.T) {
	tests := []struct {
		name        string
		count, most string // of the files; "-": there is none
		used, max   int
		err         string
	}{
		{name: "as the kernel writes it", count: "12\n", most: "262144\n", used: 12, max: 262144},
		{name: "nothing is tracked", count: "-", most: "-"},
		{name: "no limit", count: "7\n", most: "0\n", used: 7},
		{name: "empty", count: "", most: "1\n", max: 1, err: "nf_conntrack_count: "},
		{name: "no number", count: "1\n", most: "many\n", used: 1, err: "nf_conntrack_max: "},
		{name: "too long", count: strings.Repeat("1", 33), most: "1", max: 1, err: "nf_conntrack_count: "},
		{name: "both", count: "x", most: "y", err: "nf_conntrack_max: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"nf_conntrack_count": tt.count, "nf_conntrack_max": tt.most} {
				if text == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			used, most, err := useIn(dir)
			if used != tt.used || most != tt.max || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d of %d, error %v", used, most, err)
			}
		})
	}
}

func TestUseOfThisKernel(t *testing.T) {
	used, most, err := Use()
	if used < 0 || most < 0 || err != nil {
		t.Errorf("%d of %d, error %v", used, most, err)
	}
}
