package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// Probe returns nil when the kernel would take the table, whose name must not be in use; the error wraps kernel.ErrUnsupported when something in it is
// unknown to the kernel, and says what. Modules that it needs are loaded. Nothing is changed: the transaction is not brought to its end, and the
// kernel takes it back (nfnetlink_rcv_batch), as for `nft --check`.
func (h *Handle) Probe(t kernel.Table) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	want, err := encode(t)
	if err != nil {
		return err
	}
	steps := plan(tableID{families[t.Family], t.Name}, &image{}, want)
	b := h.socket.Begin(unix.NFNL_SUBSYS_NFTABLES, 0, 0)
	for _, s := range steps {
		b.Add(s.message)
	}
	return probed(b.Try(), steps)
}

// probed explains what a dry run came to. The kernel says ENOENT of chain types and expressions that it does not know, EOPNOTSUPP of
// families, set types and of nftables as a whole; a transaction that names nothing which has to exist
// gets these for no other reason.
func probed(err error, steps []step) error {
	what := "use nftables"
	var refused *nfnl.Error
	if errors.As(err, &refused) && refused.Index >= 0 && refused.Index < len(steps) {
		what = steps[refused.Index].what
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w: %w", what, kernel.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
