package policy

import (
	"net/netip"
	"time"

	"github.com/twill-cni/twill/kernel"
)

// vacancies knows of which addresses there may still be connections that somebody had who has them no more. To look at all connections takes tens of
// milliseconds, and an ADD would wait for it; but mostly nobody had its addresses for a while, and connections have been looked at since.
type vacancies struct {
	doubted time.Time                // whose addresses were before is not known; zero: it does not matter any more
	held    map[holding]struct{}     // as the kernel has it
	left    map[netip.Addr]time.Time // when the kernel took an address from somebody, or it was another's, too
}

type holding struct {
	addr  netip.Addr
	owner kernel.PodOwner
}

// doubt says that anybody may have had any address up to now.
func (v *vacancies) doubt(now time.Time) { v.doubted = now }

// written says whose the addresses are in the kernel from now on.
func (v *vacancies) written(now time.Time, addrs map[kernel.PodOwner][]netip.Addr) {
	before := v.held
	v.held = make(map[holding]struct{}, len(before))
	had := make(map[netip.Addr]bool, len(before))
	for h := range before {
		had[h.addr] = true
	}
	if v.left == nil {
		v.left = map[netip.Addr]time.Time{}
	}
	for owner, own := range addrs {
		for _, addr := range own {
			h := holding{addr, owner}
			v.held[h] = struct{}{}
			if _, stays := before[h]; !stays && had[addr] { // somebody else has it still
				v.left[addr] = now
			}
		}
	}
	for h := range before {
		if _, stays := v.held[h]; !stays {
			v.left[h.addr] = now
		}
	}
}

// looked says that a look at all connections has ended well, and when it began: those that were let through long enough before were listed then.
func (v *vacancies) looked(began time.Time) {
	settled := began.Add(-lookLast)
	if !v.doubted.After(settled) {
		v.doubted = time.Time{}
	}
	for addr, at := range v.left {
		if !at.After(settled) {
			delete(v.left, addr)
		}
	}
}

// clean reports whether all connections that others may have had with the addresses were looked at.
func (v *vacancies) clean(addrs []netip.Addr) bool {
	for _, addr := range addrs {
		if _, ok := v.left[addr]; ok {
			return false
		}
	}
	return v.doubted.IsZero()
}
