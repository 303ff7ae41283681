package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/twill-cni/twill/store"
)

// client-go has a recorder for Events, which is not used: it starts a goroutine for each Event, without a bound and for up to two minutes when the
// API server is away, and nobody can wait for them to end.

const (
	// seriesMost bounds the Events that are remembered.
	seriesMost = 256
	// seriesSpacing is the time between two writes of one series. An Event that comes again and again costs a request in that time.
	seriesSpacing = time.Minute
	// seriesEnd is how long a series is remembered after its last Event: what comes later is another series (KEP-383).
	seriesEnd = 6 * time.Minute
	// seriesStale is how long it is tried to write an Event. The API server itself forgets Events after an hour.
	seriesStale = time.Hour

	// How many requests for Events may be made at once, and the time in which one more becomes allowed.
	eventBurst = 25
	eventEvery = 5 * time.Second
)

// Limits of the API (k8s.io/kubernetes/pkg/apis/core/validation/events.go).
const (
	reasonMost   = 128
	instanceMost = 128
	noteMost     = 1024
	nameMost     = 253
)

var mayEvent = map[string]rule{
	"create": {"create", "events.k8s.io", "events", "to tell of the node and its pods"},
	"patch":  {"patch", "events.k8s.io", "events", "to count an Event that repeats"},
}

// events are the Events of this node, oldest first.
type events struct {
	node   string
	series map[store.Event]*series
	order  []*series
	names  int64 // the last number in an Event's name
	left   float64
	filled time.Time // when left was what it is
}

func newEvents(node string) events {
	return events{node: node, series: map[store.Event]*series{}, left: eventBurst}
}

// series is one Event and how often it came.
type series struct {
	event       store.Event
	first, last time.Time
	count       int

	number  int64     // in the name of the object; 0 as long as none was asked for
	tried   bool      // the object was asked for: it may be there although no answer said so
	name    string    // of the object; empty as long as none is known to be there
	written int       // the count that the object has
	due     time.Time // of the next write
	pause   time.Duration
}

func (s *series) isWritten() bool { return s.written == s.count }

// add counts an Event. fresh says that there is something to write; dropped that there are too many.
func (e *events) add(event store.Event, now time.Time) (fresh, dropped bool) {
	event.Message = cut(event.Message, noteMost)
	if s := e.series[event]; s != nil && (!s.isWritten() || now.Sub(s.last) < seriesEnd) {
		fresh = s.isWritten()
		s.count++
		s.last = now
		return fresh, false
	} else if s != nil {
		e.forget(s)
	}
	if len(e.order) >= seriesMost {
		i := slices.IndexFunc(e.order, (*series).isWritten)
		if i < 0 {
			return false, true
		}
		e.forget(e.order[i])
	}
	s := &series{event: event, first: now, last: now, count: 1, due: now}
	e.series[event] = s
	e.order = append(e.order, s)
	return true, false
}

func (e *events) forget(s *series) {
	delete(e.series, s.event)
	e.order = slices.DeleteFunc(e.order, func(o *series) bool { return o == s })
}

// next returns the series to write now, nil when there is none; and when to ask again, zero for never.
func (e *events) next(now time.Time) (s *series, again time.Time) {
	for _, o := range slices.Clone(e.order) {
		if now.Sub(o.last) >= seriesStale {
			e.forget(o)
		}
	}
	for _, o := range e.order {
		if o.isWritten() {
			continue
		}
		if !now.Before(o.due) && s == nil {
			s = o
		} else if again.IsZero() || o.due.Before(again) {
			again = o.due
		}
	}
	if s == nil {
		return nil, again
	}
	e.left = min(eventBurst, e.left+float64(now.Sub(e.filled))/float64(eventEvery))
	e.filled = now
	if e.left < 1 {
		return nil, now.Add(time.Duration((1 - e.left) * float64(eventEvery)))
	}
	return s, now
}

// tell writes what is due. It returns when there is something more to write, zero for never.
func (r *Reporter) tell(ctx context.Context) time.Time {
	for {
		r.mu.Lock()
		s, again := r.events.next(time.Now())
		r.mu.Unlock()
		if s == nil || ctx.Err() != nil {
			return again
		}
		if time.Now().Before(r.tellAgain) {
			return r.tellAgain
		}
		err := r.write(ctx, s)
		if err == nil || apierrors.IsForbidden(err) {
			r.tellPause = 0
			continue
		}
		// Nobody answers: another Event would fare no better.
		r.tellPause = longer(r.tellPause, err)
		r.tellAgain = time.Now().Add(r.tellPause + r.jitter(r.tellPause))
	}
}

