package etcd

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

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

// freeze makes the network swallow everything, until the next stop.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
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
	p.frozen = false
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
