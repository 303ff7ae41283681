package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// serving runs Serve and returns what ends it, which also looks at how it went.
func serving(t *testing.T, socket string, answer Answer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, socket, answer, discard) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}

// known asks until somebody listens.
func known(t *testing.T, socket string, r Request) *Question {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	q := Ask(socket, r)
	for end := time.Now().Add(5 * time.Second); q.conn == nil && time.Now().Before(end); q = Ask(socket, r) {
		<-tick.C
	}
	if q.conn == nil {
		t.Error("nobody listens")
	}
	return q
}

func TestServe(t *testing.T) {
	long := strings.Repeat("d", 120)
	for _, dir := range []string{"run", long} {
		t.Run(fmt.Sprintf("directory of %d bytes", len(dir)), func(t *testing.T) {
			socket := SocketPath(filepath.Join(t.TempDir(), dir))
			if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(socket, nil, 0o644); err != nil { // of a daemon that was killed
				t.Fatal(err)
			}
			left := make(chan Request, 1)
			stop := serving(t, socket, func(ctx context.Context, r Request, tell func(State)) {
				tell(StateClosed)
				tell(StateReady)
				<-ctx.Done()
				left <- r
			})
			want := Request{"a", "eth0"}
			q := known(t, socket, want)
			if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("the socket has mode %s, error %v", info.Mode(), err)
			}
			if !q.Closed(t.Context()) || !q.Ready(t.Context()) {
				t.Error("no answer")
			}
			q.Close()
			if got := <-left; got != want {
				t.Errorf("the daemon was asked about %+v", got)
			}
			stop()
		})
	}
}

// A daemon that ends, or is replaced, while plugins ask it keeps none waiting.
func TestServeEnds(t *testing.T) {
	socket := SocketPath(t.TempDir())
	stop := serving(t, socket, func(ctx context.Context, _ Request, tell func(State)) {
		tell(StateClosed)
		<-ctx.Done()
	})
	q := known(t, socket, Request{"a", "eth0"})
	if !q.Closed(t.Context()) {
		t.Error("no answer")
	}
	stop()
	stop = serving(t, socket, func(ctx context.Context, _ Request, tell func(State)) {
		tell(StateReady)
		<-ctx.Done()
	})
	if !q.Ready(t.Context()) {
		t.Error("the new daemon was not asked")
	}
	q.Close()
	stop()
}

func TestServeManyAtOnce(t *testing.T) {
	socket := SocketPath(t.TempDir())
	const many = 200
	var all sync.WaitGroup // the answers wait for each other
	all.Add(many)
	stop := serving(t, socket, func(ctx context.Context, r Request, tell func(State)) {
		all.Done()
		all.Wait()
		tell(StateReady)
		<-ctx.Done()
	})
	var clients sync.WaitGroup
	for i := range many {
		clients.Go(func() {
			q := known(t, socket, Request{fmt.Sprint(i), "eth0"})
			defer q.Close()
			if !q.Ready(t.Context()) {
				t.Errorf("client %d has no answer", i)
			}
		})
	}
	clients.Wait()
	stop()
}

func TestServeErrors(t *testing.T) {
	err := Serve(t.Context(), filepath.Join(t.TempDir(), "none", "policy.sock"), nil, discard)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("have error %v, want that the directory is not there", err)
	}
}

// A client that is no plugin costs little, and not for long.
func TestServeBadClients(t *testing.T) {
	tests := []struct {
		name  string
		says  string        // "": nothing
		until time.Duration // until it is dropped
	}{
		{"says nothing", "", requestTime},
		{"says something else", "GET / HTTP/1.1", 0},
		{"says too much", `{"containerID":"a","ifName":"eth0"}` + strings.Repeat(" ", maxMessage), 0},
		{"asks for a path", `{"containerID":"../a","ifName":"eth0"}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				start := time.Now()
				go server{answer: func(context.Context, Request, func(State)) { t.Error("it was answered") }, log: discard}.serve(t.Context(), here)
				if tt.says != "" {
					_, _ = there.Write([]byte(tt.says))
				}
				if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) != tt.until {
					t.Errorf("error %v after %s", err, time.Since(start))
				}
			})
		})
	}
}

// An Answer ends when the plugin has gone, says more than it has to say, or does not listen.
func TestServeNoticesTheEnd(t *testing.T) {
	for name, end := range map[string]func(there net.Conn){
		"gone":            func(there net.Conn) { there.Close() },
		"says more":       func(there net.Conn) { _, _ = there.Write([]byte("x")) },
		"does not listen": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				defer there.Close()
				done := make(chan struct{})
				go func() {
					defer close(done)
					server{answer: func(ctx context.Context, _ Request, tell func(State)) {
						tell(StateClosed)
						if name == "does not listen" {
							tell(StateReady)
						}
						<-ctx.Done()
					}, log: discard}.serve(t.Context(), here)
				}()
				if _, err := there.Write([]byte(`{"containerID":"a","ifName":"eth0"}`)); err != nil {
					t.Fatal(err)
				}
				if data, err := read(there); err != nil || string(data) != closedLine {
					t.Errorf("have %s, error %v", data, err)
				}
				start := time.Now()
				end(there)
				<-done
				if waited := time.Since(start); waited > tellTime {
					t.Errorf("it took %s", waited)
				}
			})
		})
	}
}

// line of clients for accept; an error stands for a failure.
type queue struct {
	next     chan any
	accepted int
	deadline chan struct{}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.next:
		q.accepted++
		if err, failed := c.(error); failed {
			return nil, err
		}
		return c.(net.Conn), nil
	case <-q.deadline:
		return nil, os.ErrDeadlineExceeded
	}
}

func (q *queue) SetDeadline(time.Time) error { close(q.deadline); return nil }

// With all places taken, clients wait outside, and come in when one leaves. A failure to accept one is no end.
func TestServeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := &queue{next: make(chan any, 2*maxClients), deadline: make(chan struct{})}
		done := make(chan struct{})
		answered := 0
		var mu sync.Mutex
		go func() {
			defer close(done)
			server{answer: func(ctx context.Context, _ Request, _ func(State)) {
				mu.Lock()
				answered++
				mu.Unlock()
				<-ctx.Done()
			}, log: discard}.accept(ctx, q)
		}()
		q.next <- errors.New("too many open files")
		q.next <- errors.New("too many open files")
		var plugins []net.Conn
		call := func() {
			here, there := net.Pipe()
			plugins = append(plugins, there)
			q.next <- here
			go func() { _, _ = there.Write([]byte(`{"containerID":"a","ifName":"eth0"}`)) }()
		}
		for range maxClients + 3 {
			call()
		}
		time.Sleep(3 * acceptPause) // the bubble's clock
		synctest.Wait()
		if answered != maxClients || q.accepted != maxClients+2 {
			t.Errorf("%d answered, %d accepted", answered, q.accepted)
		}
		plugins[0].Close()
		synctest.Wait()
		if answered != maxClients+1 {
			t.Errorf("%d answered after one has left", answered)
		}
		cancel()
		<-done
		for _, p := range plugins {
			p.Close()
		}
	})
}
