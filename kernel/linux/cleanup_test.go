//go:build linux

package linux

import (
	"slices"
	"testing"
)

// A bridge that only a plugin has seen goes too. One with ports stays: pods' are gone by then, so they are somebody else's.
func TestCleanupBridges(t *testing.T) {
	h := open(t)
	setUp(t, `
link add plugins type bridge
link set plugins alias twill-bridge
link add shared type bridge
link set shared alias twill
link add port type veth peer other
link set port master shared
link add similar type bridge
link set similar alias twill-bridges`)
	removed, err := h.Cleanup(t.Context())
	if err != nil || !slices.Equal(removed, []string{"link plugins"}) {
		t.Errorf("removed %v, %v", removed, err)
	}
	for name, want := range map[string]bool{"plugins": false, "shared": true, "similar": true} {
		if _, ok, err := h.ReadLink(t.Context(), name); ok != want || err != nil {
			t.Errorf("link %s: there: %t, %v", name, ok, err)
		}
	}
}
