package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// attempts is how often a transaction is planned anew because somebody else changed the rule set between the listing and the
// commit. Each attempt takes a fraction of a millisecond for a small table, and is lost only to a transaction that another
// program completed.
const attempts = 50

// Handle works on the nftables of the network namespace in which it was opened. Its methods may be called from any
// goroutine; they take turns.
type Handle struct {
	log *slog.Logger

	mu         sync.Mutex
	socket     *nfnl.Socket
	known      map[tableID]*image // what SyncTables left in the kernel, as far as nobody changed it since
	generation uint32             // of the rule set when known was last true
	monitors   int                // running monitors; with one, known is true until it says otherwise
	unlisted   map[setID]bool     // Bulk sets that were made and not yet listed, see ChangeElements
}

var _ kernel.Tables = (*Handle)(nil)

// Open opens a handle on the calling thread's network namespace. log gets an Info line for every table that was changed.
func Open(log *slog.Logger) (*Handle, error) {
	socket, err := nfnl.Open()
	if err != nil {
		return nil, err
	}
	return &Handle{log: log, socket: socket, known: make(map[tableID]*image), unlisted: make(map[setID]bool)}, nil
}

// Close releases the handle's socket. What is in the kernel stays there.
func (h *Handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.socket.Close()
}

// SyncTables makes each desired table hold exactly what it says and removes the tables named in stale, whatever their family.
// Packets meet a table's old content or its new one, never anything between: the change is one transaction, preceded by a
// second one that no packet notices when new interval sets have to be filled (see prepare). A table that holds what is desired is
// not written, also by a Handle that sees it for the first time. What is written is the difference: elements when only
// elements differ, the rules of a chain when they do.
//
// A table is listed when this Handle has not written it, or when somebody may have changed it since: by what a running
// Monitor says, or without one whenever the kernel's generation number moved. Sets marked Foreign, Dynamic or Bulk are
// neither listed nor changed while their shape is as desired; when their shape changes and their types do not, their elements move to
// the new set, unless they have timeouts.
//
// One table's failure does not keep the others from being synced; the errors are joined.
func (h *Handle) SyncTables(ctx context.Context, desired []kernel.Table, stale []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.checkGeneration(); err != nil {
		return err
	}
	var errs []error
	for _, t := range desired {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := h.syncTable(t); err != nil {
			errs = append(errs, err)
		}
	}
	if len(stale) > 0 {
		errs = append(errs, h.deleteTables(func(id tableID) bool {
			for _, name := range stale {
				if id.name == name && strings.HasPrefix(name, kernel.TablePrefix) {
					return true
				}
			}
			return false
		}))
	}
	return errors.Join(errs...)
}

// checkGeneration forgets what is known when the rule set may have changed unseen.
func (h *Handle) checkGeneration() error {
	now, err := generation(h.socket)
	if err != nil {
		return err
	}
	if now != h.generation && h.monitors == 0 {
		clear(h.known)
	}
	h.generation = now
	return nil
}

// Resync makes the next SyncTables list every table, whatever is known about it.
func (h *Handle) Resync() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.known)
}

// forget makes the next SyncTables list the table.
func (h *Handle) forget(id tableID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.known, id)
}

func (h *Handle) syncTable(t kernel.Table) error {
	want, err := encode(t)
	if err != nil {
		return err
	}
	return h.apply(tableID{families[t.Family], t.Name}, want, nil)
}

// apply commits the difference between the table and want, and the steps that extra adds. It plans anew, from a listing, when
// somebody else was faster: then the kernel says that the generation is not the one that was listed (ERESTART), or, when the
// plan was made from memory, that things are missing or there already.
func (h *Handle) apply(id tableID, want *image, extra []step) error {
	var err error
	ahead := true
	for range attempts {
		have, fromMemory := h.known[id]
		fromMemory = fromMemory && !carries(have, want)
		var gen uint32
		if !fromMemory {
			if have, gen, err = h.list(id, want); errors.Is(err, kernel.ErrStale) {
				continue
			}
			if err != nil {
				return err
			}
		}
		delete(h.known, id)
		made := bulkSetsMade(have, want)
		err = nil
		if ahead {
			gen, err = h.early(id, gen, have, want)
		}
		if err == nil {
			err = h.commit(id, gen, append(plan(id, have, want), extra...))
		}
		switch {
		case err == nil:
			for _, name := range made {
				h.unlisted[setID{id, name}] = true
				want.sets[name].elements = nil // that list found in the old one
			}
			if extra == nil {
				h.known[id] = want
			}
			return nil
		case errors.Is(err, unix.ERESTART), fromMemory && isConflict(err): // what was known is not so
		case errors.Is(err, errEarly):
			// What somebody else has made is in the way of what comes first. In one transaction it goes before.
			h.log.Warn("nftables table differs from what it should be so much that packets may meet it half changed for a moment", "table", id.name, "err", err)
			ahead = false
		default:
			return err
		}
	}
	return fmt.Errorf("sync table %s: other programs changed nftables during each of %d attempts: %w", id.name, attempts, err)
}

// carries reports whether elements of foreign sets, which are not in an image from memory, move to sets of another shape.
func carries(have, want *image) bool {
	for name, s := range want.sets {
		if old := have.sets[name]; s.foreign && old != nil && !old.sameShape(s.setSpec) && old.compatible(s.setSpec) {
			return true
		}
	}
	return false
}

