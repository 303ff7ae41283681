package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Client talks to the Kubernetes API. Its methods may be called concurrently.
type Client struct {
	api  kubernetes.Interface
	node string
	log  *slog.Logger

	mu     sync.Mutex
	errors map[string]error // of the last list and the last watch of each kind, until one goes well
}

// Open makes a client for the API server that the kubeconfig file names; without a file, for that of the cluster whose pod this is. It
// does not talk to the server yet. node is the name of this node.
func Open(kubeconfig, node string, log *slog.Logger) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	config.UserAgent = "twilld"
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.QPS = -1 // a handful of watches; the server's own priority and fairness bounds them
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	return &Client{api: api, node: node, log: log, errors: map[string]error{}}, nil
}

// Health returns nil when the API server answered the last time, else the errors of what could not be listed or watched. It does no
// I/O.
func (c *Client) Health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for what, err := range c.errors {
		errs = append(errs, fmt.Errorf("%s: %w", what, err))
	}
	return errors.Join(errs...)
}

// note keeps the outcome of a list or watch, and logs an error that is new.
func (c *Client) note(ctx context.Context, what string, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) {
		return // the end, or a watch that has to begin with a list
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.errors[what]
	if err == nil {
		if old != nil {
			c.log.Info("Kubernetes API answers again", "request", what)
		}
		delete(c.errors, what)
		return
	}
	c.errors[what] = err
	if old == nil || old.Error() != err.Error() {
		c.log.Warn("Kubernetes API: what is known stays in force", "request", what, "err", err)
	}
}

// reflect delivers all objects of a kind to the store until ctx ends.
func (c *Client) reflect(ctx context.Context, kind string, lw *cache.ListWatch, example runtime.Object, to cache.ReflectorStore) {
	// client-go's own lines are of interest when one looks for a fault; what matters is noted.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{c.log.Handler()}))
	noted := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContextFunc(ctx, o)
			c.note(ctx, "list of "+kind, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchFuncWithContext(ctx, o)
			c.note(ctx, "watch of "+kind, err)
			return w, err
		},
	}
	r := cache.NewReflectorWithOptions(lister{noted}, example, to,
		cache.ReflectorOptions{Name: "twilld", TypeDescription: kind, Backoff: &wait.Backoff{Duration: retryFirst, Factor: 2, Jitter: 1, Steps: 10, Cap: retryMost}})
	r.RunWithContext(ctx)
}

// How long it takes to ask an API server again that did not answer: at first, and at most, each up to twice as long by chance. client-go's own
// limit of half a minute would keep a change from the kernel for up to a minute after the server is back.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 4 * time.Second
)

// lister makes a Reflector begin with a list. The other way, a watch that begins with an event for each object (WatchList), was made to spare the
// API server memory; since Kubernetes 1.33 a list is sent one object at a time, too. It arrives in half of the time, and costs the
// daemon half: 10,000 Services are read from 20,000 objects in a few large pieces, and not from 20,000 small ones.
type lister struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is the Reflector's question.
func (lister) IsWatchListSemanticsUnSupported() bool { return true }

// quiet takes client-go's lines down to Debug.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	if !q.Enabled(ctx, r.Level) { // errors come unasked
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
