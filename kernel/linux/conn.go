//go:build linux

package linux

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	sendLimit     = 32 << 10 // bytes of one send after which no further change is added
	receiveSize   = 64 << 10 // a dump's buffer is never longer than 32 KiB (netlink_dump)
	receiveBuffer = 1 << 20  // SO_RCVBUFFORCE; the kernel doubles it
	replySize     = 2 << 10  // more than the memory that one error with its text takes in the receive buffer
	answerTimeout = 30       // seconds; only a kernel that is out of memory loses an answer
)

// conn is a request socket of rtnetlink in one network namespace. It is used by one goroutine at a time.
type conn struct {
	fd       int
	port     uint32 // the kernel names it in the notifications of what this socket asked for
	seq      uint32
	replies  int // so many errors are sure to fit into the socket's receive buffer
	enc      encoder
	received []byte
}

// dialRoute opens a conn in the calling thread's network namespace.
func dialRoute() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	c := &conn{fd: fd, received: make([]byte, receiveSize)}
	if err := c.setUp(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *conn) setUp() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind rtnetlink socket: %w", err)
	}
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		return fmt.Errorf("read the port of an rtnetlink socket: %w", err)
	}
	c.port = sa.(*unix.SockaddrNetlink).Pid
	// CAP_ACK: an error does not quote the request, which makes it small. EXT_ACK: it may say in words what is wrong.
	// GET_STRICT_CHK: the kernel honours the filters of a dump, or refuses what it does not know, instead of ignoring it.
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK} {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, option, 1); err != nil {
			return fmt.Errorf("set option %d of an rtnetlink socket (Linux 4.20 or later is needed): %w", option, err)
		}
	}
	// Without CAP_NET_ADMIN the buffer keeps its default size, and fewer messages go into one send.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	size, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return fmt.Errorf("read the receive buffer's size of an rtnetlink socket: %w", err)
	}
	c.replies = repliesIn(size)
	timeout := unix.Timeval{Sec: answerTimeout}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("set the timeout of an rtnetlink socket: %w", err)
	}
	return nil
}

// repliesIn returns how many errors and one acknowledgement fit into a receive buffer, at least enough for one change.
func repliesIn(size int) int { return max(size/replySize-1, maxMessages) }

func (c *conn) close() error { return unix.Close(c.fd) }

// send hands the encoded messages to the kernel and empties the encoder.
func (c *conn) send() error {
	defer func() { c.enc.buf = c.enc.buf[:0] }()
	for {
		_, err := unix.Write(c.fd, c.enc.buf)
		if err == unix.EINTR {
			continue // nothing was taken: the kernel is interrupted only before it looks at the messages
		}
		if err != nil {
			return fmt.Errorf("send to the kernel: %w", err)
		}
		return nil
	}
}

// receive reads the next datagram, which holds one answer or a part of a dump.
func (c *conn) receive() ([]byte, error) {
	for {
		n, err := unix.Read(c.fd, c.received)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil, errors.New("the kernel does not answer")
		case err != nil:
			return nil, fmt.Errorf("read from the kernel: %w", err)
		}
		return c.received[:n], nil
	}
}

// replyError is an error that the kernel sent, with its explanation where it gave one.
type replyError struct {
	errno unix.Errno
	text  string
}

func (e *replyError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + ": " + e.text
}

func (e *replyError) Unwrap() error { return e.errno }

// parseReply reads the payload of NLMSG_ERROR or NLMSG_DONE (struct nlmsgerr, then attributes). It returns nil for an
// acknowledgement.
func parseReply(m message) error {
	if len(m.payload) < 4 {
		if m.msgType == unix.NLMSG_DONE {
			return nil
		}
		return errMalformed
	}
	code := int32(binary.NativeEndian.Uint32(m.payload))
	if code == 0 {
		return nil
	}
	e := &replyError{errno: unix.Errno(-code)}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	attrs := m.payload[4:]
	if m.msgType == unix.NLMSG_ERROR {
		quoted := unix.NLMSG_HDRLEN
		if m.flags&unix.NLM_F_CAPPED == 0 && len(attrs) >= 4 {
			quoted = align4(int(min(binary.NativeEndian.Uint32(attrs), uint32(len(attrs)))))
		}
		attrs = attrs[min(quoted, len(attrs)):]
	}
	for len(attrs) > 0 {
		a, rest, err := nextAttr(attrs)
		if err != nil {
			break
		}
		if a.attrType == unix.NLMSGERR_ATTR_MSG {
			e.text = a.text()
		}
		attrs = rest
	}
	return e
}
