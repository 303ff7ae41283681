package gate

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The times of an ADD, from Ask on.
const (
	MaxWait    = 2 * time.Second       // for StateReady: what an ADD waits at most
	closedWait = time.Second           // for StateClosed, of a daemon that has the request
	redialTime = 20 * time.Millisecond // between two calls at a daemon that is not there
	sendTime   = 100 * time.Millisecond
)

// network keeps messages apart, and a message's end is its own: a reader needs no buffer for what comes next.
const network = "unixpacket"

// Question is what an ADD asks the daemon. It is for one goroutine.
type Question struct {
	dial    func() (net.Conn, error)
	message []byte
	asked   time.Time
	conn    net.Conn // nil: nobody listens
	state   State    // the last answer
}

// Ask sends the request to the daemon on the socket, and waits for nothing. The daemon may be absent: see Closed and Ready.
func Ask(socket string, r Request) *Question {
	return ask(r, func() (conn net.Conn, err error) {
		err = withAddr(socket, func(addr *net.UnixAddr) (err error) {
			conn, err = net.DialUnix(network, nil, addr)
			return err
		})
		return conn, err
	})
}

func ask(r Request, dial func() (net.Conn, error)) *Question {
	message, _ := json.Marshal(r) // two strings
	q := &Question{dial: dial, message: message, asked: time.Now()}
	q.call()
	return q
}

// Closed reports whether the daemon says that nothing opens the pod's addresses. It is false at once when there is no daemon, and after half of MaxWait when
// there is one that does not say so.
func (q *Question) Closed(ctx context.Context) bool {
	if q.conn == nil && !q.call() {
		return false
	}
	return q.await(ctx, StateClosed, q.asked.Add(closedWait))
}

// Ready reports whether the daemon says that the pod's policies are in the kernel. It is false when MaxWait is over; until then, a daemon that is not
// there, or that hangs up, is called again.
func (q *Question) Ready(ctx context.Context) bool {
	end := q.asked.Add(MaxWait)
	for !q.await(ctx, StateReady, end) {
		left := time.Until(end)
		if left <= 0 || !pause(ctx, min(left, redialTime)) {
			return false
		}
		if q.conn == nil {
			q.call()
		}
	}
	return true
}

// Close tells the daemon that the ADD is at its end. The attachment's record has its final name by then, or is gone.
func (q *Question) Close() {
	if q.conn != nil {
		_ = q.conn.Close()
		q.conn = nil
	}
}

// call reports whether the daemon has the request.
func (q *Question) call() bool {
	conn, err := q.dial()
	if err != nil {
		return false
	}
	q.conn = conn
	_ = conn.SetWriteDeadline(time.Now().Add(sendTime)) // a failure shows in what follows
	if _, err := conn.Write(q.message); err != nil {
		q.Close()
	}
	return q.conn != nil
}

// await reads until the state is reached. It is false when the time is over, ctx has ended or the daemon has hung up.
func (q *Question) await(ctx context.Context, want State, end time.Time) bool {
	if q.state == want || q.state == StateReady {
		return true
	}
	if q.conn == nil {
		return false
	}
	conn := q.conn
	_ = conn.SetReadDeadline(end)
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })() // long ago
	for {
		data, err := read(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		var state State
		if err == nil {
			state, err = parseState(data)
		}
		if err != nil {
			q.Close()
			return false
		}
		if state != "" {
			q.state = state
		}
		if q.state == want || q.state == StateReady {
			return true
		}
	}
}

// maxAddr is how long the name of a socket may be, in bytes (unix(7)); a run directory's may be longer.
const maxAddr = 107

// withAddr calls f with an address for the socket.
func withAddr(socket string, f func(*net.UnixAddr) error) error {
	addr := &net.UnixAddr{Name: socket, Net: network}
	if len(socket) <= maxAddr {
		return f(addr)
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return err
	}
	addr.Name = "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(socket)
	return errors.Join(f(addr), dir.Close())
}
