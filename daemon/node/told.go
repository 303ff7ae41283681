package node

import (
	"log/slog"

	"github.com/twill-cni/twill/store"
)

// told remembers what was logged and announced, so that each thing is said when it changes and not with each sync.
type told struct {
	log       *slog.Logger
	err       string            // of the last sync; empty after a good one
	rejects   map[string]string // key and family -> reason
	ready     bool
	last      Announcement
	announces bool
}

func newTold(log *slog.Logger) told { return told{log: log} }

// synced logs that syncs began to fail, that they ended failing, and the first that succeeds. What a sync changed, and
// conflicts between peers, are logged by the dataplane.
func (t *told) synced(r Report) {
	switch {
	case r.Err != nil && r.Err.Error() != t.err:
		t.log.Error("sync failed; trying again", "err", r.Err)
	case r.Err == nil && t.err != "":
		t.log.Info("syncs succeed again")
	}
	t.err = ""
	if r.Err != nil {
		t.err = r.Err.Error()
	} else if !t.ready && !r.Learning && !r.Behind {
		t.ready = true
		t.log.Info("the node is ready", "peers", r.Peers, "rejected", r.Rejected)
	}
}

// rejected logs peers and records that are skipped, once for each reason.
func (t *told) rejected(rejects []store.Reject) {
	now := make(map[string]string, len(rejects))
	for _, r := range rejects {
		id := r.Key + " " + r.Err.Error()
		if now[id] = r.Key; t.rejects[id] == "" {
			t.log.Warn("skipped a peer", "record", r.Key, "err", r.Err)
		}
	}
	for id, key := range t.rejects {
		if now[id] == "" {
			t.log.Info("a peer that was skipped is mended or gone", "record", key)
		}
	}
	t.rejects = now
}

func (t *told) announced(a Announcement) bool { return t.announces && t.last.equal(a) }

func (t *told) announce(a Announcement) {
	if !t.announced(a) {
		t.log.Info("announced the node to the container runtime", "subnets", a.Subnets, "mtu", a.MTU)
	}
	t.last, t.announces = a, true
}

// equal compares what can change while a network configuration is in use.
func (a Announcement) equal(b Announcement) bool { return a.Subnets == b.Subnets && a.MTU == b.MTU }
