package ping

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options say how to ping. Every field is required but Size.
type Options struct {
	Count    int           // requests of Ping
	Interval time.Duration // between two requests of Stream
	Timeout  time.Duration // for each reply
	Size     int           // bytes of payload behind the 8 bytes of ICMP header
}

// Stats is what became of a number of requests.
type Stats struct {
	Sent     int
	Received int
	Min, Avg time.Duration // of the round-trip times; 0 when no reply came
	Max      time.Duration
	Gap      time.Duration // the longest time without a successful request, from the first request to the last
	Err      error         // why the last request that got no reply got none; nil when all did
}

// Lost returns how many requests got no reply.
func (s Stats) Lost() int { return s.Sent - s.Received }

// Ping sends Options.Count requests, each after the reply to the one before, and stops at the first that gets none. When ctx ends, it
// returns what it has.
func (c *Conn) Ping(ctx context.Context, dst netip.Addr, options Options) Stats {
	var tally tally
	for range options.Count {
		sent := time.Now()
		patient, cancel := context.WithTimeout(ctx, options.Timeout)
		rtt, err := c.Echo(patient, dst, options.Size)
		cancel()
		if ctx.Err() != nil && err != nil {
			break // the caller's impatience is no loss
		}
		tally.add(sent, rtt, err)
		if err != nil {
			break
		}
	}
	return tally.stats()
}

// Stream sends a request every Options.Interval until ctx ends, whatever becomes of those before, then waits for the replies that
// may still come.
func (c *Conn) Stream(ctx context.Context, dst netip.Addr, options Options) Stats {
	var tally tally
	var flying sync.WaitGroup
	ticker := time.NewTicker(options.Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		flying.Go(func() {
			sent := time.Now()
			patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), options.Timeout)
			defer cancel()
			rtt, err := c.Echo(patient, dst, options.Size)
			tally.add(sent, rtt, err)
		})
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	flying.Wait()
	return tally.stats()
}

// tally collects outcomes, in any order.
type tally struct {
	mu       sync.Mutex
	outcomes []outcome
}

type outcome struct {
	sent time.Time
	rtt  time.Duration
	err  error
}

func (t *tally) add(sent time.Time, rtt time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomes = append(t.outcomes, outcome{sent: sent, rtt: rtt, err: err})
}

func (t *tally) stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortFunc(t.outcomes, func(a, b outcome) int { return a.sent.Compare(b.sent) })
	s := Stats{Sent: len(t.outcomes)}
	if s.Sent == 0 {
		return s
	}
	var total time.Duration
	alive := t.outcomes[0].sent // when it was last seen to work
	for _, o := range t.outcomes {
		if o.err != nil {
			s.Err = o.err
			s.Gap = max(s.Gap, o.sent.Sub(alive))
			continue
		}
		if s.Received == 0 || o.rtt < s.Min {
			s.Min = o.rtt
		}
		s.Max = max(s.Max, o.rtt)
		s.Gap = max(s.Gap, o.sent.Sub(alive))
		alive = o.sent
		total += o.rtt
		s.Received++
	}
	if s.Received > 0 {
		s.Avg = total / time.Duration(s.Received)
	}
	return s
}
