package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/twill-cni/twill/bgp"
)

const (
	// gather is how long the first prefix in doubt waits for others, so that a flood of updates is merged in few steps.
	gather = 5 * time.Millisecond
	// stopTime bounds the library's shutdown.
	stopTime = 5 * time.Second
)

// Speaker is a bgp.Speaker. Only one of a process may be running at a time, since the library keeps some of its settings in package
// variables.
type Speaker struct {
	log   *slog.Logger
	doubt chan struct{} // of capacity 1: the engine has marks

	started chan struct{} // closed when Run has begun

	// apply serialises what changes the library's settings or reads its table into ours.
	apply  sync.Mutex
	engine *engine // under apply; nil before the first Set
	ended  bool    // under apply; Run is over

	sessions *sessions

	mu      sync.RWMutex
	table   []*bgp.Route
	settled bool
}

var _ bgp.Speaker = (*Speaker)(nil)

// New returns a speaker that logs ups and downs of sessions at Info. It does nothing before Run.
func New(log *slog.Logger) *Speaker {
	return &Speaker{
		log:      log,
		doubt:    make(chan struct{}, 1),
		started:  make(chan struct{}),
		sessions: newSessions(log, time.Now),
	}
}

// Run implements bgp.Speaker.
func (s *Speaker) Run(ctx context.Context, changed func()) error {
	close(s.started)

	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	var due time.Time // when timer fires; zero: never
	at := func(t time.Time) {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
			timer.Reset(time.Until(t))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return s.stop()
		case <-s.doubt:
			at(time.Now().Add(gather))
			continue
		case <-s.sessions.wake:
		case <-timer.C:
			due = time.Time{}
		}
		news := s.chores()
		again, err := s.read()
		if err != nil {
			return errors.Join(err, s.stop())
		}
		next, settledNow := s.settle()
		at(next)
		silent, next := s.sessions.silences()
		at(next)
		at(s.later(ctx))
		look, bfd := s.check(ctx)
		at(look)
		if news || again || settledNow || silent || bfd {
			changed()
		}
	}
}

// stop ends all sessions, those with graceful restart without a word.
func (s *Speaker) stop() error {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.ended = true
	if s.engine == nil {
		return nil
	}
	err := s.engine.stop(true)
	s.engine = nil
	return err
}

// Set implements bgp.Speaker. Before Run it waits for Run.
func (s *Speaker) Set(ctx context.Context, want bgp.Instance) error {
	select {
	case <-s.started:
	case <-ctx.Done():
		return fmt.Errorf("set BGP speaker: %w", ctx.Err())
	}
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.ended {
		return errors.New("set BGP speaker: it has stopped")
	}

	if s.engine != nil && !sameGlobal(s.engine.want, want) {
		s.log.Info("BGP speaker starts anew", "as", want.AS, "router-id", want.RouterID, "port", want.Port)
		if err := s.engine.stop(false); err != nil {
			s.log.Warn("BGP speaker did not stop in order", "error", err)
		}
		s.engine = nil
		s.sessions.reset()
		s.replaceTable(nil)
	}
	if s.engine == nil {
		e, err := startEngine(ctx, s, want)
		if err != nil {
			return err
		}
		s.engine = e
	}
	// A neighbour that is new after everything was learned again knew nothing of the restart.
	want.Restarting = want.Restarting && !s.Settled()
	return s.engine.set(ctx, want)
}

// Learned implements bgp.Speaker.
func (s *Speaker) Learned() []*bgp.Route {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.table
}

// Settled implements bgp.Speaker.
func (s *Speaker) Settled() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.settled
}

// read takes the prefixes in doubt and puts what the library's table says of them into ours. It reports whether that changed anything.
func (s *Speaker) read() (bool, error) {
	s.apply.Lock()
	defer s.apply.Unlock()
	if s.engine == nil {
		return false, nil
	}
	table := s.Learned()
	findings := s.engine.marks.take(table)
	if err := s.engine.lookup(findings); err != nil {
		return false, fmt.Errorf("read the BGP table: %w", err)
	}
	return s.replaceTable(merge(table, findings)), nil
}

func (s *Speaker) replaceTable(table []*bgp.Route) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(table) == len(s.table) && (len(table) == 0 || &table[0] == &s.table[0]) {
		return false
	}
	s.table = table
	return true
}

// settle returns when it is to be asked again (zero: never) and whether the speaker has just settled.
func (s *Speaker) settle() (next time.Time, now bool) {
	if s.Settled() {
		return time.Time{}, false
	}
	settled, next := s.sessions.settled()
	if !settled {
		return next, false
	}
	s.mu.Lock()
	s.settled = true
	s.mu.Unlock()
	return time.Time{}, true
}

// sameGlobal reports whether b can be reached from a without ending all sessions.
func sameGlobal(a, b bgp.Instance) bool {
	return a.AS == b.AS && a.RouterID == b.RouterID && a.Port == b.Port && slices.Equal(a.Listen, b.Listen) &&
		a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6
}

// same compares settings, which are plain data.
func same[T any](a, b T) bool { return reflect.DeepEqual(a, b) }
