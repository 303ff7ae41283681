package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// learner is the backend of the test's world, except that it knows only of the peers that it is told of.
type learner struct {
	Backend
	mu      sync.Mutex
	knows   []*store.Lease
	settled bool
	changed func()
	ended   chan error
}

func (l *learner) Run(ctx context.Context, changed func()) error {
	l.mu.Lock()
	l.changed = changed
	l.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.ended:
		return err
	}
}

func (l *learner) Settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled
}

func (l *learner) Fragments(uplink kernel.Uplink, self *store.Lease, _ []*store.Lease) ([]*kernel.Fragment, []store.Reject, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Backend.Fragments(uplink, self, l.knows)
}

func (l *learner) learn(settled bool, knows ...*store.Lease) {
	l.mu.Lock()
	l.knows, l.settled = knows, settled
	changed := l.changed
	l.mu.Unlock()
	if changed != nil {
		changed()
	}
}

func (w *world) startLearner(l *learner) {
	opts := w.options()
	backend := opts.Backend
	opts.Backend = func(n store.Network) (Backend, error) {
		b, err := backend(n)
		l.Backend = b
		return l, err
	}
	w.startWith(opts)
}

func TestWhatAnEarlierRunLearnedStaysUntilTheBackendHasSettled(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.startLearner(&learner{settled: true, knows: []*store.Lease{peer(101), peer(102)}})
		w.pass(time.Second)
		w.wantHas(true, append(peerObjects(101), peerObjects(102)...)...)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}

		again := &learner{ended: make(chan error)}
		w.startLearner(again)
		w.pass(time.Second)
		w.wantUnready("waiting for what BGP peers have to say")
		w.wantHas(true, append(peerObjects(101), peerObjects(102)...)...)

		again.learn(false, peer(101), peer(103))
		w.pass(time.Second)
		w.wantHas(true, append(peerObjects(102), peerObjects(103)...)...)

		again.learn(true, peer(101), peer(103))
		w.pass(time.Second)
		w.wantReady()
		w.wantHas(true, append(peerObjects(101), peerObjects(103)...)...)
		w.wantHas(false, peerObjects(102)...)
	})
}

func TestNodeEndsWhenItsLearnerCannotGoOn(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		broken := errors.New("the port is taken")
		l := &learner{ended: make(chan error, 1)}
		w.startLearner(l)
		l.ended <- broken
		w.pass(time.Second)
		if err := w.stop(); !errors.Is(err, broken) {
			t.Errorf("Run returned %v", err)
		}
	})
}
