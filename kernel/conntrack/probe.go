package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

const msgStats = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5 // IPCTNL_MSG_CT_GET_STATS

// Probe returns nil when the kernel lets connection tracking be read and changed; the error wraps kernel.ErrUnsupported when it lacks the
// means. It changes nothing.
func Probe() (err error) {
	s, err := nfnl.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return probed(s.Do(nfnl.Message{Type: msgStats}))
}

// probed explains an answer: to a subsystem of netfilter that it does not have, the kernel says EINVAL (nfnetlink_rcv_msg).
func probed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("read connection tracking: %w: %w", kernel.ErrUnsupported, err)
	}
	return fmt.Errorf("read connection tracking: %w", err)
}
