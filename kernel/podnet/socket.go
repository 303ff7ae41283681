//go:build linux

package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// socket is an rtnetlink socket. It stays in the network namespace that the thread was in when it was made.
type socket struct {
	fd  int
	seq uint32 // of the last request; it wraps around
	buf []byte
}

// bufSize holds any one message and a good part of a dump: the kernel fills up to 32 KiB per read.
const bufSize = 32 << 10

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	// With these the kernel says in words what it did not like, and does not send the request back with it (linux 4.12).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &socket{fd: fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// kernelError is a request that the kernel refused.
type kernelError struct {
	what  string
	errno unix.Errno
	words string // the kernel's own explanation, if it gave one
}

func (e *kernelError) Error() string {
	if e.words != "" {
		return e.what + ": " + e.errno.Error() + " (" + e.words + ")"
	}
	return e.what + ": " + e.errno.Error()
}

func (e *kernelError) Unwrap() error { return e.errno }

// run sends the batch and waits for every answer. It returns the errors of all requests that failed, joined, in the order of
// the requests. visit gets the type and the payload of each message that is not an answer; it may be nil.
func (s *socket) run(b *batch, visit func(typ uint16, body []byte)) error {
	first, err := s.send(b)
	if err != nil {
		return err
	}
	var errs []error
	stale := false
	for answered := 0; answered < len(b.msgs); {
		data, err := s.receive()
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("%s: read rtnetlink answer: %w", b.msgs[answered].what, err))...)
		}
		for len(data) >= unix.NLMSG_HDRLEN {
			var m received
			var ok bool
			if m, data, ok = cut(data); !ok {
				return fmt.Errorf("%s: malformed rtnetlink answer", b.msgs[answered].what)
			}
			request := m.seq - first
			if request >= uint32(len(b.msgs)) {
				continue // a late answer to an earlier batch, whose run ended with an error
			}
			stale = stale || m.flags&unix.NLM_F_DUMP_INTR != 0 && m.typ != unix.NLMSG_ERROR
			if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
				answered++
				if err := answer(b.msgs[request], m.flags, m.body); err != nil {
					errs = append(errs, err)
				}
			} else if visit != nil {
				visit(m.typ, m.body)
			}
		}
	}
	if stale {
		errs = append(errs, fmt.Errorf("%s: %w", b.msgs[0].what, kernel.ErrStale))
	}
	return errors.Join(errs...)
}

// send numbers the requests of the batch, on from those of the batch before, and sends them. It returns the first number.
func (s *socket) send(b *batch) (first uint32, err error) {
	b.end()
	first = s.seq + 1
	for _, m := range b.msgs {
		s.seq++
		binary.NativeEndian.PutUint32(b.buf[m.start+8:], s.seq)
	}
	if err := unix.Sendto(s.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return first, fmt.Errorf("%s: send rtnetlink request: %w", b.msgs[0].what, err)
	}
	return first, nil
}

// receive waits for what the kernel sends next. It is valid until the next call.
func (s *socket) receive() ([]byte, error) {
	if s.buf == nil {
		s.buf = make([]byte, bufSize)
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if !errors.Is(err, unix.EINTR) {
			return s.buf[:max(n, 0)], err
		}
	}
}

// answer turns an NLMSG_ERROR or NLMSG_DONE into an error; nil when it says that all is well.
func answer(m message, flags uint16, body []byte) error {
	if len(body) < 4 {
		return nil // an NLMSG_DONE of an old kernel carries nothing
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == 0 || errno == m.may {
		return nil
	}
	e := &kernelError{what: m.what, errno: errno}
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(body) >= 4+unix.NLMSG_HDRLEN {
		attrs(body[4+unix.NLMSG_HDRLEN:], func(typ uint16, v []byte) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				e.words = cstring(v)
			}
		})
	}
	return e
}
