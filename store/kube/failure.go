package kube

import (
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forbiddenAfter is how long a refusal has to last until it is told: an API server that starts refuses everything for some seconds, since it has
// not read the rules yet.
const forbiddenAfter = 10 * time.Second

// failures are the requests that fail, by what they are for. They are told once for each way of failing.
type failures map[string]failure

// failure is how a request fails.
type failure struct {
	err   error
	kind  metav1.StatusReason // the text of a broken connection has another port each time
	since time.Time           // when it began to fail in this way
	told  bool
}

// note keeps the outcome of a request. It reports whether a failure is to be told now, or the end of one that was.
func (f failures) note(what string, err error, now time.Time) (begins, ends bool) {
	old, failed := f[what]
	if err == nil {
		delete(f, what)
		return false, old.told
	}
	kind := apierrors.ReasonForError(err)
	if !failed || old.kind != kind {
		old = failure{kind: kind, since: now}
	}
	old.err = err
	begins = !old.told && (!apierrors.IsForbidden(err) || now.Sub(old.since) >= forbiddenAfter)
	old.told = old.told || begins
	f[what] = old
	return begins, false
}

// sorted returns what fails.
func (f failures) sorted() []string { return slices.Sorted(maps.Keys(f)) }
