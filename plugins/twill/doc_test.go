//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestCodesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/cni-config.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range codes {
		if !strings.Contains(string(text), fmt.Sprintf("| %d |", c.code)) {
			t.Errorf("docs/cni-config.md says nothing of code %d (%v)", c.code, c.err)
		}
	}
}
