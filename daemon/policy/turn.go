package policy

import (
	"context"
	"errors"
	"fmt"
)

// turn is a mutex that one can stop waiting for. Make it with newTurn.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// Lock waits for its turn.
func (t turn) Lock() { t <- struct{}{} }

// Unlock lets the next one have its turn.
func (t turn) Unlock() { <-t }

// LockContext waits for its turn, until ctx ends.
func (t turn) LockContext(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// busy reports whether somebody has the turn at the moment.
func (t turn) busy() bool { return len(t) > 0 }

// ask holds e.state for a question, which has an answer as soon as policies were read; release ends it. A question does not wait longer for a sync than ctx lasts.
func (e *Enforcer) ask(ctx context.Context) (release func(), err error) {
	if err := e.state.LockContext(ctx); err != nil {
		return nil, fmt.Errorf("policies are busy being programmed: %w", err)
	}
	if !e.synced {
		defer e.state.Unlock()
		return nil, errors.Join(errNotSynced, e.progress.State().Err)
	}
	return e.state.Unlock, nil
}
