package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

const (
	headerSize = unix.SizeofNlMsghdr
	nfgenSize  = 4 // struct nfgenmsg: family, version, resource id

	// A dump answers in chunks of at most 32 KiB (NLMSG_GOODSIZE grown by netlink_recvmsg); an error repeats its request, of which
	// only the header matters.
	readSize = 64 << 10
)

// Message is one request or answer of a netfilter subsystem.
type Message struct {
	Type   uint16 // subsystem << 8 | message
	Flags  uint16 // NLM_F_* beyond NLM_F_REQUEST and NLM_F_ACK, which the socket sets
	Family uint8  // NFPROTO_*
	Group  uint16 // the subsystem's resource, of nfnetlink_log for instance; 0 elsewhere. A batch does not heed it
	Attrs  Attrs
}

// Error says which message of a request the kernel refused.
type Error struct {
	Index int // of the message in the batch; -1 for the batch as a whole
	Errno unix.Errno
}

func (e *Error) Error() string { return e.Errno.Error() }

// Unwrap returns the kernel's errno.
func (e *Error) Unwrap() error { return e.Errno }

// Socket is a NETLINK_NETFILTER socket in the network namespace in which it was opened. One goroutine may use it at a time.
type Socket struct {
	fd     int
	seq    uint32
	sndbuf int // bytes that one sendto may carry; 0 until a large one needs to know
	read   []byte
}

// Open makes a socket in the network namespace of the calling thread.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	return &Socket{fd: fd}, nil
}

// Close releases the socket.
func (s *Socket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// PortID returns the address of the socket, which the kernel's notifications name as the sender of a change.
func (s *Socket) PortID() (uint32, error) { return portID(s.fd) }

// portID binds the socket unless its first request did so already.
func portID(fd int) (uint32, error) {
	for {
		addr, err := unix.Getsockname(fd)
		if err != nil {
			return 0, fmt.Errorf("address of netfilter netlink socket: %w", err)
		}
		if id := addr.(*unix.SockaddrNetlink).Pid; id != 0 {
			return id, nil
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return 0, fmt.Errorf("bind netfilter netlink socket: %w", err)
		}
	}
}

// Do sends one request outside of any batch and waits for its acknowledgement.
func (s *Socket) Do(m Message) error {
	b := s.append(nil, m, m.Flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK, m.Group)
	if err := s.send(b); err != nil {
		return err
	}
	return s.acknowledge(s.seq, s.seq)
}

// acknowledge reads answers until that of message last, and returns the first refusal. The kernel queues the answers in
// the order of the messages, and stops at an error of the whole batch, which bears the number before first.
func (s *Socket) acknowledge(first, last uint32) error {
	var refused error
	for {
		b, err := s.receive()
		if errors.Is(err, unix.ENOBUFS) {
			continue // more errors than the receive buffer holds, of which the first are still there
		}
		if errors.Is(err, unix.EAGAIN) && refused != nil {
			return refused
		}
		if err != nil {
			return fmt.Errorf("receive netfilter acknowledgement: %w", err)
		}
		for h, payload := range messages(b) {
			if h.Type != unix.NLMSG_ERROR || h.Seq < first-1 || h.Seq > last {
				continue
			}
			if errno := errorOf(payload); errno != 0 && refused == nil {
				refused = &Error{Index: int(int32(h.Seq - first)), Errno: errno}
			}
			switch h.Seq {
			case last:
				return refused
			case first - 1:
				return s.drain(refused)
			}
		}
	}
}

// drain throws away the answers that may follow an error of the whole batch, so that the next request reads its own.
func (s *Socket) drain(result error) error {
	for {
		if _, err := s.receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return result
		}
	}
}

// Get sends a request and returns its one answer.
func (s *Socket) Get(m Message) (Message, error) {
	var answer Message
	var found bool
	err := s.query(m, 0, func(m Message) error {
		m.Attrs = slices.Clone(m.Attrs) // the acknowledgement is read into the same buffer
		answer, found = m, true
		return nil
	})
	if err == nil && !found {
		err = unix.ENOENT
	}
	return answer, err
}

// Dump sends a request for all objects of a kind and calls each with every answer; its bytes are valid during the call only.
// Answers that the kernel itself calls inconsistent (NLM_F_DUMP_INTR) end in kernel.ErrStale.
func (s *Socket) Dump(m Message, each func(Message) error) error {
	return s.query(m, unix.NLM_F_DUMP, each)
}

func (s *Socket) query(m Message, flags uint16, each func(Message) error) error {
	// An acknowledgement ends the answer to a Get as NLMSG_DONE ends that to a dump.
	b := s.append(nil, m, m.Flags|flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK, m.Group)
	if err := s.send(b); err != nil {
		return err
	}
	var result error
	for {
		b, err := s.receive()
		if errors.Is(err, unix.ENOBUFS) {
			result = kernel.ErrStale
			continue
		}
		if err != nil {
			return fmt.Errorf("receive netfilter answer: %w", err)
		}
		for h, payload := range messages(b) {
			switch {
			case h.Seq != s.seq:
				continue
			case h.Type == unix.NLMSG_ERROR, h.Type == unix.NLMSG_DONE:
				if errno := errorOf(payload); errno != 0 && result == nil {
					result = &Error{Errno: errno}
				}
				return result
			case h.Flags&unix.NLM_F_DUMP_INTR != 0:
				result = kernel.ErrStale
			case result == nil && len(payload) >= nfgenSize:
				result = each(Message{Type: h.Type, Family: payload[0], Attrs: payload[nfgenSize:]})
			}
		}
	}
}

// append adds a message with the next sequence number to b.
func (s *Socket) append(b []byte, m Message, flags, resource uint16) []byte {
	s.seq++
	b = binary.NativeEndian.AppendUint32(b, uint32(headerSize+nfgenSize+len(m.Attrs)))
	b = binary.NativeEndian.AppendUint16(b, m.Type)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port id: the kernel knows the sender
	b = append(b, m.Family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, m.Attrs...)
}

// send hands b to the kernel, which works it off before send returns.
func (s *Socket) send(b []byte) error {
	if err := s.growSendBuffer(len(b)); err != nil {
		return err
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("send %d bytes to netfilter: %w", len(b), err)
		}
		return nil
	}
}

// growSendBuffer makes room for a message of size bytes: netlink_sendmsg refuses what is larger than the send buffer.
func (s *Socket) growSendBuffer(size int) error {
	const small = 64 << 10 // under the default of any kernel (net.core.wmem_default)
	if size <= small || size <= s.sndbuf {
		return nil
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size); err != nil {
		return fmt.Errorf("make room for %d bytes to netfilter: %w", size, err)
	}
	s.sndbuf = size
	return nil
}

// receive returns what the kernel has queued, valid until the next call; EAGAIN when there is nothing.
func (s *Socket) receive() ([]byte, error) {
	if s.read == nil {
		s.read = make([]byte, readSize)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.read, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return s.read[:max(n, 0)], err
	}
}
