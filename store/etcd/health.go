package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	probeInterval = 2 * time.Second        // between probes that were answered
	probeRetry    = 500 * time.Millisecond // after one that was not
	probeTimeout  = 2 * time.Second
	healthGrace   = 3 * time.Second // for how long an answer outweighs a later error

	// The bounds of how long an outage is that may have cost nodes their leases: a third of LeaseTTL, since a renewal may have been
	// due when it began, within these. Other nodes' TTL is not known; flanneld renews an hour before the end, unless told otherwise.
	shortestLong = 5 * time.Second // more than between probes that are answered
	longestLong  = time.Minute
)

// health is what the store knows of etcd's. An etcd that dies is noticed within healthGrace, one that falls silent within
// probeInterval + probeTimeout.
type health struct {
	long time.Duration // from this length on an outage is a long one

	mu       sync.Mutex
	last     time.Time // of an answer
	longOver time.Time // when the last long outage was found to be over
	err      error     // of the last probe
	revision int64     // the highest of this epoch
	history  string    // the mark of this epoch's; "" until it was read
	epoch    context.Context
	endEpoch context.CancelFunc
}

func (h *health) init(leaseTTL time.Duration) {
	h.long = min(max(leaseTTL/3, shortestLong), longestLong)
	h.err = errors.New("etcd has not answered yet")
	h.epoch, h.endEpoch = context.WithCancel(context.Background())
}

// Health implements store.Store.
func (s *Store) Health() error {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.err == nil || time.Since(s.health.last) < healthGrace {
		return nil
	}
	return fmt.Errorf("%s: %w", s.cfg, s.health.err)
}

// answered notes that etcd answered a request just now, at a revision, which is 0 when the answer does not say.
func (h *health) answered(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard()
	h.revision = max(h.revision, revision)
}

// heard notes the time of an answer. h.mu is held.
func (h *health) heard() {
	now := time.Now()
	if !h.last.IsZero() && now.Sub(h.last) >= h.long {
		h.longOver = now
	}
	h.last = now
}

// sinceLongOutage returns how long ago a long outage ended; the longest duration when there was none.
func (h *health) sinceLongOutage() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.longOver)
}

// seen returns the highest revision of this epoch.
func (h *health) seen() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// reading is what a probe read.
type reading struct {
	revision int64
	history  string // the mark; "" when it may not be read or written
}

// probed notes the outcome of a probe that began when the revision before had been seen. The probe's read is linearizable: within one
// history of etcd its revision is not lower, and its mark is the same. When either is not so, probed starts a new epoch and reports true.
func (h *health) probed(before int64, got reading, err error) (reset bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if err != nil {
		return false
	}
	h.heard()
	another := h.history != "" && got.history != "" && h.history != got.history
	if reset = another || got.revision < before; reset {
		h.endEpoch()
		h.epoch, h.endEpoch = context.WithCancel(context.Background())
		h.revision = 0
	}
	h.revision = max(h.revision, got.revision)
	if got.history != "" {
		h.history = got.history
	}
	return reset
}

// epoch returns a context that ends when what was read from etcd is no longer part of its history.
func (s *Store) epoch() context.Context {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.epoch
}

// probe asks etcd for its revision until the store is closed.
func (s *Store) probe() {
	defer s.health.end()
	healthy := false
	for {
		before := s.health.seen()
		got, err := s.ask()
		if s.ctx.Err() != nil {
			return
		}
		if s.health.probed(before, got, err) {
			s.log.Warn("etcd is not the one that it was: it was restored or wiped; everything is read again", "revision", got.revision)
		}
		if errors.Is(err, rpctypes.ErrAuthFailed) && s.cfg.PasswordFile != "" {
			_ = s.disconnect() // the next client reads the file again: the password may have been changed
		}
		pause := probeInterval
		switch {
		case err != nil:
			pause = probeRetry
			if healthy {
				s.log.Warn("etcd does not answer", "etcd", s.cfg, "err", err)
			}
		case !healthy:
			s.log.Info("etcd answers", "etcd", s.cfg, "revision", got.revision)
		}
		healthy = err == nil
		if !sleep(s.ctx, pause) {
			return
		}
	}
}

func (h *health) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endEpoch()
}

// ask reads the mark, and makes one where there is none. Whoever may not do either goes by the revision alone.
func (s *Store) ask() (reading, error) {
	ctx, cancel := context.WithTimeout(s.ctx, probeTimeout)
	defer cancel()
	cli, err := s.client()
	if err != nil {
		return reading{}, err
	}
	key := s.historyKey()
	resp, err := cli.Get(ctx, key)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		key = s.configKey()
		resp, err = cli.Get(ctx, key, clientv3.WithCountOnly())
	}
	switch {
	case err != nil:
		return reading{}, fmt.Errorf("probe %s: %w", key, err)
	case len(resp.Kvs) != 0:
		return reading{resp.Header.Revision, string(resp.Kvs[0].Value)}, nil
	case key != s.historyKey():
		return reading{resp.Header.Revision, ""}, nil
	}
	mark := rand.Text()
	made, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, mark)).Else(clientv3.OpGet(key)).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return reading{resp.Header.Revision, ""}, nil
	case err != nil:
		return reading{}, fmt.Errorf("mark etcd's history with %s: %w", key, err)
	case !made.Succeeded: // another node was faster: the key is there
		mark = string(made.Responses[0].GetResponseRange().Kvs[0].Value)
	}
	return reading{made.Header.Revision, mark}, nil
}

// historyKey is where the mark is: a random text that the first node writes. An etcd without it, or with another, is another one than before.
func (s *Store) historyKey() string { return s.cfg.Prefix + "/registry/history" }
