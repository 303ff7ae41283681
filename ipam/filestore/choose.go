package filestore

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/ipam"
)

// recheckAfter is how often an exhausted range is compared with what is on disk before the exhaustion is reported.
const recheckAfter = time.Minute

// pick is an address that was found free.
type pick struct {
	ip  netip.Addr
	rng ipam.Range
}

// choose finds a free address for each range set. It changes nothing on disk but slot tables that were wrong.
func (s *session) choose(req ipam.Request) ([]pick, error) {
	picks := make([]pick, len(s.cfg.Sets))
	for _, ip := range req.IPs {
		i, err := s.chooseRequested(ip)
		if err != nil {
			return nil, err
		}
		if picks[i].ip.IsValid() && picks[i].ip != ip {
			return nil, fmt.Errorf("%s: %w: %s was requested of the same range set", ip, ipam.ErrUnavailable, picks[i].ip)
		}
		rng, _ := s.cfg.Sets[i].Find(ip)
		picks[i] = pick{ip, rng}
	}
	for i, set := range s.cfg.Sets {
		if picks[i].ip.IsValid() {
			continue
		}
		var err error
		if picks[i], err = s.chooseAny(set); err != nil {
			return nil, err
		}
	}
	return picks, nil
}

// chooseRequested returns the number of the set that the requested address is in, if it can be leased.
func (s *session) chooseRequested(ip netip.Addr) (int, error) {
	for i, set := range s.cfg.Sets {
		if _, ok := set.Find(ip); !ok {
			continue
		}
		if s.cfg.IsGateway(ip) {
			return 0, fmt.Errorf("%s: %w: it is a gateway", ip, ipam.ErrUnavailable)
		}
		if s.hostLocalHas(ip) {
			return 0, fmt.Errorf("%s: %w: it is leased by host-local in %s", ip, ipam.ErrUnavailable, s.cfg.HostLocal)
		}
		if exists(s.claimPath(ip)) {
			holder := "another owner"
			if rec, err := s.readPath(s.claimPath(ip)); err == nil && rec.damage == nil {
				holder = rec.lease.Owner.String()
			}
			return 0, fmt.Errorf("%s: %w: it is leased to %s", ip, ipam.ErrUnavailable, holder)
		}
		return i, nil
	}
	return 0, fmt.Errorf("%s: %w: it is in none of the ranges", ip, ipam.ErrUnavailable)
}

// chooseAny takes the first range that has an address out of quarantine, else the address that was released the longest ago. Before it
// reports exhaustion it makes sure that the tables are right.
func (s *session) chooseAny(set ipam.RangeSet) (pick, error) {
	p, err := s.tryChoose(set)
	if !errors.Is(err, ipam.ErrExhausted) {
		return p, err
	}
	again, recheckErr := s.recheck(set)
	if recheckErr != nil {
		return pick{}, recheckErr
	}
	if !again {
		return pick{}, err
	}
	return s.tryChoose(set)
}

func (s *session) tryChoose(set ipam.RangeSet) (pick, error) {
	now := s.now()
	var oldest pick
	var oldestAt uint32
	for _, rng := range set {
		p, released, err := s.candidate(rng)
		if errors.Is(err, ipam.ErrExhausted) {
			continue
		}
		if err != nil {
			return pick{}, err
		}
		if released == 0 || time.Duration(released)*time.Second+s.cfg.Quarantine <= now {
			return p, nil
		}
		if !oldest.ip.IsValid() || released < oldestAt {
			oldest, oldestAt = p, released
		}
	}
	if oldest.ip.IsValid() {
		return oldest, nil
	}
	return pick{}, s.exhausted(set)
}

// candidate asks the range's table, and corrects it where a name in addresses/ says that it is wrong. What host-local holds is taken
// until the range is exhausted and the tables are rebuilt.
func (s *session) candidate(rng ipam.Range) (p pick, released uint32, err error) {
	err = s.onTable(rng, func(t *table) error {
		for {
			at, when, ok, err := t.next()
			if err != nil {
				return err
			}
			if !ok {
				return ipam.ErrExhausted
			}
			p, released = pick{rng.At(uint64(at)), rng}, when
			if !exists(s.claimPath(p.ip)) && !s.hostLocalHas(p.ip) {
				return nil
			}
			if err := t.take(at); err != nil {
				return err
			}
		}
	})
	return p, released, err
}

// hostLocalHas reports whether a network of host-local has leased the address: it keeps a file of that name in the network's directory.
// A pod that was attached before the node changed over to Twill lives on under such an address.
func (s *session) hostLocalHas(ip netip.Addr) bool {
	if s.cfg.HostLocal == "" {
		return false
	}
	if s.others == nil {
		s.others = []string{}
		entries, _ := os.ReadDir(s.cfg.HostLocal) // not there: there never was a host-local
		for _, e := range entries {
			if e.IsDir() {
				s.others = append(s.others, filepath.Join(s.cfg.HostLocal, e.Name()))
			}
		}
	}
	return slices.ContainsFunc(s.others, func(dir string) bool { return exists(filepath.Join(dir, ip.String())) })
}

// exhausted says which ranges have no address left, and how many of theirs are leased.
func (s *session) exhausted(set ipam.RangeSet) error {
	list := make([]string, len(set))
	for i, rng := range set {
		list[i] = rng.String()
		if t := s.tables[rng]; t != nil {
			list[i] = exhaustion(t)
		}
	}
	return fmt.Errorf("%w: %s", ipam.ErrExhausted, strings.Join(list, "; "))
}

func exhaustion(t *table) string {
	return fmt.Sprintf("range %s of subnet %s has %d of %d addresses leased", t.rng, t.rng.Subnet, t.leased, t.usable())
}

// recheck rebuilds the set's tables unless that was done lately, and says whether it did.
func (s *session) recheck(set ipam.RangeSet) (bool, error) {
	now, done := s.now(), false
	for _, rng := range set {
		t, err := s.table(rng)
		if err != nil {
			return done, err
		}
		if since := now - time.Duration(t.checked)*time.Second; since >= 0 && since < recheckAfter {
			continue
		}
		if err := s.check(); err != nil {
			return done, err
		}
		if err := s.rebuild(t, true); err != nil {
			return done, err
		}
		done = true
	}
	return done, nil
}
