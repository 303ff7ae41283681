package nft

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// notificationBuffer is how many bytes of notifications may wait to be read. Another program that loads 10,000 rules at once
// causes some 5 MB of them; what does not fit costs a listing of our tables.
const notificationBuffer = 8 << 20

// Monitor reports what others change in Twill's tables, and makes the Handle list these tables in its next SyncTables.
type Monitor struct {
	handle   *Handle
	listener *nfnl.Listener
	closed   bool // guarded by handle.mu
}

// NewMonitor subscribes to the nftables notifications of the network namespace of the calling thread, which must be the one
// that the handle works on. Nothing is missed from here on; the caller must Run the monitor, once, or Close it.
func (h *Handle) NewMonitor() (*Monitor, error) { return h.newMonitor(notificationBuffer) }

func (h *Handle) newMonitor(buffer int) (*Monitor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	own, err := h.socket.PortID()
	if err != nil {
		return nil, err
	}
	listener, err := nfnl.Listen(unix.NFNLGRP_NFTABLES, buffer, own)
	if err != nil {
		return nil, err
	}
	clear(h.known) // what changed before has not been noticed
	h.monitors++
	return &Monitor{handle: h, listener: listener}, nil
}

// Close ends the subscription of a monitor that was not run; after Run it does nothing. From then on the handle goes by
// generation numbers again.
func (m *Monitor) Close() error {
	m.handle.mu.Lock()
	defer m.handle.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	m.handle.monitors--
	clear(m.handle.known)
	return m.listener.Close()
}

// Run calls emit for every table with kernel.TablePrefix that somebody else changed, once for each transaction, and with Lost
// set when notifications were dropped. Changes by the handle itself, which the kernel keeps from the monitor's socket, and to the
// elements of Foreign and Dynamic sets are not reported; those of Bulk sets are. It
// returns ctx.Err() when ctx is done, else why no more notifications can be had, and closes the monitor.
func (m *Monitor) Run(ctx context.Context, emit func(kernel.Event)) error {
	err := m.run(ctx, emit)
	return errors.Join(err, m.Close())
}

func (m *Monitor) run(ctx context.Context, emit func(kernel.Event)) error {
	changed := make(map[tableID]bool) // of the transaction whose messages are being read; true: the table is gone
	return m.listener.Run(ctx, func(msg nfnl.Message) {
		if msg.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			m.flush(changed, emit)
			return
		}
		if id, ours := m.tableOf(msg); ours {
			changed[id] = msg.Type&0xff == unix.NFT_MSG_DELTABLE
		}
	}, func() {
		clear(changed)
		m.handle.Resync()
		emit(kernel.Event{Kind: kernel.KindTable, Lost: true})
	})
}

// flush reports the tables that the transaction changed. The handle is told first: a sync that emit causes must not trust
// what the handle remembers.
func (m *Monitor) flush(changed map[tableID]bool, emit func(kernel.Event)) {
	for id, deleted := range changed {
		m.handle.forget(id)
		emit(kernel.Event{Kind: kernel.KindTable, Table: id.name, Deleted: deleted})
	}
	clear(changed)
}

// tableOf returns the table that a notification is about, and whether it is to be reported.
func (m *Monitor) tableOf(msg nfnl.Message) (id tableID, ours bool) {
	attrs, err := nfnl.Parse(msg.Attrs)
	if err != nil {
		return id, false
	}
	id = tableID{msg.Family, attrs[unix.NFTA_TABLE_NAME].String()} // 1 in every object's attributes
	if !strings.HasPrefix(id.name, kernel.TablePrefix) {
		return id, false
	}
	switch msg.Type & 0xff {
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return id, !m.handle.isForeign(id, attrs[unix.NFTA_SET_ELEM_LIST_SET].String())
	}
	return id, true
}

// isForeign reports whether the set is known to be written by others.
func (h *Handle) isForeign(id tableID, name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	img := h.known[id]
	return img != nil && img.sets[name] != nil && img.sets[name].foreign && !img.sets[name].bulk
}
