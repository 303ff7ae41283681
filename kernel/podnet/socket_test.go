//go:build linux

package podnet

import (
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// find is a batch of one request for a link.
func find(name string) *batch {
	b := &batch{}
	b.add("find link "+name, unix.RTM_GETLINK, 0, ifinfo(0, 0, 0))
	b.str(unix.IFLA_IFNAME, name)
	return b
}

// A run that ends early, as it does when a read fails, leaves answers in the socket. They are not the next batch's, also not where
// the numbers of the requests wrap around.
func TestLateAnswers(t *testing.T) {
	for name, seq := range map[string]uint32{"new socket": 0, "before the wrap": math.MaxUint32 - 2, "at the wrap": math.MaxUint32} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func(h *Handle, _, _ string) {
				s := h.host
				s.seq = seq
				_, err := s.send(find("none"))
				check(t, err)
				_, err = s.send(find("lo"))
				check(t, err)

				var seen []string
				visit := func(_ uint16, body []byte) { seen = append(seen, parseLink(body).name) }
				check(t, s.run(find("lo"), visit))
				if len(seen) != 1 || seen[0] != "lo" {
					t.Errorf("found %v, want lo once", seen)
				}
				if err := s.run(find("none"), nil); !errors.Is(err, unix.ENODEV) {
					t.Errorf("have error %v, want ENODEV", err)
				}
			})
		})
	}
}
