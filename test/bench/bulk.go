package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// throughput sends through a TCP connection for so long and returns the received bits per second: the median of windows of 20 ms, since
// the machine may be somebody else's for a while. Both ends have a thread each, on cores of their own if there are two: whether they
// share one would decide more than the way between them.
func throughput(from, to place, long time.Duration) (bits float64, err error) {
	in, out, err := connection(from, to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(in), unix.Close(out)) }()
	written := make(chan error, 1)
	go func() { written <- send(in, long) }()
	rates := make(chan []float64, 1)
	failed := make(chan error, 1)
	go func() {
		r, err := receive(out)
		rates <- r
		failed <- err
	}()
	all := <-rates
	if err := errors.Join(<-written, <-failed); err != nil {
		return 0, fmt.Errorf("send to %s: %w", to.addr, err)
	}
	if len(all) == 0 {
		return 0, fmt.Errorf("send to %s: nothing arrived for a whole window", to.addr)
	}
	return median(all), nil
}

const chunk = 128 << 10 // bytes a call

func send(fd int, long time.Duration) error {
	if err := pin(0); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for end := time.Now().Add(long); time.Now().Before(end); {
		if _, err := again(unix.Write, fd, buf); err != nil {
			return err
		}
	}
	return unix.Shutdown(fd, unix.SHUT_WR)
}

// receive returns the rates of all windows but the last, which is not a whole one.
func receive(fd int) (rates []float64, err error) {
	if err := pin(1); err != nil {
		return nil, err
	}
	const window = 20 * time.Millisecond
	buf := make([]byte, chunk)
	bytes, start := 0, time.Now()
	for {
		n, err := again(unix.Read, fd, buf)
		if err != nil || n == 0 {
			return rates, err
		}
		bytes += n
		if took := time.Since(start); took >= window {
			rates = append(rates, 8*float64(bytes)/took.Seconds())
			bytes, start = 0, time.Now()
		}
	}
}

// again is a call that the Go runtime's signals do not end: the kernel does not start one again that has a timeout (signal(7)).
func again(call func(int, []byte) (int, error), fd int, buf []byte) (n int, err error) {
	for {
		if n, err = call(fd, buf); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// pin keeps the calling goroutine on one core; its thread ends with it.
func pin(core int) error {
	runtime.LockOSThread()
	if runtime.NumCPU() == 1 {
		return nil
	}
	var set unix.CPUSet
	set.Set(core)
	return unix.SchedSetaffinity(0, &set)
}

// oneCore returns how many bits per second a TCP connection carries when one thread has both ends: it writes 64 KiB, a segment
// as long as the kernel's get, and reads them at the other end. Between namespaces of one machine the kernel carries them
// within the call that writes. Nobody is woken and nothing is left to the scheduler, so that, unlike with two
// programs, what else runs on the machine hardly matters: the rate is that of the fastest tenth of n batches.
func oneCore(from, to place, n int) (bits float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out, err := connection(from, to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(in), unix.Close(out)) }()
	const batch, size = 16, 64 << 10
	var batches samples
	sent, got := make([]byte, size), make([]byte, size)
	for range n {
		start := time.Now()
		for range batch {
			if _, err := again(unix.Write, in, sent); err != nil {
				return 0, fmt.Errorf("write to %s: %w", to.addr, err)
			}
			for left := size; left > 0; {
				n, err := again(unix.Read, out, got)
				if err != nil || n == 0 {
					return 0, fmt.Errorf("read what went to %s: %d bytes: %w", to.addr, n, err)
				}
				left -= n
			}
		}
		batches = append(batches, time.Since(start))
	}
	return 8 * batch * size / batches.quantile(.1).Seconds(), nil
}

// connection makes a TCP connection and returns its ends.
func connection(from, to place) (in, out int, err error) {
	var listener, port int
	err = to.do(func() error {
		if listener, err = tcpSocket(); err != nil {
			return err
		}
		if err := unix.Bind(listener, &unix.SockaddrInet4{}); err != nil {
			return err
		}
		if err := unix.Listen(listener, 1); err != nil {
			return err
		}
		name, err := unix.Getsockname(listener)
		if err == nil {
			port = name.(*unix.SockaddrInet4).Port
		}
		return err
	})
	if err == nil {
		err = from.do(func() error {
			if in, err = tcpSocket(); err != nil {
				return err
			}
			return unix.Connect(in, &unix.SockaddrInet4{Addr: to.addr.As4(), Port: port})
		})
	}
	if err == nil {
		out, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("connect to %s: %w", to.addr, err)
	}
	return in, out, unix.Close(listener)
}

// tcpSocket opens a socket in the calling thread's namespace; its reads and writes give up after seconds. The congestion control is the
// kernel's own default: BBR, which some machines have in its place, sends by timers, and then these are what is measured.
func tcpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, err
	}
	patience := &unix.Timeval{Sec: 5}
	return fd, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, patience),
		unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"))
}
