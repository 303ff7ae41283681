package report

import (
	"context"
	"time"

	"github.com/twill-cni/twill/store"
)

// The reasons of the node's Events. A store.Trouble has its own.
const (
	ReasonNotReady = "NetworkNotReady"
	ReasonReady    = "NetworkReady"
)

const (
	// patience is for how long the node must be amiss to be told so, and well again to be told well.
	patience = 10 * time.Second
	// The time between two looks, before the node serves for the first time and later.
	lookSoon  = 100 * time.Millisecond
	lookLater = 2 * time.Second
)

// Teller tells the cluster; kube.Reporter is the real one. Its methods return at once.
type Teller interface {
	// Serving says that pods may come.
	Serving()
	Event(e store.Event)
}

// Options are what a Follower works with.
type Options struct {
	// Ready returns nil when pods can be attached and served. Neither it nor Amiss does I/O.
	Ready func() error
	// Amiss returns what keeps this node from serving as it should, or what a person has to mend; nil when that is nothing.
	Amiss  func() error
	Teller Teller
}

// Follower follows one node. Make it with New.
type Follower struct {
	opts  Options
	state state // Run's alone
}

// New returns a Follower that does nothing before Run.
func New(opts Options) *Follower { return &Follower{opts: opts} }

// Run follows the node until ctx ends. It must be called once.
func (f *Follower) Run(ctx context.Context) error {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if !f.state.served && f.opts.Ready() == nil {
			f.state.served = true
			f.opts.Teller.Serving()
		}
		for _, e := range f.state.look(time.Now(), f.opts.Amiss()) {
			f.opts.Teller.Event(e)
		}
		if f.state.served {
			look.Reset(lookLater)
		} else {
			look.Reset(lookSoon)
		}
	}
}

// Failed is the Event of a failure with which the daemon ends.
func Failed(err error) store.Event {
	return store.Event{Warning: true, Reason: store.ReasonOf(err, ReasonNotReady), Message: err.Error()}
}

// state is what was seen and told of a node.
type state struct {
	served bool // Serving was told
	amiss  bool
	since  time.Time       // when that was first seen
	told   map[string]bool // reasons, of the failure that lasts
}

// look takes note of a look at the node, and returns what is to be told.
func (s *state) look(now time.Time, amiss error) []store.Event {
	if (amiss != nil) != s.amiss || s.since.IsZero() {
		s.amiss, s.since = amiss != nil, now
	}
	if now.Sub(s.since) < patience {
		return nil
	}
	reason := store.ReasonOf(amiss, ReasonNotReady)
	switch {
	case s.amiss && !s.told[reason]:
		if s.told == nil {
			s.told = map[string]bool{}
		}
		s.told[reason] = true
		return []store.Event{{Warning: true, Reason: reason, Message: amiss.Error()}}
	case !s.amiss && len(s.told) > 0:
		s.told = nil
		return []store.Event{{Reason: ReasonReady, Message: "Twill serves the pods of this node as it should"}}
	}
	return nil
}
