package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/twill-cni/twill/store"
)

// reporter is the name under which the daemon's changes and Events are known.
const reporter = "twilld"

const (
	// forbiddenMost is the longest pause after requests that the API server refused for want of a right: somebody has to act first.
	forbiddenMost = 30 * time.Second
	// rereadEvery is the time between two looks at a Node that is as it should be: somebody may have made it anew, or have written the
	// condition. 5,000 nodes ask 8 times a second.
	rereadEvery = 10 * time.Minute
	// lookSpacing is the least time between two looks that changes of the Node cause: somebody may put the taint back each time.
	lookSpacing = 5 * time.Second
	// lastWords is how long the end waits for Events that were not told yet: they may say why the daemon ends.
	lastWords = 2 * time.Second
)

// Reporter tells Kubernetes about this node: whether pods may come (a condition and a taint of its Node), and Events about it and its pods. Its
// methods may be called concurrently and, but for Run and Gone, return at once. Make it with Client.Reporter.
//
//	Serving ──> wish ──────────────> Run: one request at a time, again and again until it is done
//	Event ────> series, counted ───/
//
// While the API server is away, nothing is lost but Events beyond a bound. What it refuses for want of a right is tried again later, and is
// what Health returns; other failures are in the log, once.
type Reporter struct {
	client *Client
	jitter func(time.Duration) time.Duration
	wake   chan struct{} // of capacity 1

	mu      sync.Mutex
	serving bool // the wish
	asked   bool // since the Node was looked at last
	failing failures
	events  events

	// What follows is Run's alone.
	due       time.Time // when the Node is to be looked at; zero: not at all
	looked    time.Time // when that was last done
	uid       types.UID // of the Node as it was last seen
	pause     time.Duration
	tellAgain time.Time // no Event is written before
	tellPause time.Duration
}

// Reporter returns what reports about this node. jitter returns a random duration in [0, d); it spreads the requests of many nodes.
func (c *Client) Reporter(jitter func(d time.Duration) time.Duration) *Reporter {
	return &Reporter{client: c, jitter: jitter, wake: make(chan struct{}, 1), failing: failures{}, events: newEvents(c.node)}
}

// Serving says that the node can serve pods: Run makes its Node's condition NetworkUnavailable false, removes the taint
// twill-cni.github.io/agent-not-ready, and keeps it so until it ends. What is right already is not written.
func (r *Reporter) Serving() {
	r.mu.Lock()
	r.serving, r.asked = true, true
	r.mu.Unlock()
	r.rouse()
}

// Event tells of something. The same Event again is counted and not written again. Beyond some hundred that could not be written, it is dropped.
func (r *Reporter) Event(e store.Event) {
	r.mu.Lock()
	fresh, dropped := r.events.add(e, time.Now())
	r.mu.Unlock()
	if dropped {
		r.client.log.Debug("too many Events: one is not told", "reason", e.Reason, "message", e.Message)
	}
	if fresh {
		r.rouse()
	}
}

// Health returns what the API server refuses for want of a right, as a store.Trouble that names the rule; nil when nothing is. It does no I/O.
func (r *Reporter) Health() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, what := range r.failing.sorted() {
		if f := r.failing[what]; f.told && apierrors.IsForbidden(f.err) {
			errs = append(errs, f.err)
		}
	}
	return errors.Join(errs...)
}

// Gone says that Twill leaves this node: the condition NetworkUnavailable becomes true, unless it is another network's by now. It does so at
// once, and tries again until ctx ends. It is for a node on which Run does not run.
func (r *Reporter) Gone(ctx context.Context) error {
	pause := retryFirst
	for {
		err := r.client.removed(ctx)
		if err == nil || apierrors.IsForbidden(err) {
			return err
		}
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return err
		case <-again.C:
		}
		pause = min(2*pause, retryMost)
	}
}

func (r *Reporter) rouse() {
	select {
	case r.wake <- struct{}{}:
	default: // it is awake already
	}
}

// Run does what was wished until ctx ends. When it returns, all has ended. It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	follower, ok := r.client.nodes.follow(r.client.node)
	if !ok {
		return errClosed
	}
	defer follower.close()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
			defer cancel()
			r.flush(last)
			return nil
		case <-r.wake:
		case <-follower.wake:
			changed, _ := follower.take()
			r.see(changed[r.client.node])
		case <-next.C:
		}
		at := r.look(ctx)
		if t := r.tell(ctx); at.IsZero() || !t.IsZero() && t.Before(at) {
			at = t
		}
		if !at.IsZero() {
			next.Reset(time.Until(at))
		}
	}
}

// see takes note of the Node as it is watched, nil when it is not there. It is looked at when it has the taint or is another one than before.
func (r *Reporter) see(n *corev1.Node) {
	if n == nil || r.due.IsZero() || n.UID == r.uid && taintPatch(n.Spec.Taints) == nil {
		return
	}
	r.uid = n.UID
	if soon := r.looked.Add(lookSpacing); soon.Before(r.due) {
		r.due = soon
	}
}

// look makes the Node right if that is wished and due. It returns when to look again, zero for never.
func (r *Reporter) look(ctx context.Context) time.Time {
	r.mu.Lock()
	serving, asked := r.serving, r.asked
	r.asked = false
	r.mu.Unlock()
	if asked {
		r.due = time.Now()
	}
	if !serving || time.Now().Before(r.due) {
		return r.due
	}
	r.looked = time.Now()
	n, err := r.client.readNode(ctx)
	r.note(ctx, "read the Node", err)
	if err == nil {
		r.uid = n.UID
		condition := r.client.setCondition(ctx, n, isUp)
		r.note(ctx, "set the Node's condition", condition)
		taint := r.client.removeTaint(ctx, n)
		r.note(ctx, "remove the Node's taint", taint)
		err = errors.Join(condition, taint)
	}
	r.due = time.Now().Add(r.after(err))
	return r.due
}

// after returns the pause after a look with that outcome.
func (r *Reporter) after(err error) time.Duration {
	switch {
	case err == nil:
		r.pause = 0
		return rereadEvery + r.jitter(rereadEvery/10)
	}
	r.pause = longer(r.pause, err)
	return r.pause + r.jitter(r.pause)
}

// longer returns the pause after one more failure.
func longer(pause time.Duration, err error) time.Duration {
	most := retryMost
	if apierrors.IsForbidden(err) {
		most = forbiddenMost
	}
	return min(max(2*pause, retryFirst), most)
}

// note keeps the outcome of a request, and logs a failure of another kind than before.
func (r *Reporter) note(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch begins, ends := r.failing.note(what, err, time.Now()); {
	case begins:
		r.client.log.Warn("Kubernetes API: cannot report; trying again", "request", what, "err", err)
	case ends:
		r.client.log.Info("Kubernetes API: it succeeds again", "request", what)
	}
}
