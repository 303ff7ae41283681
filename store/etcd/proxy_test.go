package etcd

import (
	"fmt"
	"io"
	"math"
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
	frozen   int // that many of conns, the oldest
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
		number := len(p.conns)
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		go p.copy(in, out, number)
		go p.copy(out, in, number)
	}
}

func (p *proxy) copy(to, from net.Conn, number int) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if p.isFrozen(number) {
			if err != nil {
				return
			}
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
func (p *proxy) freeze() { p.freezeFirst(math.MaxInt) }

// freezeOpen makes the network swallow what the connections say that are open now, as when the address that they were made from
// is gone.
func (p *proxy) freezeOpen() { p.freezeFirst(p.count()) }

func (p *proxy) freezeFirst(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = n
}

// count returns how many connections there were since the last stop; each counts twice, as its two ends.
func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *proxy) isFrozen(number int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return number < p.frozen
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
	p.frozen = 0
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
