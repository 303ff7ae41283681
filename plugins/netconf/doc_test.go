package netconf

import (
	"os"
	"strings"
	"testing"
)

func TestKeysAreDocumented(t *testing.T) {
	for file, form := range map[string]string{"doc.go": "//\tKEY ", "../../docs/cni-config.md": "| `KEY` |"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range known {
			if !strings.Contains(string(text), strings.ReplaceAll(form, "KEY", key)) {
				t.Errorf("%s says nothing of key %s", file, key)
			}
		}
	}
}
