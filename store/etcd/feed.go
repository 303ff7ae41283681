package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// feed follows all keys below a prefix for its reader: what there is first, and every change after that, through whatever happens to etcd. It
// belongs to one goroutine. Its run is for keepUp.
type feed struct {
	store  *Store
	prefix string
	to     reader

	epoch    context.Context
	revision int64 // etcd's, up to which the reader knows everything; 0: it has to be loaded
	loaded   int64 // etcd's, at which everything was last read
	lost     bool  // etcd's history changed since then
}

// reader is what learns of a feed's keys. Its methods are called from one goroutine.
type reader interface {
	// load reads everything below the prefix and returns the revision that it is of. It changes nothing unless it succeeds. lost says that
	// etcd lost its data, or went back to older data, since the last load.
	load(ctx context.Context, lost bool) (revision int64, err error)
	// change takes in what happened to one key.
	change(event *clientv3.Event)
	// due yields when the reader has something to do by itself, which elapse does; it is nil while there is nothing.
	due() <-chan time.Time
	elapse()
	// publish tells what is new since it was last called. It comes after load, after elapse, and after all changes that came together.
	publish()
}

// run follows the keys until that breaks, from the revision on that the reader knows everything up to. It reports whether etcd told it anything.
//
// When they have to be loaded, the watch stands before they are read: a watch from a revision that is past already is served by
// etcd's catch-up loop, up to 100 ms late (server/storage/mvcc/watchable_store.go, syncWatchersLoop).
func (f *feed) run(ctx context.Context) (progressed bool, err error) {
	if epoch := f.store.epoch(); epoch != f.epoch {
		f.lost = f.lost || f.epoch != nil
		f.epoch, f.revision = epoch, 0
	}
	cli, err := f.store.client()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(f.epoch, cancel)()
	batches := gather(cli.Watch(clientv3.WithRequireLeader(ctx), f.prefix, f.options()...)) // when Watch returns, it stands
	defer func() {
		cancel()
		for range batches { // until gather has ended
		}
	}()
	if f.revision == 0 {
		revision, err := f.to.load(ctx, f.lost)
		if err != nil {
			return false, err
		}
		f.revision, f.loaded, f.lost = revision, revision, false
		f.to.publish()
		progressed = true
	}
	followed, err := f.follow(batches)
	return progressed || followed, err
}

func (f *feed) options() []clientv3.OpOption {
	options := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithProgressNotify()}
	if f.revision != 0 {
		options = append(options, clientv3.WithRev(f.revision+1))
	}
	return options
}

// spacing is the time between two publications, at the least. A snapshot of leases is a copy of an array with all of them: 1,000 nodes that
// register in a twentieth of a second would otherwise cost hundreds of copies.
const spacing = 5 * time.Millisecond

// follow passes on what happens after f.revision.
func (f *feed) follow(batches <-chan []clientv3.WatchResponse) (progressed bool, err error) {
	var rest <-chan time.Time // nil: the next batch may come
	for open := true; open; {
		var batch []clientv3.WatchResponse
		next := batches
		if rest != nil {
			next = nil
		}
		select {
		case <-rest:
			rest = nil
			continue
		case batch, open = <-next:
			rest = time.After(spacing)
		case <-f.to.due():
			f.to.elapse()
		}
		for i := 0; i < len(batch) && err == nil; i++ {
			err = f.apply(batch[i])
		}
		f.to.publish()
		if err != nil {
			return progressed, err
		}
		progressed = progressed || len(batch) > 0
	}
	if f.epoch.Err() != nil {
		return progressed, errors.New("etcd's history changed")
	}
	return progressed, errors.New("etcd ended the watch")
}

// gather passes on all responses that have come since its receiver last took some. It ends with events.
func gather(events clientv3.WatchChan) <-chan []clientv3.WatchResponse {
	batches := make(chan []clientv3.WatchResponse)
	go func() {
		defer close(batches)
		var pending []clientv3.WatchResponse
		for {
			var ready chan<- []clientv3.WatchResponse // nil while there is nothing to pass on
			if len(pending) > 0 {
				ready = batches
			}
			select {
			case ready <- pending:
				pending = nil
			case resp, open := <-events:
				if !open {
					if len(pending) > 0 {
						batches <- pending
					}
					return
				}
				pending = append(pending, resp)
			}
		}
	}()
	return batches
}

// apply passes on what resp says.
func (f *feed) apply(resp clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		if resp.CompactRevision != 0 {
			f.revision = 0 // what happened since is unknown
		}
		return fmt.Errorf("watch %s: %w", f.prefix, err)
	}
	f.store.health.answered(resp.Header.Revision) // before all else: it may end a long outage
	for _, event := range resp.Events {
		if event.Kv.ModRevision <= f.loaded { // it came while everything was read, which says it
			continue
		}
		f.to.change(event)
		f.revision = event.Kv.ModRevision
	}
	// The header's revision may be ahead of the events while the server still catches up; only an answer
	// without events says that there is nothing up to it.
	if resp.IsProgressNotify() {
		f.revision = max(f.revision, resp.Header.Revision)
	}
	return nil
}
