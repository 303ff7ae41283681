//go:build linux

package linux

import (
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

// TestVXLANStaysWhenItCannotBeMadeAgain asks for what cannot be had: the device that works is not given up for it.
func TestVXLANStaysWhenItCannotBeMadeAgain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*kernel.VXLAN)
		want   string
	}{
		{"uplink is missing", func(v *kernel.VXLAN) { v.Uplink = "eth9" }, "eth9"},
		{"another device has the VNI", func(v *kernel.VXLAN) { v.VNI = 7 }, "vx7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := open(t)
			setUp(t, underlay+"\nlink add vx7 type vxlan id 7 dstport 8472 dev eth0 local 192.0.2.1")
			wantNoErrors(t, h.ApplyLinks(t.Context(), set(flannel4())))
			before := index(t, h, "flannel.1")
			link := flannel4()
			tc.change(link.VXLAN)
			errs := h.ApplyLinks(t.Context(), set(link))
			if errs == nil || !strings.Contains(errs[0].Error(), tc.want) {
				t.Errorf("errors are %v, want one about %s", errs, tc.want)
			}
			wantLink(t, h, flannel4())
			if after := index(t, h, "flannel.1"); after != before {
				t.Errorf("the link was made again")
			}
		})
	}
}
