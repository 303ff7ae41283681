package storetest

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Backend is a datastore that a test disturbs.
type Backend interface {
	// Stop makes the backend unreachable at once and ends it; Start starts it again with what it held, at the same address.
	Stop()
	Start()
	// Compact forgets the backend's history of changes.
	Compact()
}

// follow runs a watch in a goroutine of its own until the test ends or stop is called, which returns the watch's error.
func follow[T any](t testing.TB, watch func(context.Context, func(T)) error) (told <-chan T, stop func() error) {
	all := make(chan T, 10000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- watch(ctx, func(c T) { all <- c }) }()
	stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err // for who stops it again
			return err
		case <-time.After(soon):
			return errors.New("the watch did not end with its context")
		}
	}
	t.Cleanup(func() { _ = stop() })
	return all, stop
}

// watching is a watch that is followed, and somebody who takes what it tells. It is for one goroutine.
type watching[T any] struct {
	t       testing.TB
	changes <-chan T
	take    func(T)
	state   func() string // what is known, in words

	Told int          // changes that were taken
	Stop func() error // ends the watch, and returns its error
}

func newWatching[T any](t testing.TB, watch func(context.Context, func(T)) error, take func(T), state func() string) *watching[T] {
	w := &watching[T]{t: t, take: take, state: state}
	w.changes, w.Stop = follow(t, watch)
	return w
}

// Until takes changes, one at least if there never was one, until done reports true.
func (w *watching[T]) Until(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.After(soon); w.Told == 0 || !done(); {
		select {
		case c := <-w.changes:
			w.add(c)
		case <-deadline:
			w.t.Fatalf("not within %s: %s; after %d changes have %s", soon, what, w.Told, w.state())
		}
	}
}

// Still reports whether nothing was told since. What was, it takes, one change of it.
func (w *watching[T]) Still() bool {
	w.t.Helper()
	select {
	case c := <-w.changes:
		w.add(c)
		return false
	default:
		return true
	}
}

func (w *watching[T]) add(c T) {
	w.t.Helper()
	w.take(c)
	w.Told++
}
