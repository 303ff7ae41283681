package gobgp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
)

const speakerEnv = "TWILL_TEST_SPEAKER"

// speakerMain is a process that runs a speaker and prints what it learned, a line each time it changed. It stops when its input ends.
func speakerMain(conf string) int {
	var in bgp.Instance
	if err := json.Unmarshal([]byte(conf), &in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	s := &running{Speaker: New(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))}
	go func() {
		if err := s.Set(ctx, in); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := s.Run(ctx, func() { fmt.Println(strings.Join(s.learned(), ", ")) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child is a speaker in another process and namespace.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string
	log   logBuffer
}

func startChild(t *testing.T, h *peertest.Host, in bgp.Instance) *child {
	t.Helper()
	conf, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, lines: make(chan string, 100)}
	c.cmd = h.Command(context.Background(), "/proc/self/exe")
	c.cmd.Args[len(c.cmd.Args)-1] = os.Args[0]
	c.cmd.Env = append(os.Environ(), speakerEnv+"="+string(conf))
	c.cmd.Stderr = &c.log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			c.lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("child's log:\n%s", c.log.String())
		}
	})
	return c
}

// learned waits until the child told that it learned these routes.
func (c *child) learned(limit time.Duration, routes ...string) {
	c.t.Helper()
	want, last := strings.Join(routes, ", "), ""
	for deadline := time.After(limit); ; {
		select {
		case line, ok := <-c.lines:
			if !ok {
				c.t.Fatal("the child ended")
			}
			if last = line; line == want {
				return
			}
		case <-deadline:
			c.t.Fatalf("child: learned %q within %v, want %q", last, limit, want)
		}
	}
}

func (c *child) stop() {
	c.stdin.Close()
	_ = c.cmd.Wait()
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()
}

// Two speakers, with sessions over IPv4 or IPv6 that carry both families, with and without BFD: one of them is stopped, killed and started
// again, and the other keeps its routes all the time.
func TestPair(t *testing.T) {
	seg := peertest.NewSegment(t, ourAddr+"/24", ourAddr6+"/64")
	host := seg.Host("192.0.2.2/24", "2001:db8::2/64")
	for _, c := range []struct {
		name         string
		ours, theirs string
		bfd          *bgp.BFD
	}{
		{"over IPv4", ourAddr, "192.0.2.2", nil},
		{"over IPv6 with BFD", ourAddr6, "2001:db8::2", &bgp.BFD{Transmit: 300 * time.Millisecond, Receive: 300 * time.Millisecond, Multiplier: 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mesh := func(p *bgp.Peer) { p.AS, p.BFD = ourAS, c.bfd }
			theirs := bgp.Instance{
				AS: ourAS, RouterID: addr("192.0.2.2"), Port: 179, IPv4: true, IPv6: true, Peers: []bgp.Peer{peer(c.ours, mesh)},
				Announcements: []bgp.Announcement{
					{Prefix: prefix("10.2.0.0/24"), NextHop: addr("192.0.2.2")}, {Prefix: prefix("fd00:2::/64"), NextHop: addr("2001:db8::2")},
				},
			}
			all := []string{"10.2.0.0/24 via [192.0.2.2]", "fd00:2::/64 via [2001:db8::2]"}
			mine := []string{"10.1.0.0/24 via [192.0.2.1]", "fd00:1::/64 via [2001:db8::1]"}
			other := startChild(t, host, theirs)
			s := start(t, instance(peer(c.theirs, mesh)))
			up := func() bool {
				st := s.session(c.theirs)
				return slices.Equal(s.learned(), all) && st.EndOfRIB && (c.bfd == nil || st.BFD == "Up")
			}
			s.eventually("routes", 15*time.Second, up)
			other.learned(5*time.Second, mine...)
			s.eventually("settled", 5*time.Second, s.Settled)

			theirs.Restarting = true
			for i, end := range []func(*child){(*child).stop, (*child).kill, (*child).kill} {
				s.lowest.Store(2)
				end(other)
				s.eventually("loss of the session", 5*time.Second, func() bool { return s.session(c.theirs).Flaps == i+1 })
				other = startChild(t, host, theirs)
				s.eventually("the neighbour is back", 30*time.Second, up)
				if n := s.lowest.Load(); n != 2 {
					t.Errorf("%d routes were left at some time, want 2", n)
				}
				other.learned(5*time.Second, mine...)
			}
			if got := s.session(c.theirs).Flaps; got != 3 {
				t.Errorf("%d flaps, want 3", got)
			}
		})
	}
}
