package kube

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/twill-cni/twill/store"
)

var _ cache.ReflectorStore = (*objects)(nil)

// gather delivers all objects of the kinds to their stores while tell runs, which lasts as long as its ctx. It returns when ctx has ended or the
// client is closed.
func (c *Client) gather(ctx context.Context, kinds []reflection, tell func(ctx context.Context)) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	var group sync.WaitGroup
	for _, k := range kinds {
		group.Go(func() { c.reflect(inner, k) })
	}
	tell(inner)
	group.Wait()
	if c.ctx.Err() != nil {
		return errClosed
	}
	return ctx.Err()
}

// gathering is where several reflectors meet.
type gathering struct {
	wake chan struct{} // of capacity 1

	mu    sync.Mutex
	kinds []*objects
}

func newGathering() gathering { return gathering{wake: make(chan struct{}, 1)} }

// add makes the store of one more kind. apply is called under the lock with an object or, when it is gone, with nil.
func (g *gathering) add(apply func(store.ObjectName, any)) *objects {
	o := &objects{to: g, apply: apply, names: map[store.ObjectName]struct{}{}}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kinds = append(g.kinds, o)
	return o
}

// listed reports, under the lock, whether every kind was listed once.
func (g *gathering) listed() bool {
	return !slices.ContainsFunc(g.kinds, func(o *objects) bool { return !o.listed })
}

// change runs f under the lock and wakes the teller.
func (g *gathering) change(f func()) {
	g.mu.Lock()
	f()
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// silence is a watch of what the API server does not know: nothing happens until it is time to ask again.
func silence(after time.Duration) watch.Interface {
	w := watch.NewFake()
	time.AfterFunc(after, w.Stop)
	return w
}

// objects is the store of one reflector: it hands on what it is given and keeps the names.
type objects struct {
	to    *gathering
	apply func(store.ObjectName, any) // under the gathering's lock

	listed bool
	names  map[store.ObjectName]struct{}
}

func nameOf(object any) (store.ObjectName, error) {
	m, ok := object.(metav1.Object)
	if !ok {
		return store.ObjectName{}, fmt.Errorf("the API server sent a %T", object)
	}
	return store.ObjectName{Namespace: m.GetNamespace(), Name: m.GetName()}, nil
}

// Add implements cache.ReflectorStore.
func (o *objects) Add(object any) error { return o.Update(object) }

// Update implements cache.ReflectorStore.
func (o *objects) Update(object any) error {
	name, err := nameOf(object)
	if err != nil {
		return err
	}
	o.to.change(func() {
		o.names[name] = struct{}{}
		o.apply(name, object)
	})
	return nil
}

// Delete implements cache.ReflectorStore.
func (o *objects) Delete(object any) error {
	name, err := nameOf(object)
	if err != nil {
		return err
	}
	o.to.change(func() {
		delete(o.names, name)
		o.apply(name, nil)
	})
	return nil
}

// Replace implements cache.ReflectorStore: list is all there is.
func (o *objects) Replace(list []any, _ string) error {
	now := make(map[store.ObjectName]struct{}, len(list))
	for _, object := range list {
		name, err := nameOf(object)
		if err != nil {
			return err
		}
		now[name] = struct{}{}
	}
	o.to.change(func() {
		for name := range o.names {
			if _, ok := now[name]; !ok {
				o.apply(name, nil)
			}
		}
		for _, object := range list {
			name, _ := nameOf(object) // read above
			o.apply(name, object)
		}
		o.names, o.listed = now, true
	})
	return nil
}

// Resync implements cache.ReflectorStore.
func (o *objects) Resync() error { return nil }
