//go:build linux

package linux

import (
	"errors"
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

func TestProbeLink(t *testing.T) {
	h := open(t)
	before := kept(t, "link")
	for _, kind := range []string{"vxlan", "bridge", "veth"} {
		if err := h.ProbeLink(kind); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := h.ProbeLink("nosuchkind"); !errors.Is(err, kernel.ErrUnsupported) || !strings.Contains(err.Error(), "nosuchkind") {
		t.Errorf("an unknown kind: %v", err)
	}
	if after := kept(t, "link"); after != before {
		t.Errorf("links are\n%s\nwere\n%s", after, before)
	}
}
