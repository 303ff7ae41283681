package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// EnsureTable makes the table when there is none of its family and name, and reports whether it did. A table that is there is left alone, whatever it
// holds: finding that out costs one round trip. Of programs that do so at the same time one makes the table, whole, and the others find it.
//
// It is for a program that needs something to be there from the first packet on, and leaves what it becomes to the one who syncs it.
func (h *Handle) EnsureTable(ctx context.Context, t kernel.Table) (created bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if int(t.Family) >= len(families) {
		return false, fmt.Errorf("table %s: unknown family %d", t.Name, t.Family)
	}
	id := tableID{families[t.Family], t.Name}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch _, err := h.socket.Get(message(unix.NFT_MSG_GETTABLE, id)); {
	case err == nil:
		return false, nil
	case !errors.Is(err, unix.ENOENT):
		return false, fmt.Errorf("look for table %s: %w", t.Name, err)
	}
	want, err := encode(t)
	if err != nil {
		return false, err
	}
	delete(h.known, id)
	steps := plan(id, &image{}, want)
	steps[0].message.Flags |= unix.NLM_F_EXCL // the table: somebody who was faster has made all of it
	err = h.commit(id, 0, steps)
	var refused *nfnl.Error
	if errors.As(err, &refused) && refused.Index == 0 && errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, name := range bulkSetsMade(&image{}, want) {
		h.unlisted[setID{id, name}] = true
	}
	return true, nil
}