// bulkSetsMade returns the names of the Bulk sets that turning have into want makes.
func bulkSetsMade(have, want *image) []string {
	var made []string
	for name, s := range want.sets {
		if old := have.sets[name]; s.bulk && (old == nil || !old.sameShape(s.setSpec)) {
			made = append(made, name)
		}
	}
	return made
}

// errEarly is for a transaction of early's that the kernel refuses.
var errEarly = errors.New("what is new cannot come first")

// early commits what is to come before the rest of what turns have into want, enters it into have, and returns the generation after that.
func (h *Handle) early(id tableID, gen uint32, have, want *image) (uint32, error) {
	first := prepare(id, have, want)
	if len(first) == 0 {
		return gen, nil
	}
	err := h.commit(id, gen, first)
	var refused *nfnl.Error
	if errors.As(err, &refused) && !errors.Is(err, unix.ERESTART) {
		err = fmt.Errorf("%w: %w", errEarly, err)
	}
	if gen != 0 {
		gen = successor(gen)
	}
	return gen, err
}

// list reads the table as one consistent image, together with the generation that it is of. The elements of sets that want
// calls foreign are read only when they must be carried over into a set of another shape.
func (h *Handle) list(id tableID, want *image) (*image, uint32, error) {
	before, err := generation(h.socket)
	if err != nil {
		return nil, 0, err
	}
	foreign := func(name string) bool { return want.sets[name] != nil && want.sets[name].foreign }
	have, err := read(h.socket, id, foreign)
	if err != nil {
		return nil, 0, err
	}
	for name, old := range have.sets {
		set := want.sets[name]
		if !foreign(name) || old.sameShape(set.setSpec) || !old.compatible(set.setSpec) {
			continue
		}
		if set.elements, err = readElements(h.socket, id, name, old.setSpec); err != nil {
			return nil, 0, fmt.Errorf("read elements of set %s of table %s: %w", name, id.name, err)
		}
	}
	after, err := generation(h.socket)
	if err == nil && after != before {
		err = kernel.ErrStale
	}
	return have, after, err
}

// isConflict reports whether an error can come from a plan that was made from outdated knowledge.
func isConflict(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)
}

// commit sends the steps as one transaction, none as nothing.
func (h *Handle) commit(id tableID, generation uint32, steps []step) error {
	if len(steps) == 0 {
		return nil
	}
	messages := make([]nfnl.Message, len(steps))
	for i, s := range steps {
		messages[i] = s.message
	}
	err := h.socket.Batch(unix.NFNL_SUBSYS_NFTABLES, generation, messages)
	var refused *nfnl.Error
	switch {
	case err == nil:
		h.generation = successor(h.generation)
		h.log.Info("nftables table changed", "table", id.name, "messages", len(steps))
		return nil
	case errors.As(err, &refused) && refused.Index >= 0 && refused.Index < len(steps):
		return fmt.Errorf("sync table %s: %s: %w", id.name, steps[refused.Index].what, err)
	}
	return fmt.Errorf("sync table %s: %w", id.name, err)
}

// successor returns the generation that the kernel makes of g: 0 is never one (nf_tables_commit).
func successor(g uint32) uint32 {
	if g++; g == 0 {
		g = 1
	}
	return g
}

// DeleteTables removes every table whose name starts with kernel.TablePrefix, of all families: what Twill made on this host. A packet
// meets all of what a table held, or none of it.
func (h *Handle) DeleteTables(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.deleteTables(func(id tableID) bool { return strings.HasPrefix(id.name, kernel.TablePrefix) })
}

// deleteTables takes the tables' chains off their hooks first. When a table goes whole, its maps are empty at once for packets that are still in
// its chains, and its sets are not, since a transaction's end deactivates the elements of maps alone (nft_delset in
// net/netfilter/nf_tables_api.c): a Service's address that has no endpoints any more, and is still among those to be refused, would be refused.
func (h *Handle) deleteTables(match func(tableID) bool) error {
	var found []tableID
	m := nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE}
	err := h.socket.Dump(m, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if id := (tableID{answer.Family, attrs[unix.NFTA_TABLE_NAME].String()}); err == nil && match(id) {
			found = append(found, id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	if len(found) == 0 {
		return nil
	}
	unhook := map[tableID][]step{}
	m.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	err = h.socket.Dump(m, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if _, base := attrs[unix.NFTA_CHAIN_HOOK]; err != nil || !base {
			return err
		}
		id := tableID{answer.Family, attrs[unix.NFTA_CHAIN_TABLE].String()}
		m := message(unix.NFT_MSG_DELCHAIN, id)
		m.Attrs.String(unix.NFTA_CHAIN_NAME, attrs[unix.NFTA_CHAIN_NAME].String())
		unhook[id] = append(unhook[id], step{m, "remove chain " + attrs[unix.NFTA_CHAIN_NAME].String()})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, id := range found {
		delete(h.known, id)
		if err := h.commit(id, 0, unhook[id]); err != nil { // others may be changing the table; it goes all the same
			h.log.Debug("a table goes with its chains on their hooks", "table", id.name, "error", err)
		}
	}
	awaitPackets()
	var errs []error
	for _, id := range found {
		if err := h.commit(id, 0, []step{{message(unix.NFT_MSG_DELTABLE, id), "remove table"}}); !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// awaitPackets returns when every packet that was in a chain has left it, or at once where the system call is not allowed: the kernel answers
// MEMBARRIER_CMD_GLOBAL by synchronize_rcu (kernel/sched/membarrier.c), and packets meet their hooks below rcu_read_lock.
func awaitPackets() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
}
