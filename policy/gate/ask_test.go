package gate

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// line is something that a daemon sends so long after it was called; empty: it hangs up.
type line struct {
	after time.Duration
	text  string
}

const (
	closedLine = `{"state":"closed"}`
	readyLine  = `{"state":"ready"}`
)

// daemon answers each call with the next script; nil: it is not there. The last script serves all later calls.
type daemon struct {
	t       *testing.T
	scripts [][]line
	calls   int
	gone    chan struct{} // closed when the plugin of the last call has hung up
}

var absent []line

func (d *daemon) dial() (net.Conn, error) {
	script := d.scripts[min(d.calls, len(d.scripts)-1)]
	d.calls++
	if script == nil {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	gone := make(chan struct{})
	d.gone = gone
	go func() {
		defer close(gone)
		defer here.Close()
		data, err := read(here)
		if r, parseErr := parseRequest(data); err != nil || parseErr != nil || r != (Request{"a", "eth0"}) {
			d.t.Errorf("the daemon reads %+v, errors %v, %v", r, err, parseErr)
			return
		}
		for _, l := range script {
			time.Sleep(l.after) // the bubble's clock
			if l.text == "" {
				return
			}
			if _, err := here.Write([]byte(l.text)); err != nil {
				return
			}
		}
		_, _ = read(here)
	}()
	return there, nil
}

func TestAsk(t *testing.T) {
	type outcome struct {
		Closed, Ready     bool
		ClosedAt, ReadyAt time.Duration // since Ask
	}
	const ms = time.Millisecond
	tests := []struct {
		name    string
		scripts [][]line
		want    outcome
	}{
		{"as usual", [][]line{{{1 * ms, closedLine}, {2 * ms, readyLine}}}, outcome{true, true, 1 * ms, 3 * ms}},
		{"at once", [][]line{{{0, readyLine}}}, outcome{true, true, 0, 0}},
		{"slow", [][]line{{{900 * ms, closedLine}, {1000 * ms, readyLine}}}, outcome{true, true, 900 * ms, 1900 * ms}},
		{"never ready", [][]line{{{0, closedLine}}}, outcome{true, false, 0, MaxWait}},
		{"ready too late", [][]line{{{0, closedLine}, {2001 * ms, readyLine}}}, outcome{true, false, 0, MaxWait}},
		{"closed too late", [][]line{{{1500 * ms, closedLine}}}, outcome{false, false, closedWait, MaxWait}},
		{"closed too late, then ready", [][]line{{{1500 * ms, closedLine}, {100 * ms, readyLine}}}, outcome{false, true, closedWait, 1600 * ms}},
		{"silent", [][]line{{}}, outcome{false, false, closedWait, MaxWait}},
		{"absent", [][]line{absent}, outcome{false, false, 0, MaxWait}},
		{"absent, then there before the link is", [][]line{absent, {{0, readyLine}}}, outcome{true, true, 0, 0}},
		{"restarts", [][]line{absent, absent, absent, absent, {{0, closedLine}, {30 * ms, readyLine}}}, outcome{false, true, 0, 90 * ms}},
		{"hangs up", [][]line{{{5 * ms, ""}}}, outcome{false, false, 5 * ms, MaxWait}},
		{"restarts when it was asked", [][]line{{{5 * ms, ""}}, absent, {{0, readyLine}}}, outcome{false, true, 5 * ms, 45 * ms}},
		{"restarts when it has said closed", [][]line{{{5 * ms, closedLine}, {5 * ms, ""}}, {{1 * ms, readyLine}}}, outcome{true, true, 5 * ms, 31 * ms}},
		{"says what a later version does", [][]line{{{1 * ms, `{"state":"seen"}`}, {1 * ms, closedLine}, {1 * ms, readyLine}}}, outcome{true, true, 2 * ms, 3 * ms}},
		{"talks nonsense", [][]line{{{1 * ms, "x"}}}, outcome{false, false, 1 * ms, MaxWait}},
		{"talks too much", [][]line{{{1 * ms, `{"state":"ready"}` + strings.Repeat(" ", maxMessage)}}}, outcome{false, false, 1 * ms, MaxWait}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &daemon{t: t, scripts: tt.scripts}
				start := time.Now()
				q := ask(Request{"a", "eth0"}, d.dial)
				if waited := time.Since(start); waited != 0 {
					t.Errorf("asking took %s", waited)
				}
				var got outcome
				got.Closed = q.Closed(t.Context())
				got.ClosedAt = time.Since(start)
				got.Ready = q.Ready(t.Context())
				got.ReadyAt = time.Since(start)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
				q.Close()
				if d.gone != nil {
					<-d.gone
				}
			})
		})
	}
}

// What is awaited ends with its context.
func TestAskCanBeCancelled(t *testing.T) {
	for name, script := range map[string][]line{"silent": {}, "absent": absent} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &daemon{t: t, scripts: [][]line{script}}
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				q := ask(Request{"a", "eth0"}, d.dial)
				defer q.Close()
				time.AfterFunc(10*time.Millisecond, cancel)
				if q.Ready(ctx) || time.Since(start) != 10*time.Millisecond {
					t.Errorf("it took %s", time.Since(start))
				}
				if q.Closed(ctx) || q.Ready(ctx) || time.Since(start) != 10*time.Millisecond {
					t.Errorf("it took %s after the end", time.Since(start))
				}
			})
		})
	}
}
