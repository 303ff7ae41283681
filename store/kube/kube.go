package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/redial"
)

// Config says how to reach the Kubernetes API and what to read from it.
type Config struct {
	Kubeconfig string   // file; empty in a pod, which finds the API server by its environment and its service account
	Addresses  []string // HOST:PORT where the API server answers even when nobody serves the Service "kubernetes"; tried first
	Node       string   // name of this node
	NetConf    string   // file with flannel's network configuration; needed by Network alone
	Peers      bool     // the nodes' leases are kept here too: all Nodes are read, and not this one alone

	// Holdover is how long a Node outlives a list that lacks it. A list follows an outage of the API server, or its restore from a backup, and
	// what is missing there may be about to come back. What was deleted while it was watched goes at once. DefaultHoldover when 0.
	Holdover time.Duration
}

// DefaultHoldover is the default of Config.Holdover.
const DefaultHoldover = 15 * time.Second

// absentFor is the default of Client.absentFor. Kinds come with an upgrade, or are installed by somebody who then waits for them.
const absentFor = time.Minute

// requestTimeout bounds one request but lists and watches, and how long Register waits for the Node to be complete.
const requestTimeout = 5 * time.Second

// Client talks to the Kubernetes API: it is a store.Store, a store.ServiceSource, a store.PolicySource, and what reports about this node. Its methods may be called
// concurrently.
type Client struct {
	cfg   Config
	node  string // cfg.Node
	api   kubernetes.Interface
	log   *slog.Logger
	conns redial.Connections
	nodes nodes

	dynamic   dynamic.Interface // for kinds that api has no types of
	absentFor time.Duration     // until it is asked again for a kind that the API server does not know

	network atomic.Pointer[store.Network] // as it was last read; nil before

	ctx    context.Context // ends with Close; background work derives from it
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	own     *registration // this node's, nil without one
	heard   bool          // the API server has answered
	failing failures      // the last list or watch of each kind, until one goes well
}

var (
	errClosed = errors.New("the store is closed")
	errSilent = errors.New("the Kubernetes API has not answered yet")
)

// Open makes a client. It does not talk to the API server yet.
func Open(cfg Config, log *slog.Logger) (*Client, error) {
	config, err := cfg.rest()
	if err != nil {
		return nil, err
	}
	c := newClient(cfg, log)
	config.UserAgent = "twilld"
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.QPS = -1 // a handful of watches; the server's own priority and fairness bounds them
	config.Dial = c.dial
	if c.api, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make a client of the Kubernetes API: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make a client of the Kubernetes API for kinds without types: %w", err)
	}
	return c, nil
}

func (cfg Config) rest() (*rest.Config, error) {
	if cfg.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("give --kubeconfig: without one this has to be a pod with a service account, and it is no pod: %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	return config, nil
}

// newClient makes a client that still lacks its api.
func newClient(cfg Config, log *slog.Logger) *Client {
	if cfg.Holdover == 0 {
		cfg.Holdover = DefaultHoldover
	}
	c := &Client{cfg: cfg, node: cfg.Node, log: log, failing: failures{}, absentFor: absentFor}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.nodes.init(c)
	return c
}

// Close ends all watches and registrations. What the node has published stays.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	return nil
}

// start runs work in the background until it ends. It reports false when the client is closed.
func (c *Client) start(work func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(work)
	return true
}

// Health returns nil when the API server answered the last time, else the errors of what could not be listed or watched. It does no
// I/O.
func (c *Client) Health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, kind := range c.failing.sorted() {
		errs = append(errs, fmt.Errorf("%ss of Kubernetes: %w", kind, c.failing[kind].err))
	}
	if !c.heard && len(errs) == 0 {
		return errSilent
	}
	return errors.Join(errs...)
}

// note keeps the outcome of a list or watch of a kind, and logs an error of another kind than before.
func (c *Client) note(ctx context.Context, r reflection, verb string, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) {
		return // the end, or a watch that has to begin with a list
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", verb, forbidden(err, rule{verb, r.group, r.resource, r.purpose}))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = c.heard || err == nil
	switch begins, ends := c.failing.note(r.kind, err, time.Now()); {
	case begins:
		c.log.Warn("Kubernetes API: what is known stays in force", "kind", r.kind, "err", err)
	case ends:
		c.log.Info("Kubernetes API answers again", "kind", r.kind)
	}
}

// reflection is a kind of objects and where they are to go.
type reflection struct {
	kind    string
	example runtime.Object

	group, resource, purpose string // of the rules of RBAC that allow it

	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	to     cache.ReflectorStore
	stream bool // begin with a watch that delivers one object at a time, which takes longer and less memory; see lister
}

// reflect delivers all objects of a kind to the store until ctx ends.
func (c *Client) reflect(ctx context.Context, r reflection) {
	// client-go's own lines are of interest when one looks for a fault; what matters is noted.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{c.log.Handler()}))
	noted := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := r.list(ctx, o)
			c.note(ctx, r, "list", err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			err := rewound(ctx, r, o)
			var w watch.Interface
			if err == nil {
				w, err = r.watch(ctx, o)
			}
			c.note(ctx, r, "watch", err)
			return w, err
		},
	}
	var from cache.ListerWatcher = lister{noted}
	if r.stream {
		from = cache.ToListWatcherWithWatchListSemantics(noted, c.api)
	}
	reflector := cache.NewReflectorWithOptions(from, r.example, r.to,
		cache.ReflectorOptions{Name: "twilld", TypeDescription: r.kind, Backoff: &wait.Backoff{Duration: retryFirst, Factor: 2, Jitter: 1, Steps: 10, Cap: retryMost}})
	reflector.RunWithContext(ctx)
}

// How long it takes to ask an API server again that did not answer: at first, and at most, each up to twice as long by chance. client-go's own
// limit of half a minute would keep a change from the kernel for up to a minute after the server is back.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 4 * time.Second
)

// lister makes a Reflector begin with a list. The other way, a watch that begins with an event for each object (WatchList), was made to spare the
// API server memory; since Kubernetes 1.33 a list is sent one object at a time, too. A list arrives in half of the time, and costs the
// daemon half: 10,000 Services are read from 20,000 objects in a few large pieces, and not from 20,000 small ones. Nodes are few and
// large, and next to nothing is kept of them: there the other way is better.
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
