package nfnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLost says that the kernel dropped notifications because they were not read fast enough (ENOBUFS).
var ErrLost = errors.New("netfilter notifications were lost")

// Listener receives the notifications of one multicast group, or what was subscribed to.
type Listener struct {
	file *os.File
	read []byte
}

// Listen joins the group (NFNLGRP_*) in the network namespace of the calling thread. rcvbuf is the number of bytes of
// notifications that may wait, or 0 for the system's default. What the socket with the port id except does is not notified (0: nobody's): the
// kernel drops it before it takes room, so that a transaction of a million elements does not crowd out what others do meanwhile.
func Listen(group uint32, rcvbuf int, except uint32) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	l := &Listener{file: os.NewFile(uintptr(fd), "netlink"), read: make([]byte, readSize)}
	if rcvbuf > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf); err != nil {
			return nil, errors.Join(fmt.Errorf("make room for %d bytes of notifications: %w", rcvbuf, err), l.Close())
		}
	}
	if except != 0 {
		if err := drop(fd, except); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind netfilter netlink socket: %w", err), l.Close())
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)); err != nil {
		return nil, errors.Join(fmt.Errorf("join netfilter group %d: %w", group, err), l.Close())
	}
	return l, nil
}

// Subscribe makes requests in the network namespace of the calling thread, after which the kernel sends messages to whoever made them. rcvbuf is the
// number of bytes that may wait. The subscription ends with Close.
func Subscribe(rcvbuf int, requests ...Message) (*Listener, error) {
	s, err := Open()
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf); err != nil {
		return nil, errors.Join(fmt.Errorf("make room for %d bytes of netfilter messages: %w", rcvbuf, err), s.Close())
	}
	for _, m := range requests {
		if err := s.Do(m); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if err := unix.SetNonblock(s.fd, true); err != nil { // so that a read can be woken
		return nil, errors.Join(os.NewSyscallError("fcntl", err), s.Close())
	}
	return &Listener{file: os.NewFile(uintptr(s.fd), "netlink"), read: make([]byte, readSize)}, nil
}

// drop attaches a filter that drops datagrams whose first message is from the socket with the given port id. All messages of a
// datagram have one sender: the kernel joins those of one transaction only (nft_commit_notify, under the commit mutex), and sends the
// number of the new generation apart.
func drop(fd int, from uint32) error {
	const portID = 12 // offset in struct nlmsghdr
	// A filter loads numbers in network byte order; the header has them in the host's.
	value := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, from))
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portID},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: value},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("keep own netfilter notifications out: %w", err)
	}
	return nil
}

// Close releases the socket; Run returns.
func (l *Listener) Close() error { return l.file.Close() }

// Run calls each for every notification until ctx is done, and returns ctx.Err() then. When notifications were lost it calls
// lost and goes on. The message's bytes are valid during the call only.
func (l *Listener) Run(ctx context.Context, each func(Message), lost func()) error {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive netfilter notifications: %w", err)
	}
	// A deadline in the past wakes the read below. Setting it fails only on a closed file, which wakes it too.
	stop := context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var n int
		var readErr error
		err := conn.Read(func(fd uintptr) bool {
			n, _, readErr = unix.Recvfrom(int(fd), l.read, 0)
			return !errors.Is(readErr, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("receive netfilter notifications: %w", err)
		case errors.Is(readErr, unix.ENOBUFS):
			lost()
		case errors.Is(readErr, unix.EINTR):
		case readErr != nil:
			return fmt.Errorf("receive netfilter notifications: %w", readErr)
		default:
			for h, payload := range messages(l.read[:n]) {
				if len(payload) >= nfgenSize {
					each(Message{Type: h.Type, Flags: h.Flags, Family: payload[0], Attrs: payload[nfgenSize:]})
				}
			}
		}
	}
}
