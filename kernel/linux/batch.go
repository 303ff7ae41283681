//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// batch asks the kernel for n changes and returns nil when it made all of them, else each one's error or nil. encode appends
// the message, or messages, of change i with the sequence number seq; a change for which it returns an error is not
// sent. When ctx ends, the changes not sent yet fail with its error.
//
// Many messages go into one send. The kernel takes such a buffer apart in netlink_rcv_skb (net/netlink/af_netlink.c),
// inside the sender's own system call: message by message in order, going on past errors. It answers a message when it
// failed or bears NLM_F_ACK, so changes go without that flag and silence means success. Each send is closed by a
// NLMSG_NOOP with NLM_F_ACK, the fence: netlink_rcv_skb does nothing for a message type below NLMSG_MIN_TYPE but
// acknowledges it, whatever became of the changes before. All answers are queued when the send returns, the fence's
// as the last, and each bears the sequence number of its message.
//
// An answer that does not fit into the socket's receive buffer is lost (netlink_attachskb; the reader gets ENOBUFS). One send
// therefore holds no more messages than there is room for errors.
func (c *conn) batch(ctx context.Context, n int, encode func(e *encoder, i int, seq uint32) error) []error {
	var errs []error
	fail := func(i int, err error) {
		if errs == nil {
			errs = make([]error, n)
		}
		if errs[i] == nil || isMissing(errs[i]) {
			errs[i] = err
		}
	}
	for first := 0; first < n; {
		if err := ctx.Err(); err != nil {
			for i := first; i < n; i++ {
				fail(i, err)
			}
			break
		}
		base, next := c.seq+1, first
		for ; next < n && next-first < c.replies/maxMessages && len(c.enc.buf) < sendLimit; next++ {
			mark := len(c.enc.buf)
			if err := encode(&c.enc, next, base+uint32(next-first)); err != nil {
				c.enc.buf = c.enc.buf[:mark]
				fail(next, err)
			}
		}
		fence := base + uint32(next-first)
		c.seq = fence
		c.enc.begin(unix.NLMSG_NOOP, unix.NLM_F_ACK, fence)
		c.enc.end()
		if err := c.exchange(base, fence, func(k int, err error) { fail(first+k, err) }); err != nil {
			for i := first; i < next; i++ {
				fail(i, err)
			}
		}
		first = next
	}
	return errs
}

// maxMessages is how many messages one change may be encoded as.
const maxMessages = 2

// exchange sends what is encoded and reads the answers up to the fence's. It calls fail for each error with the distance of its
// sequence number from base.
func (c *conn) exchange(base, fence uint32, fail func(k int, err error)) error {
	if err := c.send(); err != nil {
		return err
	}
	for {
		buf, err := c.receive()
		if err != nil {
			return err
		}
		for len(buf) > 0 {
			m, rest, err := nextMessage(buf)
			if err != nil {
				return err
			}
			buf = rest
			if m.msgType != unix.NLMSG_ERROR || m.seq-base > fence-base {
				continue // the rest of an earlier exchange that was given up
			}
			if m.seq == fence {
				return nil
			}
			if err := parseReply(m); err != nil {
				fail(int(m.seq-base), err)
			}
		}
	}
}

// isMissing reports whether err is the kernel's way of saying that what should be deleted is not there: ENOENT for neighbours
// and FDB entries, ESRCH for routes, ENODEV when the link is gone, and all that was on it.
func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}

// apply makes the changes and gives the errors their context.
func apply[T fmt.Stringer](ctx context.Context, c *conn, changes []kernel.Change[T],
	encode func(e *encoder, change *kernel.Change[T], seq uint32) error) []error {
	errs := c.batch(ctx, len(changes), func(e *encoder, i int, seq uint32) error {
		return encode(e, &changes[i], seq)
	})
	failed := false
	for i, err := range errs {
		switch {
		case err == nil:
		case changes[i].Delete && isMissing(err):
			errs[i] = nil
		case changes[i].Delete:
			errs[i], failed = fmt.Errorf("delete %s: %w", changes[i].Value, err), true
		default:
			errs[i], failed = fmt.Errorf("set %s: %w", changes[i].Value, err), true
		}
	}
	if !failed {
		return nil
	}
	return errs
}
