//go:build linux

package linux

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSurvey(t *testing.T) {
	h := open(t)
	setUp(t, `
link add br0 type bridge
link add vx7 type vxlan id 7 dstport 4789
link set vx7 master br0
link set vx7 mtu 1400
link set vx7 alias mine
addr add 192.0.2.1/24 dev br0
`)
	all, err := h.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(s Sighting) bool { return s.Name != "br0" && s.Name != "vx7" })
	var got []string
	for _, s := range all {
		port := uint16(0)
		if s.VXLAN != nil {
			port = s.VXLAN.Port
		}
		got = append(got, fmt.Sprintf("%s %q %s %q %d %v %d %t", s.Name, s.Alias, s.Kind, s.Master, s.MTU, s.Addresses, port, s.TxChecksumOffload != nil))
	}
	want := []string{`br0 "" bridge "" 1400 [192.0.2.1/24] 0 false`, `vx7 "mine" vxlan "br0" 1400 [] 4789 true`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
