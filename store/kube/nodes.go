package kube

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// nodes are the Nodes of the cluster, or this one alone, trimmed to what anybody here reads. One watch feeds all who follow them. It is the
// store of a Reflector.
type nodes struct {
	client *Client

	mu        sync.Mutex
	running   bool
	listed    bool
	known     map[string]*corev1.Node
	missing   map[string]*time.Timer // known, but not in the last list: gone when the timer has run out
	followers map[*follower]struct{}
}

var (
	_ cache.ReflectorStore    = (*nodes)(nil)
	_ cache.TransformingStore = (*transforming)(nil)
)

func (s *nodes) init(c *Client) {
	s.client = c
	s.known = map[string]*corev1.Node{}
	s.missing = map[string]*time.Timer{}
	s.followers = map[*follower]struct{}{}
}

// follower is told which nodes have changed.
type follower struct {
	nodes   *nodes
	name    string        // of the one that it follows; "" for all
	wake    chan struct{} // of capacity 1: take has something to tell
	changed map[string]struct{}
}

// follow begins to follow the node with that name, or all of them; close ends it. It reports false when the client is closed.
func (s *nodes) follow(name string) (*follower, bool) {
	f := &follower{nodes: s, name: name, wake: make(chan struct{}, 1), changed: map[string]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		s.running = s.client.start(s.run)
	} else if s.client.ctx.Err() != nil {
		return nil, false
	}
	if !s.running {
		return nil, false
	}
	s.followers[f] = struct{}{}
	if s.listed {
		for known := range s.known {
			s.tell(f, known)
		}
		f.rouse()
	}
	return f, true
}

func (f *follower) close() {
	f.nodes.mu.Lock()
	defer f.nodes.mu.Unlock()
	delete(f.nodes.followers, f)
}

func (f *follower) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns the nodes that have changed since it was called last, nil for one that is gone. ok is false as long as the nodes are not known.
func (f *follower) take() (changed map[string]*corev1.Node, ok bool) {
	s := f.nodes
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listed {
		return nil, false
	}
	changed = make(map[string]*corev1.Node, len(f.changed))
	for name := range f.changed {
		changed[name] = s.known[name]
	}
	clear(f.changed)
	return changed, true
}

// get returns a node, nil when there is none. ok is false as long as the nodes are not known.
func (s *nodes) get(name string) (n *corev1.Node, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[name], s.listed
}

// isMissing reports whether the last list lacked a node that is still held to be there.
func (s *nodes) isMissing(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing[name] != nil
}

// nudge wakes all followers, although nothing has changed.
func (s *nodes) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.followers {
		f.rouse()
	}
}

// tell is called under the lock.
func (s *nodes) tell(f *follower, name string) {
	if f.name == "" || f.name == name {
		f.changed[name] = struct{}{}
		f.rouse()
	}
}

func (s *nodes) tellAll(name string) {
	for f := range s.followers {
		s.tell(f, name)
	}
}

func (s *nodes) run() {
	core := s.client.api.CoreV1().Nodes()
	only := func(o metav1.ListOptions) metav1.ListOptions {
		if !s.client.cfg.Peers {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", s.client.node).String()
		}
		return o
	}
	s.client.reflect(s.client.ctx, reflection{
		kind:     "Node",
		example:  &corev1.Node{},
		resource: "nodes",
		purpose:  "to know the nodes' subnets and addresses",
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return core.List(ctx, only(o))
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return core.Watch(ctx, only(o))
		},
		to:     transforming{s},
		stream: true,
	})
}

// transforming has the Reflector keep trimmed Nodes while the first ones come in.
type transforming struct{ *nodes }

// Transformer implements cache.TransformingStore.
func (t transforming) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if n, ok := object.(*corev1.Node); ok {
			return t.trim(n), nil
		}
		return object, nil
	}
}

// trim returns the parts of a Node that are read here. A Node of a real cluster has some 10 KB, most of it the names of images.
func (s *nodes) trim(n *corev1.Node) *corev1.Node {
	t := &corev1.Node{}
	t.Name, t.UID, t.CreationTimestamp, t.DeletionTimestamp = n.Name, n.UID, n.CreationTimestamp, n.DeletionTimestamp
	t.Spec.PodCIDR, t.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	for _, key := range read {
		if value, ok := n.Annotations[key]; ok {
			if t.Annotations == nil {
				t.Annotations = make(map[string]string, len(published))
			}
			t.Annotations[key] = value
		}
	}
	if s.client.node == "" || s.client.node == n.Name {
		t.Labels, t.Spec.Taints = n.Labels, n.Spec.Taints
	}
	return t
}

// same reports whether two trimmed Nodes say the same.
func same(a, b *corev1.Node) bool {
	return a != nil && b != nil && a.UID == b.UID && a.DeletionTimestamp.IsZero() == b.DeletionTimestamp.IsZero() &&
		a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) &&
		maps.Equal(a.Annotations, b.Annotations) && maps.Equal(a.Labels, b.Labels) &&
		slices.EqualFunc(a.Spec.Taints, b.Spec.Taints, func(s, t corev1.Taint) bool { return s.MatchTaint(&t) && s.Value == t.Value })
}

// put is called under the lock with a Node that is there.
func (s *nodes) put(n *corev1.Node) {
	t := s.trim(n)
	held := s.missing[n.Name]
	if held != nil {
		held.Stop()
		delete(s.missing, n.Name)
	}
	if held == nil && same(s.known[n.Name], t) {
		return
	}
	s.known[n.Name] = t
	s.tellAll(n.Name)
}

// remove is called under the lock.
func (s *nodes) remove(name string) {
	if held := s.missing[name]; held != nil {
		held.Stop()
		delete(s.missing, name)
	}
	if _, ok := s.known[name]; ok {
		delete(s.known, name)
		s.tellAll(name)
	}
}

// Add implements cache.ReflectorStore.
func (s *nodes) Add(object any) error { return s.Update(object) }

// Update implements cache.ReflectorStore.
func (s *nodes) Update(object any) error {
	if n, ok := object.(*corev1.Node); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.put(n)
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *nodes) Delete(object any) error {
	name, err := nameOf(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(name.Name)
	return nil
}

// Replace implements cache.ReflectorStore: list is all there is. What it lacks is held for a time; see Config.Holdover.
func (s *nodes) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := make(map[string]struct{}, len(list))
	for _, object := range list {
		if n, ok := object.(*corev1.Node); ok {
			there[n.Name] = struct{}{}
			s.put(n)
		}
	}
	for name := range s.known {
		if _, ok := there[name]; !ok && s.missing[name] == nil {
			s.miss(name)
		}
	}
	if !s.listed {
		s.listed = true
		for f := range s.followers { // who follows a node that is not there has to know that
			f.rouse()
		}
	}
	return nil
}

// miss holds a node that a list lacked.
func (s *nodes) miss(name string) {
	var timer *time.Timer
	timer = time.AfterFunc(s.client.cfg.Holdover, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.missing[name] == timer {
			s.remove(name)
		}
	})
	s.missing[name] = timer
	s.tellAll(name) // one that is missing gives way to others
	if len(s.missing) == 1 {
		s.client.log.Warn("Nodes that were there are missing; their leases hold on in case that they come back", "time", s.client.cfg.Holdover)
	}
}

// Resync implements cache.ReflectorStore.
func (s *nodes) Resync() error { return nil }
