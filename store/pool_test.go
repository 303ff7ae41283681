package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func first(uint64) uint64  { return 0 }
func last(n uint64) uint64 { return n - 1 }

func TestPick(t *testing.T) {
	small := pool("10.5.0.0/16", 24, "10.5.3.0", "10.5.6.0")
	huge := pool("fd00::/8", 126, "fd00::4", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffc")
	tests := []struct {
		name  string
		pool  Pool
		taken []netip.Prefix
		draw  func(uint64) uint64
		want  string // empty: exhausted
	}{
		{"lower edge", small, nil, first, "10.5.3.0/24"},
		{"upper edge", small, nil, last, "10.5.6.0/24"},
		{"the first is taken", small, prefixes("10.5.3.0/24"), first, "10.5.4.0/24"},
		{"the last is taken", small, prefixes("10.5.6.0/24"), last, "10.5.5.0/24"},
		{"one is left", small, prefixes("10.5.6.0/24", "10.5.3.0/24", "10.5.4.0/24"), first, "10.5.5.0/24"},
		{"none is left", small, prefixes("10.5.6.0/24", "10.5.3.0/24", "10.5.5.0/24", "10.5.4.0/24"), first, ""},
		{"outside does not count", small, prefixes("10.5.2.0/24", "10.5.7.0/24", "192.168.0.0/16", "fd00::/64"), first, "10.5.3.0/24"},
		{"a part takes it whole", small, prefixes("10.5.3.128/26", "10.5.4.4/32"), first, "10.5.5.0/24"},
		{"a wide one takes several", small, prefixes("10.5.4.0/23"), func(uint64) uint64 { return 1 }, "10.5.6.0/24"},
		{"a wide one across the edge", small, prefixes("10.5.0.0/22"), first, "10.5.4.0/24"},
		{"the whole network", small, prefixes("10.0.0.0/8"), first, ""},
		{"duplicates and overlaps count once", small, prefixes("10.5.3.0/24", "10.5.3.0/24", "10.5.2.0/23", "10.5.3.9/32"), last, "10.5.6.0/24"},
		{"end of IPv4", pool("255.255.255.0/24", 28, "255.255.255.16", "255.255.255.240"), prefixes("255.255.255.240/28"), last, "255.255.255.224/28"},
		{"huge", huge, prefixes("fd00::/64"), first, "fd00:0:0:1::/126"},
		{"huge, last", huge, nil, last, "fd00:0:0:1::/126"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, ok := test.pool.Pick(test.taken, test.draw)
			if ok != (test.want != "") || ok && have.String() != test.want {
				t.Errorf("have %s, %t, want %q", have, ok, test.want)
			}
			if ok && !test.pool.Contains(have) {
				t.Errorf("the pool does not contain %s", have)
			}
		})
	}
}

// Each pick is compared with what a walk over all subnets finds free.
func TestPickAgainstWalk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	p := pool("10.5.0.0/20", 26, "10.5.0.128", "10.5.15.0")
	for round := range 2000 {
		var taken []netip.Prefix
		for range rng.IntN(80) {
			addr := netip.AddrFrom4([4]byte{10, 5, byte(rng.IntN(20)), byte(rng.IntN(256))})
			taken = append(taken, netip.PrefixFrom(addr, 23+rng.IntN(10)).Masked())
		}
		var free []netip.Prefix
	walk:
		for slot := range p.Size() {
			s := p.subnet(slot)
			for _, other := range taken {
				if s.Overlaps(other) {
					continue walk
				}
			}
			free = append(free, s)
		}
		n := rng.Uint64()
		have, ok := p.Pick(taken, func(size uint64) uint64 {
			if size != uint64(len(free)) {
				t.Fatalf("round %d: %d are counted as free, not %d", round, size, len(free))
			}
			n %= size
			return n
		})
		if ok != (len(free) > 0) || ok && have != free[n] {
			t.Fatalf("round %d: have %s, %t, want number %d of %v", round, have, ok, n, free)
		}
	}
}

func TestPickFillsThePool(t *testing.T) {
	p := pool("10.0.0.0/16", 24, "10.0.1.0", "10.0.255.0")
	var taken []netip.Prefix
	seen := map[netip.Prefix]bool{}
	for range p.Size() {
		s, ok := p.Pick(taken, rand.Uint64N)
		if !ok || seen[s] || !p.Contains(s) {
			t.Fatalf("after %d: have %s, %t", len(taken), s, ok)
		}
		seen[s] = true
		taken = append(taken, s)
	}
	if _, ok := p.Pick(taken, rand.Uint64N); ok || len(seen) != 255 {
		t.Errorf("%d subnets were given, want 255 and then none", len(seen))
	}
}

func TestChoose(t *testing.T) {
	dual := Network{EnableIPv4: true, EnableIPv6: true,
		IPv4: pool("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"), IPv6: pool("fd00::/56", 64, "fd00:0:0:1::", "fd00:0:0:ff::")}
	v4, v6 := dual, dual
	v4.EnableIPv6, v6.EnableIPv4 = false, false
	key := func(k string) Subnets {
		s, err := ParseKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tests := []struct {
		name          string
		network       Network
		taken, wanted []Subnets
		want          string
	}{
		{"IPv4", v4, nil, nil, "10.5.1.0-24"},
		{"IPv6", v6, nil, nil, "0.0.0.0-0&fd00:0:0:1::-64"},
		{"both have one number", dual, []Subnets{key("10.5.1.0-24")}, nil, "10.5.2.0-24&fd00:0:0:2::-64"},
		{"the IPv6 of that number is taken", dual, []Subnets{key("10.5.1.0-24&fd00:0:0:2::-64")}, nil, "10.5.2.0-24&fd00:0:0:1::-64"},
		{"wanted", dual, nil, []Subnets{key("10.5.7.0-24&fd00:0:0:9::-64")}, "10.5.7.0-24&fd00:0:0:9::-64"},
		{"half of what is wanted is taken", dual, []Subnets{key("0.0.0.0-0&fd00:0:0:9::-64")}, []Subnets{key("10.5.7.0-24&fd00:0:0:9::-64")},
			"10.5.7.0-24&fd00:0:0:7::-64"},
		{"wanted does not fit", v4, nil, []Subnets{key("10.6.7.0-24"), key("10.5.7.0-25"), key("10.5.0.0-24"), key("10.5.9.0-24")}, "10.5.9.0-24"},
		{"the wanted IPv6 is of no use", v4, nil, []Subnets{key("10.5.7.0-24&fd00:0:0:9::-64")}, "10.5.7.0-24"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have, err := test.network.Choose(test.taken, test.wanted, first)
			if err != nil || have.Key() != test.want || !test.network.Fits(have) {
				t.Errorf("have %s, %v, want %s", have.Key(), err, test.want)
			}
		})
	}
	if _, err := v4.Choose([]Subnets{{IPv4: netip.MustParsePrefix("10.0.0.0/8")}}, nil, first); !errors.Is(err, ErrExhausted) {
		t.Errorf("have %v, want ErrExhausted", err)
	}
	if _, err := dual.Choose([]Subnets{{IPv6: netip.MustParsePrefix("fd00::/16")}}, nil, first); !errors.Is(err, ErrExhausted) {
		t.Errorf("have %v, want ErrExhausted", err)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{10, 1000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := pool("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0")
			var taken []netip.Prefix
			for i := range n {
				taken = append(taken, p.subnet(uint64(i*3)))
			}
			for b.Loop() {
				p.Pick(taken, rand.Uint64N)
			}
		})
	}
}
