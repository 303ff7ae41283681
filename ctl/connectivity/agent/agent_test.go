package agent

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/store"
)

const enough = 30 * time.Second

// connect connects a Client to an agent in this process's network.
func connect(t *testing.T, hello Hello) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Answer(t.Context(), probe.Here{}, hello, theirs, theirs)
		theirs.Close()
	}()
	c, err := Dial(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the agent: %v", err)
		}
	})
	return c
}

// Many questions over one stream get each its own answer, and a server's name is told from another's.
func TestAsk(t *testing.T) {
	var at []netip.AddrPort
	for _, port := range []uint16{38471, 38472} {
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.61"), port)
		s, err := probe.Serve(t.Context(), probe.Here{}, to.String(), to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		at = append(at, to)
	}
	hello := Hello{Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3")}, MTU: 1450, NameServers: []netip.Addr{netip.MustParseAddr("fd00::a")}, Search: []string{"a.b"}}
	c := connect(t, hello)
	if diff := cmp.Diff(hello, c.Hello, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	var asking sync.WaitGroup
	for i := range 2 * atOnce {
		asking.Go(func() {
			for _, protocol := range []store.Protocol{store.TCP, store.UDP} {
				to, want, outcome := at[i%2], at[i%2].String(), probe.Reached
				if i%4 == 3 {
					want, outcome = "somebody", probe.Failed
				}
				a, err := c.Ask(t.Context(), connectivity.Question{Protocol: protocol, To: to, Want: []string{want}}, enough)
				if err != nil || a.Outcome != outcome {
					t.Errorf("%d: %+v, %v", i, a, err)
				}
			}
		})
	}
	asking.Wait()
}

// A stream that ends, or that is none of an agent's, is an error that says so, and nobody waits for it.
func TestEnds(t *testing.T) {
	for name, said := range map[string]string{"nothing": "", "no JSON": "sh: twillctl: not found\n", "no hello": "{}\n", "too long": strings.Repeat("x", longest+1)} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = io.WriteString(theirs, said)
				theirs.Close()
			}()
			if _, err := Dial(t.Context(), ours); err == nil || !strings.Contains(err.Error(), "start the agent") {
				t.Error(err)
			}
		})
	}
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.WriteString(theirs, `{"Hello":{}}`+"\n")
		_, _ = bufio.NewReader(theirs).ReadString('\n')
		theirs.Close()
	}()
	c, err := Dial(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Ask(t.Context(), connectivity.Question{}, enough); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// Who is interrupted while the agent says nothing does not wait.
func TestInterrupted(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := Dial(ctx, ours); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestIntroduce(t *testing.T) {
	if _, err := Introduce("/nowhere"); err == nil {
		t.Error("a file that is not there")
	}
	servers, search := parseResolvConf("# a\nsearch x\nsearch a.svc.c b\nnameserver 10.96.0.10\nnameserver nonsense\nnameserver fd00::a\noptions ndots:5\nnameserver\n")
	if diff := cmp.Diff([]string{"a.svc.c", "b"}, search); diff != "" {
		t.Error(diff)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}; !slices.Equal(servers, want) {
		t.Error(servers)
	}
}

// Whatever comes in, the agent ends with its input.
func FuzzAnswer(f *testing.F) {
	f.Add(`{"ID":1,"Question":{"Protocol":6,"To":"127.0.0.1:1"},"Patience":1}`)
	f.Add("{}\n{")
	f.Add("nameserver ::ffff:1.2.3.4\nsearch")
	f.Fuzz(func(t *testing.T, in string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing is sent
		_ = Answer(ctx, probe.Here{}, Hello{}, strings.NewReader(in), io.Discard)
		for _, a := range first(parseResolvConf(in)) {
			if !a.IsValid() {
				t.Error(in)
			}
		}
	})
}

func first[A, B any](a A, _ B) A { return a }
