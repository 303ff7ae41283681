package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/redial"
)

const (
	pageSize = 1000 // records in one answer of a load

	// A dead connection is closed when the probe's request has gone unacknowledged for keepAliveTimeout (gRPC sets TCP_USER_TIMEOUT
	// to it). gRPC allows no shorter keepAliveTime.
	keepAliveTime    = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
)

var errClosed = errors.New("the store is closed")

// Store is the datastore in etcd. Its methods may be called concurrently.
type Store struct {
	cfg   Config
	log   *slog.Logger
	creds grpc.DialOption
	conns redial.Connections

	ctx    context.Context // ends with Close; background work derives from it
	cancel context.CancelFunc
	work   sync.WaitGroup

	connecting sync.Mutex // guards cli and the making of it, and the start of work
	cli        *clientv3.Client

	health health
}

var _ store.Store = (*Store)(nil)

// Open returns a Store. It starts a probe of etcd's health, which Close ends, and does not wait for etcd. The error says what is
// wrong with cfg or with the files that it names.
func Open(cfg Config, log *slog.Logger) (*Store, error) {
	s, err := open(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("open the etcd datastore: %w", err)
	}
	return s, nil
}

func open(cfg Config, log *slog.Logger) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: log}
	creds := insecure.NewCredentials()
	if secure, _ := cfg.secure(); secure {
		if creds, err = newTLSCredentials(cfg); err != nil {
			return nil, err
		}
	}
	s.creds = grpc.WithTransportCredentials(&trackedCredentials{creds, &s.conns})
	if _, err := cfg.password(); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.health.init(cfg.LeaseTTL)
	s.start(s.probe)
	return s, nil
}

// Close ends all watches and renewals. Records stay until their etcd leases expire.
func (s *Store) Close() error {
	s.cancel()
	err := s.disconnect() // and no work starts after this
	s.work.Wait()
	return err
}

// start runs work in the background. It reports false when the store is closed.
func (s *Store) start(work func()) bool {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Go(work)
	return true
}

// disconnect closes the client. The next request makes a new one, unless the store is closed.
func (s *Store) disconnect() error {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.cli == nil {
		return nil
	}
	cli := s.cli
	s.cli = nil
	if err := cli.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}

// client returns the client. It is made at the first use, since with a user name that takes an answer of etcd.
func (s *Store) client() (*clientv3.Client, error) {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	if s.cli != nil {
		return s.cli, nil
	}
	password, err := s.cfg.password()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 4 * time.Second,
		}),
		grpc.WithChainUnaryInterceptor(failFast),
		s.creds,
	}
	if s.cfg.Dial != nil {
		options = append(options, grpc.WithContextDialer(s.cfg.Dial))
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            s.cfg.Endpoints,
		DialTimeout:          s.cfg.RequestTimeout,
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		Username:             s.cfg.Username,
		Password:             password,
		MaxUnaryRetries:      10, // about 300 ms; callers retry too, and want to know soon
		DialOptions:          options,
		Context:              s.ctx,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.cfg, err)
	}
	s.cli = cli
	return cli, nil
}

// failFast makes a request fail with the reason when etcd cannot be reached. The client's default is to wait in silence.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.WaitForReady(false))...)
}

// do makes one request with the configured timeout. request returns the revision of the answer's header.
func (s *Store) do(ctx context.Context, request func(ctx context.Context, cli *clientv3.Client) (int64, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	cli, err := s.client()
	if err != nil {
		return err
	}
	revision, err := request(ctx, cli)
	if err != nil {
		return err
	}
	s.health.answered(revision)
	return nil
}

// read makes one Get request.
func (s *Store) read(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	var resp *clientv3.GetResponse
	err := s.do(ctx, func(ctx context.Context, cli *clientv3.Client) (_ int64, err error) {
		if resp, err = cli.Get(ctx, key, opts...); err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	})
	return resp, err
}

// get reads one record, nil when there is none, and etcd's revision.
func (s *Store) get(ctx context.Context, key string) (*mvccpb.KeyValue, int64, error) {
	resp, err := s.read(ctx, key)
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("get %s: %w", key, err)
	case len(resp.Kvs) == 0:
		return nil, resp.Header.Revision, nil
	}
	return resp.Kvs[0], resp.Header.Revision, nil
}

// scan visits all keys below a prefix as they were at one revision, which it returns; name is the rest of the key. It reads them in pages, so
// that only a page is in memory at a time. The options are for each page's request.
func (s *Store) scan(ctx context.Context, prefix string, visit func(name string, kv *mvccpb.KeyValue), opts ...clientv3.OpOption) (int64, error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	var revision int64
	for {
		page, err := s.read(ctx, from, append([]clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision)}, opts...)...)
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			visit(string(kv.Key[len(prefix):]), kv)
		}
		if !page.More {
			return revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Network implements store.Store.
func (s *Store) Network(ctx context.Context) (store.Network, error) {
	kv, _, err := s.get(ctx, s.configKey())
	switch {
	case err != nil:
		return store.Network{}, err
	case kv == nil:
		return store.Network{}, fmt.Errorf("get %s: %w", s.configKey(), store.ErrNoNetwork)
	}
	n, err := store.ParseNetwork(kv.Value)
	if err != nil {
		return store.Network{}, fmt.Errorf("%s: %w", s.configKey(), err)
	}
	return n, nil
}

func (s *Store) configKey() string { return s.cfg.Prefix + "/config" }

// leasePrefix starts the key of every lease record.
func (s *Store) leasePrefix() string { return s.cfg.Prefix + "/subnets/" }
