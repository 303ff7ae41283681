package filestore

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ipam"
)

// model is what the store is meant to do, in the plainest words: free holds the addresses of each set in the order in which they are to
// be handed out. It holds for sets of one range.
type model struct {
	free   [][]netip.Addr
	leases map[ipam.Owner][]netip.Addr
}

func newModel(cfg ipam.Config) *model {
	m := &model{leases: map[ipam.Owner][]netip.Addr{}}
	for _, set := range cfg.Sets {
		var list []netip.Addr
		for ip := set[0].First; set[0].Contains(ip); ip = ip.Next() {
			if !cfg.IsGateway(ip) {
				list = append(list, ip)
			}
		}
		m.free = append(m.free, list)
	}
	return m
}

// allocate returns false when it has to fail.
func (m *model) allocate(o ipam.Owner, want []netip.Addr) ([]netip.Addr, bool) {
	if held, ok := m.leases[o]; ok {
		for _, ip := range want {
			if !slices.Contains(held, ip) {
				return nil, false
			}
		}
		return held, true
	}
	var got []netip.Addr
	used := 0
	for _, free := range m.free {
		i := slices.IndexFunc(free, func(ip netip.Addr) bool { return slices.Contains(want, ip) })
		if i >= 0 {
			used++
		} else if i = 0; len(free) == 0 {
			return nil, false
		}
		got = append(got, free[i])
	}
	if used != len(want) {
		return nil, false
	}
	for i, ip := range got {
		m.free[i] = slices.DeleteFunc(slices.Clone(m.free[i]), func(f netip.Addr) bool { return f == ip })
	}
	m.leases[o] = got
	return got, true
}

func (m *model) release(o ipam.Owner) bool {
	held, ok := m.leases[o]
	for i, ip := range held {
		m.free[i] = append(m.free[i], ip)
	}
	delete(m.leases, o)
	return ok
}

// TestAgainstModel plays random sequences on the store and on the model and wants the same answers throughout. Each step may be another
// process's: it has an Allocator of its own.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		clock := &fakeClock{now: time.Hour}
		rnd := rand.New(rand.NewPCG(seed, 1))
		cfg := config(t, t.TempDir(), `[{"subnet":"10.0.0.0/28","gateway":"10.0.0.5"}]`, `[{"subnet":"fd00::/123"}]`)
		m := newModel(cfg)
		for range 400 {
			clock.now += time.Duration(rnd.IntN(3)) * time.Second
			a := open4test(t, cfg, WithClock(clock.read))
			o := own(rnd.IntN(20))
			switch rnd.IntN(10) {
			case 0, 1, 2, 3, 4:
				step(t, a, m, ipam.Request{Owner: o, IPs: randomIPs(rnd, cfg)})
			case 5, 6, 7, 8:
				found, err := a.Release(context.Background(), o)
				if want := m.release(o); err != nil || found != want {
					t.Fatalf("seed %d: release %s: %v, %v, want %v", seed, o, found, err, want)
				}
			case 9:
				retainHalf(t, a, m)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		a := open4test(t, cfg, WithClock(clock.read))
		verify(t, a)
		want := map[string]string{}
		for o, ips := range m.leases {
			want[o.ContainerID] = ips[0].String() + " " + ips[1].String()
		}
		if diff := cmp.Diff(want, leases(t, a)); diff != "" {
			t.Errorf("seed %d, -want +got:\n%s", seed, diff)
		}
	}
}

func randomIPs(rnd *rand.Rand, cfg ipam.Config) []netip.Addr {
	if rnd.IntN(4) > 0 {
		return nil
	}
	var ips []netip.Addr
	for _, set := range cfg.Sets {
		if rnd.IntN(2) == 0 {
			ips = append(ips, set[0].At(rnd.Uint64N(set[0].Size())))
		}
	}
	return ips
}

func step(t *testing.T, a *Allocator, m *model, req ipam.Request) {
	t.Helper()
	want, ok := m.allocate(req.Owner, req.IPs)
	l, err := a.Allocate(context.Background(), req)
	if ok != (err == nil) {
		t.Fatalf("allocate %+v: error %v, want success %v", req, err, ok)
	}
	if err != nil {
		if !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrUnavailable) {
			t.Fatalf("allocate %+v: %v", req, err)
		}
		return
	}
	var got []netip.Addr
	for _, addr := range l.Addresses {
		got = append(got, addr.Prefix.Addr())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("allocate %+v: %v, want %v", req, got, want)
	}
}

func retainHalf(t *testing.T, a *Allocator, m *model) {
	t.Helper()
	var keep, drop []ipam.Owner
	for o := range m.leases {
		if o.ContainerID[len(o.ContainerID)-1]%2 == 0 {
			keep = append(keep, o)
		} else {
			drop = append(drop, o)
		}
	}
	slices.SortFunc(drop, func(a, b ipam.Owner) int { return strings.Compare(ownerName(a), ownerName(b)) })
	freed, err := a.Retain(context.Background(), keep)
	if err != nil || len(freed) != len(drop) {
		t.Fatalf("retain %v: freed %v, error %v, want %v", keep, freed, err, drop)
	}
	for _, o := range drop {
		m.release(o)
	}
}