// flush writes what was not written yet, until something fails or ctx ends.
func (r *Reporter) flush(ctx context.Context) {
	r.mu.Lock()
	pending := slices.DeleteFunc(slices.Clone(r.events.order), (*series).isWritten)
	r.mu.Unlock()
	for _, s := range pending {
		if err := r.write(ctx, s); err != nil {
			return
		}
	}
}

// write writes a series. What the API server refuses for good, as when the namespace is gone, is given up without an error.
func (r *Reporter) write(ctx context.Context, s *series) error {
	r.mu.Lock()
	if s.number == 0 {
		r.events.names = max(r.events.names+1, s.first.UnixNano())
		s.number = r.events.names
	}
	now := *s
	s.tried = true
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	verb, err := "patch", error(nil)
	if now.name != "" {
		err = r.client.countEvent(ctx, &now)
	}
	if now.name == "" || apierrors.IsNotFound(err) { // it has expired
		verb = "create"
		now.name, err = r.client.createEvent(ctx, &now)
	}
	if now.tried && apierrors.IsAlreadyExists(err) { // the answer to an earlier try was lost
		verb, err = "patch", r.client.countEvent(ctx, &now)
	}
	err = forbidden(err, mayEvent[verb])
	if s.event.Pod == (store.PodRef{}) || !apierrors.IsForbidden(err) { // in a pod's namespace, a quota may be what refuses
		r.note(ctx, "tell of an Event", transient(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch at := time.Now(); {
	case err == nil:
		s.name, s.written, s.due, s.pause = now.name, now.count, at.Add(seriesSpacing), 0
		r.events.left--
	case transient(err) == nil:
		r.client.log.Debug("the API server does not want an Event", "reason", s.event.Reason, "err", err)
		r.events.left--
		r.events.forget(s)
		return nil
	case apierrors.IsForbidden(err):
		s.pause = longer(s.pause, err)
		s.due = at.Add(s.pause)
	}
	return err
}

// transient returns err when the same request may succeed later.
func transient(err error) error {
	switch {
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err),
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	return err
}

// countEvent writes how often an Event came.
func (c *Client) countEvent(ctx context.Context, s *series) error {
	patch, err := json.Marshal(map[string]any{"series": s.toAPI()})
	if err != nil {
		return err
	}
	_, err = c.api.EventsV1().Events(s.namespace()).Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: reporter})
	return err
}

// createEvent writes an Event and returns the name of the object.
func (c *Client) createEvent(ctx context.Context, s *series) (string, error) {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: s.event.Pod.Namespace, Name: s.event.Pod.Name, UID: types.UID(s.event.Pod.UID)}
	if s.event.Pod == (store.PodRef{}) {
		// kubelet, too, has a Node's name stand for its UID, and `kubectl describe` looks for both.
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.node, UID: types.UID(c.node)}
	}
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: s.namespace(), Name: eventName(about.Name, s.number)},
		EventTime:           metav1.NewMicroTime(s.first),
		Series:              s.toAPI(),
		ReportingController: "twill-cni.github.io/" + reporter,
		ReportingInstance:   cut(reporter+"-"+c.node, instanceMost),
		Action:              "Networking",
		Reason:              cut(s.event.Reason, reasonMost),
		Regarding:           about,
		Note:                s.event.Message,
		Type:                corev1.EventTypeNormal,
	}
	if s.event.Warning {
		event.Type = corev1.EventTypeWarning
	}
	_, err := c.api.EventsV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{FieldManager: reporter})
	return event.Name, err
}

// namespace returns where the Event lives: with its pod, or, as a Node has none, in the default one.
func (s *series) namespace() string {
	return cmp.Or(s.event.Pod.Namespace, metav1.NamespaceDefault)
}

// toAPI returns the count; nil for an Event that came once.
func (s *series) toAPI() *eventsv1.EventSeries {
	if s.count < 2 {
		return nil
	}
	return &eventsv1.EventSeries{Count: int32(s.count), LastObservedTime: metav1.NewMicroTime(s.last)}
}

// eventName returns the name of an Event about an object of that name.
func eventName(about string, number int64) string {
	suffix := fmt.Sprintf(".%x", number)
	return strings.TrimRight(cut(about, nameMost-len(suffix)), "-.") + suffix
}

// cut returns at most that many bytes of a text, and no half characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
