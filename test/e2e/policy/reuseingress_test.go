package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// inside listens in a pod's namespace from before the pod is attached, and answers all that comes.
type inside struct {
	heard atomic.Int64
	ready chan error
	stop  func()
}

// newInside waits for the namespace in the background.
func newInside(ns netns.Namespace) *inside {
	i := &inside{ready: make(chan error, 1)}
	var conn *net.UDPConn
	var ended sync.WaitGroup
	quit := make(chan struct{})
	ended.Go(func() {
		for {
			err := ns.Do(func() (err error) {
				conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: listenPort}) // both families
				return err
			})
			if err == nil {
				break
			}
			select {
			case <-quit:
				i.ready <- err
				return
			case <-time.After(50 * time.Microsecond):
			}
		}
		i.ready <- nil
		buffer := make([]byte, 128)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				i.heard.Add(1)
				_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // so that the connection is established
			}
		}
	})
	i.stop = func() {
		close(quit)
		if err := <-i.ready; err == nil {
			_ = conn.Close()
		}
		ended.Wait()
	}
	return i
}

// pester sends to one address without end, from one port, and hears what comes back.
func pester(t *testing.T, from *pod, to netip.Addr) {
	t.Helper()
	conn := dial(t, from.ns, "udp", netip.AddrPortFrom(to, listenPort))
	var all sync.WaitGroup
	quit := make(chan struct{})
	t.Cleanup(func() {
		close(quit)
		_ = conn.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-time.After(300 * time.Microsecond):
				_, _ = conn.Write([]byte("x")) // nobody may be there
			}
		}
	})
	all.Go(func() {
		buffer := make([]byte, 16)
		for {
			if _, err := conn.Read(buffer); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
}

// TestReuseIngress gives one address in turn to pods that everybody may reach and to pods that nobody may, while pods on both nodes send to the address all
// the time, from ports that they have used with the last pod. With the daemon there, and without.
func TestReuseIngress(t *testing.T) {
	t.Parallel()
	total := 400
	if testing.Short() {
		total = 40
	}
	r := newRig(t, rigOptions{nodes: 2})
	n := r.node(1)
	addrs := podAddrs(1, 99)
	list, err := n.ConfList()
	must(t, err)
	list = oneAddress(t, list, addrs)
	for _, p := range r.addPods(t, modelPods(2)[4:]) {
		for _, a := range addrs {
			pester(t, p, a)
		}
	}
	r.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "locked", "locked"), true, false)))
	attach := func(i int, app string, then func(*inside) error) {
		t.Helper()
		record := &store.Pod{Name: store.ObjectName{Namespace: "x", Name: fmt.Sprintf("%s-%d", app, i)}, Labels: map[string]string{"app": app}}
		options := podOptions(record)
		options.ConfList = list
		listener := newInside(netns.Named(r.lab.Name() + "-" + options.Name))
		defer listener.stop()
		p, err := n.AddPod(t.Context(), options)
		must(t, err)
		time.Sleep(20 * time.Millisecond) // more comes
		if err := then(listener); err != nil {
			t.Errorf("%s: %v", record.Name, err)
		}
		must(t, p.Delete(t.Context()))
	}
	heard := func(l *inside) error {
		for begin := time.Now(); l.heard.Load() < 20; time.Sleep(time.Millisecond) {
			if time.Since(begin) > patience {
				return errors.New("it heard nothing")
			}
		}
		return nil
	}
	silence := func(l *inside) error {
		if n := l.heard.Load(); n > 0 {
			return fmt.Errorf("it heard %d datagrams", n)
		}
		return nil
	}
	for i := 0; i < total && !t.Failed(); i++ {
		switch {
		case i%2 == 0:
			attach(i, "free", heard)
		case i%10 != 9:
			attach(i, "locked", silence)
		default: // the daemon is away since before the free pod went
			attach(i, "free", func(l *inside) error { return errors.Join(heard(l), n.KillDaemon(t.Context())) })
			attach(i, "locked", silence)
			must(t, n.StartDaemon())
			must(t, n.Ready(t.Context()))
		}
	}
}
