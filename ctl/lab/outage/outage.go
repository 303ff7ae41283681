package outage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/ping"
)

// Options say how to watch. Both fields are required.
type Options struct {
	Interval time.Duration // between two requests on a path
	Timeout  time.Duration // a reply that takes longer is lost
}

// Path is a way that is watched.
type Path struct {
	From, To string
	Address  netip.Addr // of To
	Source   netns.Namespace
}

// Paths returns the ways between the first pods of all nodes, in each direction and family: what a change of nodes can cut.
func Paths(l *lab.Lab) []Path {
	var pods []*lab.Pod
	for _, n := range l.Nodes() {
		if on := n.Pods(); len(on) > 0 {
			pods = append(pods, on[0])
		}
	}
	var paths []Path
	for _, from := range pods {
		for _, to := range pods {
			for _, a := range to.Addrs() {
				if from != to {
					paths = append(paths, Path{From: from.Name, To: to.Name, Address: a, Source: from.Netns()})
				}
			}
		}
	}
	return paths
}

// Watch watches paths until Close. Its methods may be called concurrently.
type Watch struct {
	options Options
	stop    context.CancelFunc
	running sync.WaitGroup
	conns   []*ping.Conn
	tracks  []*track
}

// Start starts watching.
func Start(paths []Path, options Options) (*Watch, error) {
	ctx, stop := context.WithCancel(context.Background())
	w := &Watch{options: options, stop: stop}
	type source struct {
		namespace netns.Namespace
		v6        bool
	}
	bySource := map[source]*ping.Conn{}
	for _, p := range paths {
		from := source{p.Source, p.Address.Is6()}
		conn := bySource[from]
		if conn == nil {
			var err error
			if conn, err = listen(p); err != nil {
				return nil, errors.Join(err, w.Close())
			}
			bySource[from], w.conns = conn, append(w.conns, conn)
		}
		t := &track{path: p}
		w.tracks = append(w.tracks, t)
		w.running.Go(func() { w.run(ctx, t, conn) })
	}
	return w, nil
}

func listen(p Path) (conn *ping.Conn, err error) {
	err = p.Source.Do(func() (err error) {
		conn, err = ping.Listen(p.Address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch from %s: %w", p.From, err)
	}
	return conn, nil
}

// Close ends watching. Requests under way are forgotten.
func (w *Watch) Close() error {
	w.stop()
	w.running.Wait()
	var failed []error
	for _, c := range w.conns {
		failed = append(failed, c.Close())
	}
	w.conns = nil
	return errors.Join(failed...)
}

// run sends until ctx ends, whatever becomes of the requests before.
func (w *Watch) run(ctx context.Context, t *track, conn *ping.Conn) {
	var flying sync.WaitGroup
	defer flying.Wait()
	ticker := time.NewTicker(w.options.Interval)
	defer ticker.Stop()
	for {
		r := t.send(time.Now())
		flying.Go(func() {
			patient, cancel := context.WithTimeout(ctx, w.options.Timeout)
			defer cancel()
			_, err := conn.Echo(patient, t.path.Address, 0)
			t.settle(r, err)
		})
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Window returns what became of the requests that were sent from since until now, for each path in the order of Start's, and which time now
// was: the next window's since. It waits until all of them are answered or lost, or ctx ends. What was sent before since is forgotten.
func (w *Watch) Window(ctx context.Context, since time.Time) (list []Outage, until time.Time, err error) {
	until = time.Now()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for _, t := range w.tracks {
		for !t.settled(until) {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return nil, until, fmt.Errorf("watch from %s to %s: %w", t.path.From, t.path.To, ctx.Err())
			}
		}
	}
	for _, t := range w.tracks {
		list = append(list, t.outage(since, until))
		t.forget(since)
	}
	return list, until, nil
}
