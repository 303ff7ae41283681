package gobgp

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Counting for metrics keeps nobody waiting and takes one part in a hundred of the time; who wants to know now is told what is there now.
func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 30 * time.Millisecond
		a, b := addr("192.0.2.1"), addr("192.0.2.2")
		both := []netip.Addr{a, b}
		var announced, counts atomic.Int64
		announced.Store(1)
		tl := newTally(func(ctx context.Context, n netip.Addr) (int, error) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			time.Sleep(each) // of the bubble's clock
			if counts.Add(1); n == b {
				return 0, errors.New("it is gone")
			}
			return int(announced.Load()), nil
		})
		defer tl.stop()
		check := func(when string, got, want map[netip.Addr]int, total int64) {
			t.Helper()
			if !maps.Equal(got, want) || counts.Load() != total {
				t.Errorf("%s: the figures are %v, want %v; %d counts, want %d", when, got, want, counts.Load(), total)
			}
		}
		began := time.Now()
		check("first", tl.last(both), nil, 0)
		check("while it counts", tl.last(both), nil, 1)
		if waited := time.Since(began); waited != 2*tallyWait {
			t.Errorf("two questions took %v", waited)
		}
		time.Sleep(each)
		announced.Store(2)
		check("soon after", tl.last(both), map[netip.Addr]int{a: 1}, 2)
		time.Sleep(2 * tallyShare * each)
		check("long after", tl.last(both), map[netip.Addr]int{a: 1}, 2)
		time.Sleep(2 * each)
		check("and then", tl.last(both), map[netip.Addr]int{a: 2}, 4)
		announced.Store(3)
		check("now", tl.now(both), map[netip.Addr]int{a: 3}, 6)
		check("after that", tl.last(both), map[netip.Addr]int{a: 3}, 6)
		tl.stop()
		time.Sleep(2 * tallyShare * each)
		check("at the end", tl.last(both), map[netip.Addr]int{a: 3}, 6)
	})
}
