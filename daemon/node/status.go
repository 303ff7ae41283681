package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twill-cni/twill/store"
)

var (
	errStarting   = errors.New("starting")
	errLearning   = errors.New("waiting for what BGP peers have to say")
	errBehind     = errors.New("programming peers that came during the first sync")
	errNoSnapshot = errors.New("waiting for the first snapshot of the datastore")
)

// stuck is how long a sync may take before the node counts as dead. 20,000 peers from a cold start take a few seconds.
const stuck = 2 * time.Minute

// Status is the node's health. Its methods may be called concurrently; they do no I/O.
type Status struct {
	store store.Store

	mu      sync.Mutex
	reg     store.Registration // nil before it is there
	state   error              // why the node does not serve as it should; nil when it does
	monitor error              // why the kernel cannot be watched
	begun   time.Time          // of the sync that runs; zero when none does
	lastOK  time.Time          // end of the last good sync; zero before the first
}

// Ready returns nil when all peers are programmed, the kernel can be watched, the datastore answers and the lease is
// held; else everything that is amiss.
func (s *Status) Ready() error {
	s.mu.Lock()
	state, monitor, reg := s.state, s.monitor, s.reg
	s.mu.Unlock()
	errs := []error{state, monitor}
	if err := s.store.Health(); err != nil {
		errs = append(errs, fmt.Errorf("datastore: %w", err))
	}
	if reg != nil {
		if err := reg.Err(); err != nil {
			errs = append(errs, fmt.Errorf("lease %s: %w", reg.Lease().Subnets(), err))
		}
	}
	return errors.Join(errs...)
}

// Amiss returns what of Ready's errors keeps this node itself from serving as it should, or has a reason (store.Trouble), which means that
// somebody has to act. A datastore that is away is neither: what the node holds stays in force.
func (s *Status) Amiss() error {
	s.mu.Lock()
	state, monitor, reg := s.state, s.monitor, s.reg
	s.mu.Unlock()
	errs := []error{state, monitor}
	if err := s.store.Health(); store.ReasonOf(err, "") != "" {
		errs = append(errs, fmt.Errorf("datastore: %w", err))
	}
	if reg != nil {
		if err := reg.Err(); store.ReasonOf(err, "") != "" || errors.Is(err, store.ErrLost) {
			errs = append(errs, fmt.Errorf("lease %s: %w", reg.Lease().Subnets(), err))
		}
	}
	return errors.Join(errs...)
}

// Live returns nil unless a sync has been running for so long that it will not end.
func (s *Status) Live(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun.IsZero() && now.Sub(s.begun) > stuck {
		return fmt.Errorf("a sync has been running for %s", now.Sub(s.begun).Round(time.Second))
	}
	return nil
}

// LastSync returns when the last good sync ended; the zero Time before the first.
func (s *Status) LastSync() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastOK
}

func (s *Status) set(state error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func (s *Status) setMonitor(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.monitor = err
}

func (s *Status) setRegistration(reg store.Registration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reg = reg
}

func (s *Status) begin(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = now
}

func (s *Status) end(r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun, s.state = time.Time{}, r.Err
	if r.Err == nil {
		s.lastOK = r.End
	}
	switch {
	case r.Err != nil:
	case r.Learning:
		s.state = errLearning
	case r.Behind:
		s.state = errBehind
	}
}
