package etcd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

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
	log     *slog.Logger
}

var _ storetest.Harness = (*harness)(nil)

func newHarness(t testing.TB) *harness {
	h := &harness{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	h.proxy = newProxy(t)
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
	cfg := Config{Endpoints: []string{"http://" + h.proxy.addr}}
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
	target := h.etcd.Clients[0].Addr()
	h.proxy.start(target)
	if target.Network() == "tcp" && cfg.ListenClientUrls[0].Scheme == "http" {
		h.client, err = clientv3.New(clientv3.Config{Endpoints: []string{target.String()}, Logger: zap.NewNop()})
		h.must(err)
	}
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

func (h *harness) Wipe(config string) {
	h.Stop()
	h.must(os.RemoveAll(filepath.Join(h.dir, "data")))
	h.Start()
	h.SetNetwork(config)
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

func (h *harness) Delete(name string) {
	h.t.Helper()
	_, err := h.client.Delete(h.ctx(), DefaultPrefix+"/subnets/"+name)
	h.must(err)
}

func (h *harness) Get(name string) (string, bool) {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), DefaultPrefix+"/subnets/"+name)
	h.must(err)
	if len(resp.Kvs) == 0 {
		return "", false
	}
	return string(resp.Kvs[0].Value), true
}

func (h *harness) Compact() {
	h.t.Helper()
	resp, err := h.client.Get(h.ctx(), "x")
	h.must(err)
	_, err = h.client.Compact(h.ctx(), resp.Header.Revision)
	h.must(err)
}

// proxy forwards one TCP address of its own. While it is stopped, connections are refused; while it is frozen, nothing is forwarded
// and nothing is closed.
type proxy struct {
	t    testing.TB
	addr string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	frozen   bool
}

func newProxy(t testing.TB) *proxy {
	// An address of its own keeps the port from being taken by somebody else while the proxy is stopped.
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(250), rand.N(256), 1+rand.N(250)))
	if err != nil {
		t.Fatal(err)
	}
	return &proxy{t: t, addr: l.Addr().String(), listener: l}
}

func (p *proxy) start(target net.Addr) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			p.t.Fatal(err)
		}
		p.listener = l
	}
	go p.serve(p.listener, target)
}

func (p *proxy) serve(l net.Listener, target net.Addr) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial(target.Network(), target.String())
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		go p.copy(in, out)
		go p.copy(out, in)
	}
}

func (p *proxy) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if p.isFrozen() {
			continue
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
}

func (p *proxy) isFrozen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen
}

func (p *proxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// lines is a log that tests look into.
type lines struct {
	mu   sync.Mutex
	text []byte
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
