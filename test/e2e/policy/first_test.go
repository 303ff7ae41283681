package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// listenPort is where ears listen.
const listenPort = 7777

// ear counts the datagrams that come, by who says to have sent them.
type ear struct {
	name string
	addr []netip.Addr

	mu    sync.Mutex
	heard map[string]int
}

// newEar listens on addresses of a namespace until the test ends.
func newEar(t *testing.T, name string, ns netns.Namespace, addrs []netip.Addr) *ear {
	t.Helper()
	e := &ear{name: name, addr: addrs, heard: map[string]int{}}
	for _, a := range addrs {
		var conn *net.UDPConn
		must(t, ns.Do(func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, listenPort)))
			return err
		}))
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buffer := make([]byte, 128)
			for {
				n, _, err := conn.ReadFromUDPAddrPort(buffer)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				e.mu.Lock()
				e.heard[string(buffer[:n])]++
				e.mu.Unlock()
			}
		}()
	}
	return e
}

// from returns how much came from a sender.
func (e *ear) from(sender string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[sender]
}

// beginning returns how much came from all whose names begin so.
func (e *ear) beginning(prefix string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := 0
	for sender, n := range e.heard {
		if strings.HasPrefix(sender, prefix) {
			sum += n
		}
	}
	return sum
}

// eager is a process that is in a pod's namespace before it is attached, and sends without pause.
type eager struct {
	early, sent atomic.Int64 // attempts that failed for want of an address or a route, and datagrams
	stop        chan struct{}
	done        chan error
}

// newEager waits for the namespace and sends to all ears until it is told to stop.
func newEager(ns netns.Namespace, name string, ears []*ear) *eager {
	e := &eager{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		for {
			err := ns.Do(func() error { return e.send(name, ears) })
			select {
			case <-e.stop:
				e.done <- nil
				return
			default:
			}
			if err == nil { // only a namespace that is not there yet is an error
				e.done <- errors.New("it stopped by itself")
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	return e
}

func (e *eager) send(name string, ears []*ear) error {
	sockets := map[bool]int{}
	for v6, family := range map[bool]int{false: unix.AF_INET, true: unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sockets[v6] = fd
	}
	for {
		select {
		case <-e.stop:
			return nil
		default:
		}
		for _, ear := range ears {
			for _, a := range ear.addr {
				if err := unix.Sendto(sockets[a.Is6()], []byte(name), 0, sockaddr(netip.AddrPortFrom(a, listenPort))); err != nil {
					e.early.Add(1)
				} else {
					e.sent.Add(1)
				}
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func (e *eager) end() error {
	close(e.stop)
	return <-e.done
}

// starts are pods that are attached to one node while they send already.
type starts struct {
	rig   *rig
	node  *lab.Node
	ears  []*ear
	count atomic.Int64
	early atomic.Int64 // pods that had tried to send before they had an address
	sent  atomic.Int64 // datagrams
}

// start attaches a pod with that value of the label app, lets it send for a moment longer, calls then if it is there, and detaches it. It returns the name
// under which it sent.
func (s *starts) start(t *testing.T, app string, list []byte, then func(name string) error) (string, error) {
	name := fmt.Sprintf("%s-%d", app, s.count.Add(1))
	record := &store.Pod{Name: store.ObjectName{Namespace: "x", Name: name}, Labels: map[string]string{"app": app}}
	options := podOptions(record)
	options.ConfList = list
	e := newEager(netns.Named(s.rig.lab.Name()+"-"+options.Name), name, s.ears)
	p, err := s.node.AddPod(t.Context(), options)
	if err == nil {
		if e.early.Load() > 0 {
			s.early.Add(1)
		}
		time.Sleep(20 * time.Millisecond) // it goes on sending
		if then != nil {
			err = then(name)
		}
		err = errors.Join(err, p.Delete(t.Context()))
	}
	err = errors.Join(err, e.end())
	s.sent.Add(e.sent.Load())
	return name, err
}

// silent fails when an ear has heard what begins so.
func (s *starts) silent(t *testing.T, prefix string) {
	t.Helper()
	for _, e := range s.ears {
		if n := e.beginning(prefix); n > 0 {
			t.Errorf("%d datagrams of %s reached %s", n, prefix, e.name)
		}
	}
}

// newStarts makes a rig in which pods with app=locked may send nothing, and ears wherever datagrams may go: pods on the same node and on another, the
// node itself, and a machine outside.
func newStarts(t *testing.T) *starts {
	t.Helper()
	r := newRig(t, rigOptions{nodes: 2})
	s := &starts{rig: r, node: r.node(1)}
	for _, p := range r.addPods(t, modelPods(2)[:2]) {
		s.ears = append(s.ears, newEar(t, p.name, p.ns, p.record.Addrs))
	}
	s.ears = append(s.ears, newEar(t, "node1", s.node.Netns(), s.node.Addrs()))
	v4, v6 := r.lab.UnderlayGateway()
	s.ears = append(s.ears, newEar(t, "outside", r.lab.Underlay(), []netip.Addr{v4, v6}))
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "locked", "locked"), false, true)))
	return s
}

// many starts n pods, some at a time.
func (s *starts) many(t *testing.T, n, together int, app string) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(together)
	for range n {
		g.Go(func() error {
			_, err := s.start(t, app, nil, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestFirstPacket has pods send before they are attached. Those that may not send anything never do, whatever becomes of the daemon, and the others
// can.
func TestFirstPacket(t *testing.T) {
	t.Parallel()
	total := 1000
	if testing.Short() {
		total = 50
	}
	s := newStarts(t)
	everywhere := func(name string) error {
		for _, e := range s.ears {
			begin := time.Now()
			for e.from(name) == 0 {
				if time.Since(begin) > patience {
					return fmt.Errorf("nothing of %s has reached %s", name, e.name)
				}
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	}
	control := func() { // otherwise silence would mean nothing
		t.Helper()
		if _, err := s.start(t, "free", nil, everywhere); err != nil {
			t.Error(err)
		}
	}
	const together = 4

	control()
	s.many(t, total*5/10, together, "locked")
	s.silent(t, "locked")
	control()

	stop, killed := make(chan struct{}), make(chan int)
	go func() { // a daemon that is killed over and over
		times := 0
		for {
			select {
			case <-stop:
				killed <- times
				return
			default:
			}
			if err := errors.Join(s.node.KillDaemon(t.Context()), s.node.StartDaemon(), s.node.Ready(t.Context())); err != nil {
				t.Error(err)
			}
			times++
		}
	}()
	s.many(t, total*3/10, together, "locked")
	close(stop)
	times := <-killed
	s.silent(t, "locked")
	control()

	must(t, s.node.KillDaemon(t.Context()))
	s.many(t, total*2/10, 4*together, "locked")
	s.silent(t, "locked")
	back := func(name string) error {
		must(t, s.node.StartDaemon())
		return everywhere(name)
	}
	if _, err := s.start(t, "free", nil, back); err != nil {
		t.Errorf("a pod without policies that was attached while the daemon was down: %v", err)
	}
	s.silent(t, "locked")
	t.Logf("%d pods, of which %d had tried to send before they had an address; the daemon was killed %d times meanwhile; %d datagrams", s.count.Load(),
		s.early.Load(), times, s.sent.Load())
	if s.early.Load()*10 < s.count.Load()*9 {
		t.Errorf("only %d of %d pods had tried to send before they had an address", s.early.Load(), s.count.Load())
	}
}
