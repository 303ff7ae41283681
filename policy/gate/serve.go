package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Answer tells what becomes of one ADD's pod. It calls tell whenever the pod has reached a State, and returns when ctx has ended: when the plugin has gone,
// at the end of its ADD or because it was killed, or when the daemon ends. Until then the pod is being attached, whatever the daemon thinks
// of its record; afterwards its record says whether it was (record.Seen: Complete or Adding). One Answer runs for each plugin that asks.
type Answer func(ctx context.Context, r Request, tell func(State))

// Bounds of the server. Plugins beyond the number of clients wait in the socket's queue, and those that nobody takes out of it help themselves.
const (
	maxClients  = 1024
	requestTime = time.Second           // for a client to say what it wants
	tellTime    = time.Second           // for a client to take an answer
	acceptPause = 50 * time.Millisecond // after a failure, which may be for want of descriptors
)

// Serve answers the plugins that ask on the socket, each in its own goroutine, until ctx ends; then all of them have returned. The socket is for the
// daemon's user alone. It takes the place of one that an earlier daemon left, and is removed in the end; the caller makes sure that no
// other daemon runs with this run directory. The error is nil unless the socket cannot be made or removed.
func Serve(ctx context.Context, socket string, answer Answer, log *slog.Logger) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier daemon: %w", err)
	}
	l, err := listen(socket)
	if err != nil {
		return fmt.Errorf("listen for CNI plugins on %s: %w", socket, err)
	}
	s := server{answer: answer, log: log}
	s.accept(ctx, l)
	return errors.Join(l.Close(), os.Remove(socket))
}

func listen(socket string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := withAddr(socket, func(addr *net.UnixAddr) (err error) {
		l, err = net.ListenUnix(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // Serve does, by the socket's own name
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// server is a Serve that runs.
type server struct {
	answer Answer
	log    *slog.Logger
}

// listener is what plugins call at; *net.UnixListener is the real one.
type listener interface {
	Accept() (net.Conn, error)
	SetDeadline(time.Time) error
}

// accept returns when ctx has ended and all clients are served.
func (s server) accept(ctx context.Context, l listener) {
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })() // long ago
	var clients sync.WaitGroup
	defer clients.Wait()
	free := make(chan struct{}, maxClients)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Accept()
		if err == nil {
			clients.Go(func() {
				defer func() { <-free }()
				s.serve(ctx, conn)
			})
			continue
		}
		<-free
		if ctx.Err() == nil {
			s.log.Warn("a CNI plugin could not ask for its pod's policies", "err", err)
		}
		if !pause(ctx, acceptPause) {
			return
		}
	}
}

// serve answers one client.
func (s server) serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hangUp := sync.OnceFunc(func() { _ = conn.Close() })
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	_ = conn.SetReadDeadline(time.Now().Add(requestTime)) // a failure shows in what follows
	data, err := read(conn)
	var r Request
	if err == nil {
		r, err = parseRequest(data)
	}
	if err != nil {
		s.log.Debug("hung up on a CNI plugin that did not say which pod is its", "err", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { // a client that says more, or hangs up, ends
		_, _ = read(conn)
		cancel()
	})
	var mu sync.Mutex
	s.answer(ctx, r, func(state State) {
		mu.Lock()
		defer mu.Unlock()
		message, err := json.Marshal(answer{state})
		if err == nil {
			_ = conn.SetWriteDeadline(time.Now().Add(tellTime))
			_, err = conn.Write(message)
		}
		if err != nil {
			cancel()
		}
	})
	cancel() // watching sees the end when the connection is closed
	hangUp()
}

// pause reports whether the time is over before ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
