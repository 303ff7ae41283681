package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab/netns"
)

var (
	// ErrExists says that a lab of that name is up.
	ErrExists = errors.New("the lab is up already")
	// ErrNotFound says that there is no lab, node or pod of that name.
	ErrNotFound = errors.New("not found")
	// ErrBusy says that another process makes or removes the lab right now.
	ErrBusy = errors.New("another process is making or removing the lab")
)

// Lab is a cluster. Its methods may be called concurrently; Up and Down exclude each other, also between processes.
type Lab struct {
	options Options
	dir     directory
	etcd    *Etcd

	mu       sync.Mutex
	nodes    []*Node // in order of their numbers
	reported sync.Mutex
}

// New checks the options and returns a lab that does not exist yet: nothing on the machine changes.
func New(options Options) (*Lab, error) {
	options, err := options.complete()
	if err == nil {
		options.BinDir, err = binDir(options.BinDir)
	}
	if err != nil {
		return nil, fmt.Errorf("new lab: %w", err)
	}
	return newLab(options), nil
}

func newLab(options Options) *Lab {
	l := &Lab{options: options, dir: directory(filepath.Join(options.StateDir, options.Name))}
	l.etcd = &Etcd{lab: l, service: service{lab: l, name: "etcd"}}
	return l
}

// Open returns the lab that an earlier Up has made, perhaps in another process. From options it takes Name, StateDir, Log and
// Progress; the rest is as it was. It wraps ErrNotFound when there is none.
func Open(options Options) (*Lab, error) {
	name, stateDir := cmp.Or(options.Name, defaultName), cmp.Or(options.StateDir, defaultStateDir)
	var file labFile
	err := load(directory(filepath.Join(stateDir, name)).lab(), &file)
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	file.Name, file.StateDir, file.Log, file.Progress = name, stateDir, options.Log, options.Progress
	if file.Options, err = file.complete(); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	l := newLab(file.Options)
	names, err := entries(l.dir.nodes())
	for _, node := range names {
		n, failed := l.loadNode(node)
		if errors.Is(failed, os.ErrNotExist) {
			continue // another process makes it right now, or was killed while it did
		}
		l.nodes, err = append(l.nodes, n), errors.Join(err, failed)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", name, err)
	}
	l.sortNodes()
	return l, nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.options.Name }

// Routing returns how nodes reach each other's pods. While SwitchRouting is at work, and after it failed, it is what was before.
func (l *Lab) Routing() Routing { return l.current().Routing }

// current returns the options, some of which change during the lab's life.
func (l *Lab) current() Options {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.options
}

// Family returns which addresses nodes and pods have.
func (l *Lab) Family() Family { return l.options.Family }

// Dir returns the directory that holds everything of the lab on disk.
func (l *Lab) Dir() string { return string(l.dir) }

// Etcd returns the lab's datastore.
func (l *Lab) Etcd() *Etcd { return l.etcd }

// Up makes the lab and waits until each daemon is ready and each pod attached. What a killed Up of the same name has left is removed
// first; a lab that is up is ErrExists. When it fails or ctx ends, everything is removed again (unless Options.KeepOnFailure).
func (l *Lab) Up(ctx context.Context) error {
	unlock, err := l.dir.lock()
	if err != nil {
		return fmt.Errorf("bring lab %s up: %w", l.Name(), err)
	}
	defer unlock()
	var before labFile
	if load(l.dir.lab(), &before) == nil && before.Complete {
		return fmt.Errorf("bring lab %s up: %w", l.Name(), ErrExists)
	}
	if err := l.dir.clear(ctx, l.options.Log); err != nil {
		return fmt.Errorf("remove what an earlier lab %s left: %w", l.Name(), err)
	}
	if err := l.up(ctx); err != nil {
		err = fmt.Errorf("bring lab %s up: %w", l.Name(), err)
		if l.options.KeepOnFailure {
			return err
		}
		return errors.Join(err, l.remove(context.WithoutCancel(ctx)))
	}
	return nil
}

func (l *Lab) up(ctx context.Context) error {
	for _, dir := range []string{l.dir.nodes(), l.dir.service("etcd", "data")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the lab's directories: %w", err)
		}
	}
	if err := save(l.dir.lab(), labFile{Options: l.options}); err != nil {
		return err
	}
	if err := netns.PrepareDir(mountMarker); err != nil {
		return err
	}
	if err := l.makeUnderlay(); err != nil {
		return err
	}
	if l.options.ToR {
		if err := l.Router().Start(ctx); err != nil {
			return err
		}
	}
	l.report(StageUnderlay, 1, 1)
	nodes, err := l.makeNodes(ctx)
	if err != nil {
		return err
	}
	if err := l.startDaemons(ctx, nodes); err != nil {
		return err
	}
	if err := l.attachPods(ctx, nodes); err != nil {
		return err
	}
	return save(l.dir.lab(), labFile{Options: l.options, Complete: true})
}

