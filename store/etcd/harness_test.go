package etcd

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/storetest"
)

// harness is a real etcd in this process, behind a proxy that can be cut at once.
type harness struct {
	t      testing.TB
	dir    string
	etcd   *embed.Etcd
	proxy  *proxy
	client *clientv3.Client // past the proxy

	config  func(*Config)       // changes the stores' configuration
	prepare func(*embed.Config) // changes the server's
	admin   clientv3.Config     // for TLS and authentication of the test's own client
	log     *slog.Logger
}

var _ storetest.Harness = (*harness)(nil)

// newHarness starts etcd after prepare, which may be nil, has changed the harness.
func newHarness(t testing.TB, prepare func(h *harness)) *harness {
	h := &harness{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	h.proxy = newProxy(t)
	if prepare != nil {
		prepare(h)
	}
	t.Cleanup(h.end)
	h.Start()
	return h
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) Open() store.Store { return h.open() }

func (h *harness) open() *Store {
	h.t.Helper()
	cfg := Config{Endpoints: []string{"http://" + h.proxy.addr}, Holdover: 3 * time.Second}
	if h.config != nil {
		h.config(&cfg)
	}
	s, err := Open(cfg, h.log)
	h.must(err)
	h.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (h *harness) Start() {
	h.t.Helper()
	h.boot()
	h.mend()
}

// boot starts etcd without letting the stores reach it.
func (h *harness) boot() {
	h.t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(h.dir, "data")
	cfg.Name = "test"
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if h.prepare != nil {
		h.prepare(cfg)
	}
	var err error
	h.etcd, err = embed.StartEtcd(cfg)
	h.must(err)
	select {
	case <-h.etcd.Server.ReadyNotify():
	case err := <-h.etcd.Err():
		h.t.Fatal(err)
	}
	h.connect()
}

// connect gives the test a client of its own, past the proxy.
func (h *harness) connect() {
	h.t.Helper()
	if h.client != nil {
		_ = h.client.Close()
	}
	cfg := h.admin
	cfg.Endpoints = []string{h.target().String()}
	cfg.Logger = zap.NewNop()
	var err error
	h.client, err = clientv3.New(cfg)
	h.must(err)
}

// target is where etcd listens.
func (h *harness) target() net.Addr { return h.etcd.Clients[0].Addr() }

// cut makes etcd unreachable for the stores, while it runs on; mend ends that.
func (h *harness) cut()  { h.proxy.stop() }
func (h *harness) mend() { h.proxy.start(h.target()) }

// record returns the whole record with that name, nil when there is none.
func (h *harness) record(name string) *mvccpb.KeyValue {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/subnets/"+name)
	h.must(err)
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

func (h *harness) Stop() {
	h.proxy.stop()
	h.end()
}

func (h *harness) end() {
	h.proxy.stop()
	if h.client != nil {
		_ = h.client.Close()
		h.client = nil
	}
	if h.etcd != nil {
		h.etcd.Close()
		h.etcd = nil
	}
}

// Given implements storetest.Harness.
func (h *harness) Given() bool { return false }

func (h *harness) Wipe(config string) {
	h.renew()
	h.mend()
	h.SetNetwork(config)
}

// renew ends etcd and starts one without data, which the stores cannot reach yet.
func (h *harness) renew() {
	h.t.Helper()
	h.Stop()
	h.must(os.RemoveAll(filepath.Join(h.dir, "data")))
	h.boot()
}

func (h *harness) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

func (h *harness) put(key, value string, opts ...clientv3.OpOption) {
	h.t.Helper()
	_, err := h.client.Put(h.ctx(), DefaultPrefix+"/"+key, value, opts...)
	h.must(err)
}

func (h *harness) SetNetwork(config string) { h.put("config", config) }
func (h *harness) Put(name, value string)   { h.put("subnets/"+name, value) }
func (h *harness) Delete(name string)       { h.delete("subnets/" + name) }

func (h *harness) PutNode(name, value string) { h.put("nodes/"+name, value) }
func (h *harness) DeleteNode(name string)     { h.delete("nodes/" + name) }

func (h *harness) delete(key string) {
	h.t.Helper()
	_, err := h.client.Delete(h.ctx(), DefaultPrefix+"/"+key)
	h.must(err)
}

func (h *harness) Get(name string) (string, bool) {
	h.t.Helper()
	kv := h.record(name)
	if kv == nil {
		return "", false
	}
	return string(kv.Value), true
}

func (h *harness) Compact() {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), "x")
	h.must(err)
	_, err = h.client.Compact(h.ctx(), resp.Header.Revision)
	h.must(err)
}