// TestTableDamageIsRepaired plays random sequences while the slot tables are overwritten with noise, cut or removed. Which address
// comes next is then anybody's guess; that none is leased twice and none is lost is not.
func TestTableDamageIsRepaired(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		cfg := config(t, t.TempDir(), `[{"subnet":"10.0.0.0/28"}]`, `[{"subnet":"fd00::/64"}]`)
		held := map[ipam.Owner]string{}
		a := open4test(t, cfg)
		for range 150 {
			o := own(rnd.IntN(20))
			switch rnd.IntN(6) {
			case 0, 1, 2:
				l, err := a.Allocate(context.Background(), ipam.Request{Owner: o})
				if err != nil {
					if !errors.Is(err, ipam.ErrExhausted) {
						t.Fatalf("seed %d: %v", seed, err)
					}
					break
				}
				if was := held[o]; was != "" && was != addrs(l) {
					t.Fatalf("seed %d: %s held %s and got %s", seed, o, was, addrs(l))
				}
				held[o] = addrs(l)
			case 3, 4:
				found, err := a.Release(context.Background(), o)
				if err != nil || found != (held[o] != "") {
					t.Fatalf("seed %d: release %s: %v, %v", seed, o, found, err)
				}
				delete(held, o)
			case 5:
				damageTable(t, a, rnd)
			}
		}
		want := map[string]string{}
		for o, ips := range held {
			want[o.ContainerID] = ips
		}
		if diff := cmp.Diff(want, leases(t, a)); diff != "" {
			t.Fatalf("seed %d, -want +got:\n%s", seed, diff)
		}
		freed, err := a.Retain(t.Context(), slices.Collect(maps.Keys(held))) // finds damage that nobody came across
		if err != nil || len(freed) > 0 {
			t.Fatalf("seed %d: Retain of all that are there freed %v, error %v", seed, freed, err)
		}
		verify(t, a)
		fillUp(t, a, 13)
	}
}

// TestRetainFindsDamage spoils each slot in turn, in each of its fields, where nobody who allocates or releases would look for long.
func TestRetainFindsDamage(t *testing.T) {
	const leased, released = 4, 6
	for number := range int64(leased + released) {
		for field := range int64(3) {
			a := open4test(t, config(t, t.TempDir(), `[{"subnet":"10.0.0.0/28"}]`, `[{"subnet":"fd00::/64"}]`))
			var keep []ipam.Owner
			for i := range leased + released {
				add(t, a, i)
			}
			for i := range leased + released {
				if i%5 < 3 {
					del(t, a, i)
				} else {
					keep = append(keep, own(i))
				}
			}
			for _, set := range a.cfg.Sets {
				f, err := open(a.path("slots", set[0].String()), os.O_RDWR)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.writeAt([]byte{7, 0, 0, 0}, headerSize+(1+number)*slotSize+4*field); err != nil { // slot 0 is the gateway
					t.Fatal(err)
				}
				f.close()
			}
			if freed, err := a.Retain(t.Context(), keep); err != nil || len(freed) > 0 {
				t.Fatalf("slot %d, field %d: Retain freed %v, error %v", number, field, freed, err)
			}
			verify(t, a)
			if t.Failed() {
				t.Fatalf("after field %d of slot %d was spoilt", field, number)
			}
		}
	}
}

// damageTable spoils one of the slot tables in one of several ways.
func damageTable(t *testing.T, a *Allocator, rnd *rand.Rand) {
	t.Helper()
	path := a.path("slots", a.cfg.Sets[rnd.IntN(2)][0].String())
	f, err := open(path, os.O_RDWR)
	if err != nil {
		return // not made yet
	}
	defer f.close()
	data := make([]byte, 400)
	n, err := f.readAt(data, 0)
	if err != nil {
		t.Fatal(err)
	}
	if data = data[:n]; n == 0 {
		return // not made again since the last damage
	}
	switch rnd.IntN(4) {
	case 0:
		err = os.Remove(path)
	case 1:
		err = os.Truncate(path, rnd.Int64N(300))
	case 2:
		err = os.Truncate(path, 0)
	case 3:
		for range 1 + rnd.IntN(8) {
			data[rnd.IntN(len(data))] = byte(rnd.Uint32())
		}
		err = f.writeAt(data, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fillUp checks that exactly capacity leases fit, counting those that there are, and that all their addresses differ.
func fillUp(t *testing.T, a *Allocator, capacity int) {
	t.Helper()
	later := open4test(t, a.cfg, WithClock(func() time.Duration { return bootTime() + time.Hour })) // no repair was lately
	for i := 100; ; i++ {
		if _, err := tryAdd(later, i); errors.Is(err, ipam.ErrExhausted) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	all, err := later.Leases()
	if err != nil || len(all) == 0 {
		t.Fatalf("%d leases, error %v", len(all), err)
	}
	last := all[len(all)-1].Owner // used once more, so that every table is opened, and repaired if need be
	if _, err := later.Release(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := later.Allocate(t.Context(), ipam.Request{Owner: last}); err != nil {
		t.Fatal(err)
	}
	if all, err = later.Leases(); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for _, l := range all {
		for _, addr := range l.Addresses {
			ip := addr.Prefix.Addr()
			if seen[ip] || later.cfg.IsGateway(ip) {
				t.Errorf("%s is leased twice or is a gateway", ip)
			}
			seen[ip] = true
		}
	}
	if len(all) != capacity {
		t.Errorf("%d leases fit, want %d", len(all), capacity)
	}
	verify(t, later)
}