// makeNodes makes the nodes' namespaces while etcd starts, and stores the network config.
func (l *Lab) makeNodes(ctx context.Context) ([]*Node, error) {
	nodes := make([]*Node, l.options.Nodes)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := l.etcd.Start(ctx); err != nil {
			return err
		}
		if err := l.SetNetworkConfig(ctx, l.options.NetworkConfig); err != nil {
			return err
		}
		l.report(StageEtcd, 1, 1)
		return nil
	})
	g.Go(func() error {
		return l.each(ctx, StageNodes, len(nodes), func(ctx context.Context, i int) (err error) {
			nodes[i], err = l.makeNode(NodeOptions{})
			return err
		})
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return l.Nodes(), nil
}

func (l *Lab) startDaemons(ctx context.Context, nodes []*Node) error {
	for _, n := range nodes {
		if err := n.StartDaemon(); err != nil {
			return err
		}
	}
	return l.each(ctx, StageDaemons, len(nodes), func(ctx context.Context, i int) error { return nodes[i].Ready(ctx) })
}

func (l *Lab) attachPods(ctx context.Context, nodes []*Node) error {
	return l.each(ctx, StagePods, len(nodes)*l.options.PodsPerNode, func(ctx context.Context, i int) error {
		n := nodes[i%len(nodes)]
		_, err := n.AddPod(ctx, PodOptions{Name: fmt.Sprintf("%s-pod%d", n.Name, 1+i/len(nodes)), Labels: map[string]string{"app": "lab"}})
		return err
	})
}

// each calls f for 0 to total-1, some at a time, and reports how many are done.
func (l *Lab) each(ctx context.Context, stage Stage, total int, f func(ctx context.Context, i int) error) error {
	const together = 16
	if total == 0 {
		return nil
	}
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for i := range total {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(ctx, i); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			l.report(stage, done, total)
			return nil
		})
	}
	return g.Wait()
}

func (l *Lab) report(stage Stage, done, total int) {
	l.reported.Lock()
	defer l.reported.Unlock()
	l.options.Progress(Progress{Stage: stage, Done: done, Total: total})
}

// Down removes the lab: all its processes, namespaces, mounts and files. Removing one that is not there is no error.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := l.dir.lock()
	if err != nil {
		return fmt.Errorf("take lab %s down: %w", l.Name(), err)
	}
	defer unlock()
	return l.remove(ctx)
}

func (l *Lab) remove(ctx context.Context) error {
	l.etcd.forget()
	l.mu.Lock()
	l.nodes = nil
	l.mu.Unlock()
	return l.dir.remove(ctx, l.options.Log)
}

// Nodes returns the nodes in order of their numbers.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.nodes)
}

// Node returns the node of that name. It wraps ErrNotFound when there is none.
func (l *Lab) Node(name string) (*Node, error) {
	for _, n := range l.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("node %q: %w", name, ErrNotFound)
}

// Pods returns the pods of all nodes.
func (l *Lab) Pods() []*Pod {
	var pods []*Pod
	for _, n := range l.Nodes() {
		pods = append(pods, n.Pods()...)
	}
	return pods
}

// Member returns the namespace of the node or pod of that name, or of the underlay for "underlay". It wraps ErrNotFound when there is none.
func (l *Lab) Member(name string) (netns.Namespace, error) {
	known := []string{"underlay"}
	if name == known[0] {
		return l.Underlay(), nil
	}
	for _, n := range l.Nodes() {
		if n.Name == name {
			return n.ns, nil
		}
		known = append(known, n.Name)
	}
	for _, p := range l.Pods() {
		if p.Name == name {
			return p.ns, nil
		}
		known = append(known, p.Name)
	}
	return netns.Namespace{}, fmt.Errorf("%q in lab %s: %w (there are %s)", name, l.Name(), ErrNotFound, strings.Join(known, ", "))
}

func (l *Lab) sortNodes() {
	slices.SortFunc(l.nodes, func(a, b *Node) int { return a.record.Number - b.record.Number })
}
