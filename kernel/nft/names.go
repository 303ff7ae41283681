package nft

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// TableNames returns the sorted names of the tables that DeleteTables would remove.
func (h *Handle) TableNames(ctx context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var names []string
	m := nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE}
	err := h.socket.Dump(m, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if name := attrs[unix.NFTA_TABLE_NAME].String(); err == nil && strings.HasPrefix(name, kernel.TablePrefix) {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	slices.Sort(names)
	return names, nil
}
