package kube

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside calls f on a thread that is in the network namespace that the file holds. Sockets that it makes stay there.
func inside(namespace string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine, and nothing else ever runs in the namespace
		done <- func() error {
			target, err := os.Open(namespace)
			if err != nil {
				return err
			}
			defer target.Close()
			if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", namespace, err)
			}
			return f()
		}()
	}()
	return <-done
}

// space returns the file of a pod's network namespace: that of the namespaces on its machine which has its address.
func space(p standing) (string, error) {
	files, err := filepath.Glob(p.machine.File("/run/netns") + "/*")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if has, err := hasAddr(file, p.addrs[0]); err == nil && has { // another pod's may go meanwhile
			return file, nil
		}
	}
	return "", fmt.Errorf("no namespace on %s has the address of %s", p.machine.Name(), p.name)
}

func hasAddr(file string, addr netip.Addr) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(int(f.Fd())))
	if err != nil {
		return false, err
	}
	defer h.Close()
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range all {
		if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == addr {
			return true, nil
		}
	}
	return false, err
}

// Traffic is numbered packets, a fixed number a second, that come back from where they are sent to. Each number that does not is a loss. It runs
// in this process, on sockets in the pods' namespaces: so it costs little, and packets are the pods' own all the same.
type traffic struct {
	sending  context.Context // packets leave until it ends
	stop     context.CancelFunc
	sent     sync.WaitGroup
	echoing  context.Context // and come back until this one ends
	silence  context.CancelFunc
	silenced sync.WaitGroup
	flows    []*flow
}

const (
	rate = 1000 // packets a second of a flow
	// So many may be on their way. When the processors are too busy to receive as many as are sent, the flow is slower: buffers that overflow
	// here say nothing about what is between.
	window = 4 * rate
	// A socket must not lose packets because this process gets no processor for seconds.
	socketBuffer = 16 << 20
	echoPort     = 7007
)

// flow is the packets of one pair.
type flow struct {
	name     string
	sent     uint64
	returned atomic.Uint64
	took     time.Duration // from the first packet to the last
	err      error
	longest  time.Duration // without a packet that returned
}

func newTraffic(t testing.TB) *traffic {
	l := &traffic{}
	l.sending, l.stop = context.WithCancel(context.Background())
	l.echoing, l.silence = context.WithCancel(context.Background())
	t.Cleanup(l.end)
	return l
}

func (l *traffic) end() {
	l.stop()
	l.sent.Wait()
	l.silence()
	l.silenced.Wait()
}

// numbers is a set of packets' numbers.
type numbers map[uint64]struct{}

func (n numbers) add(number uint64) bool {
	_, known := n[number]
	n[number] = struct{}{}
	return !known
}

// echo answers packets and connections to echoPort of a pod, until the traffic ends.
func (l *traffic) echo(t testing.TB, p standing) {
	t.Helper()
	file, err := space(p)
	must(t, err)
	var packets net.PacketConn
	var connections net.Listener
	must(t, inside(file, func() error {
		if packets, err = net.ListenPacket("udp", fmt.Sprintf(":%d", echoPort)); err == nil {
			connections, err = net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
		}
		return err
	}))
	must(t, enlarge(packets.(*net.UDPConn)))
	context.AfterFunc(l.echoing, func() { _ = packets.Close(); _ = connections.Close() })
	l.silenced.Go(func() {
		buffer := make([]byte, 64)
		for {
			n, from, err := packets.(*net.UDPConn).ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = packets.(*net.UDPConn).WriteToUDPAddrPort(buffer[:n], from) // a loss will be seen
			}
		}
	})
	l.silenced.Go(func() {
		for {
			conn, err := connections.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(l.echoing, func() { _ = conn.Close() })
			l.silenced.Go(func() { _, _ = io.Copy(conn, conn) })
		}
	})
}

func enlarge(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer))
	})
	return errors.Join(err, failed)
}

// send starts a flow from a pod to an address where echo answers, by "udp" or "tcp": numbered packets, or numbered words on one connection.
func (l *traffic) send(t testing.TB, from standing, network string, to netip.AddrPort) {
	t.Helper()
	file, err := space(from)
	must(t, err)
	var conn net.Conn
	_, err = poll(l.sending, enough, func(ctx context.Context) error { // a Service takes a moment
		return inside(file, func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if conn, err = new(net.Dialer).DialContext(ctx, network, to.String()); err != nil {
				return err
			}
			if err = greet(conn); err != nil {
				_ = conn.Close()
			}
			return err
		})
	})
	if err != nil {
		t.Fatalf("%s from %s to %v: %v", network, from.name, to, err)
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		must(t, enlarge(udp))
	}
	f := &flow{name: fmt.Sprintf("%s from %s to %v", network, from.name, to)}
	l.flows = append(l.flows, f)
	sending := make(chan struct{})
	l.sent.Go(func() {
		f.write(l.sending, conn)
		close(sending)
	})
	l.sent.Go(func() {
		f.read(conn, sending)
		_ = conn.Close()
	})
}

// greeting is a number that no packet of a flow has.
const greeting = ^uint64(0)

// greet waits until one packet came back.
func greet(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	word := binary.BigEndian.AppendUint64(nil, greeting)
	if _, err := conn.Write(word); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, word); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

func (f *flow) write(ctx context.Context, conn net.Conn) {
	ticker := time.NewTicker(time.Second / rate)
	defer ticker.Stop()
	word := make([]byte, 8)
	for begin := time.Now(); ; {
		f.took = time.Since(begin)
		// What was not sent in time, because the processors were busy, is sent now.
		due := min(uint64(f.took*rate/time.Second), f.returned.Load()+window)
		for ; f.sent < due; f.sent++ {
			binary.BigEndian.PutUint64(word, f.sent)
			if _, err := conn.Write(word); err != nil {
				f.err = err
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// late is how long a packet may be on its way.
const late = 5 * time.Second

func (f *flow) read(conn net.Conn, sending <-chan struct{}) {
	seen := numbers{}
	word := make([]byte, 8)
	last := time.Now()
	for {
		select {
		case <-sending:
			if uint64(len(seen)) >= f.sent {
				return
			}
			_ = conn.SetReadDeadline(last.Add(late)) // a connection that is closed says so when it is read
		default:
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		}
		_, err := io.ReadFull(conn, word)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			select {
			case <-sending:
				if time.Since(last) >= late {
					return
				}
			default:
			}
			continue
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			f.err = err
			continue
		}
		if err != nil {
			f.err = err
			return
		}
		if number := binary.BigEndian.Uint64(word); number != greeting && seen.add(number) {
			f.returned.Add(1)
			f.longest = max(f.longest, time.Since(last))
			last = time.Now()
		}
	}
}

// whole ends the traffic and checks that nothing was lost.
func (l *traffic) whole(t testing.TB) {
	t.Helper()
	l.end()
	for _, f := range l.flows {
		lost := f.sent - f.returned.Load()
		t.Logf("%s: %d sent, %.0f a second, %d lost, longest gap %v", f.name, f.sent, float64(f.sent)/f.took.Seconds(), lost, f.longest.Round(time.Millisecond))
		if lost > 0 || f.sent == 0 || f.err != nil {
			t.Errorf("%s: %d of %d packets lost, %v", f.name, lost, f.sent, f.err)
		}
	}
}
