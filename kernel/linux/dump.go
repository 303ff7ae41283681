//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a dump is repeated that other changes disturbed.
const dumpTries = 5

// dump sends the request that encode appends and collects what parse makes of each message of the answer. parse returns
// false for what is not wanted. A dump that was disturbed by concurrent changes is repeated a few times and then is
// kernel.ErrStale. A missing table or device is an empty dump.
func dump[T any](ctx context.Context, c *conn, into []T, request func(e *encoder, seq uint32),
	parse func(m message) (T, bool, error)) ([]T, error) {
	have := len(into)
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return into[:have], err
		}
		into = into[:have]
		err := c.dumpOnce(request, func(m message) error {
			value, ok, err := parse(m)
			if ok && err == nil {
				into = append(into, value)
			}
			return err
		})
		switch {
		case err == nil:
			return into, nil
		case isMissing(err):
			return into[:have], nil
		case errors.Is(err, kernel.ErrStale), errors.Is(err, unix.EINTR), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOBUFS):
			continue
		default:
			return into[:have], err
		}
	}
	return into[:have], kernel.ErrStale
}

// dumpOnce makes one dump and calls each with its messages. It reads the answer to its end even when each fails, since the
// socket can run only one dump at a time.
func (c *conn) dumpOnce(request func(e *encoder, seq uint32), each func(message) error) error {
	c.seq++
	request(&c.enc, c.seq)
	if err := c.send(); err != nil {
		return err
	}
	var failed error
	interrupted := false
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
			if m.seq != c.seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.msgType {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if err := parseReply(m); err != nil {
					return fmt.Errorf("dump: %w", err)
				}
				if interrupted && failed == nil {
					return kernel.ErrStale
				}
				return failed
			default:
				if failed == nil {
					failed = each(m)
				}
			}
		}
	}
}
