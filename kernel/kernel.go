package kernel

import (
	"context"
	"errors"
)

// ErrStale says that a dump was disturbed by concurrent changes (NLM_F_DUMP_INTR, EINTR) more often than it was repeated:
// what was read may be incomplete and must not be compared with what is desired.
var ErrStale = errors.New("kernel dump was interrupted")

// Change asks for one object to be made as Value says (created or replaced in place) or to be removed. Removing what is not
// there is no error.
type Change[T any] struct {
	Value  T
	Delete bool
}

// Kernel is the handle on one network namespace that the reconciler works with. The real one is linux.Handle, the one for
// tests kerneltest.Kernel. Methods may be called from one goroutine at a time.
//
// A dump returns only what can be ours: links named in names or bearing LinkAlias; permanent neighbours and FDB entries
// on the named links; routes of the main table with RouteProtocol, and routes on the named links that flanneld left there
// (RTPROT_BOOT, onlink, gateway equal to the destination's base address). A dump that cannot be trusted returns ErrStale.
// What Links cannot tell of a link (TxChecksumOffload is nil, an entry is not in Sysctls) counts as unchanged since it was last applied.
//
// The Apply methods return nil when all changes were made, else a slice as long as changes with each one's error or nil.
// They send many messages at a time and go on past errors.
type Kernel interface {
	Links(ctx context.Context, names []string) ([]Link, error)
	Neighbors(ctx context.Context, links []string) ([]Neighbor, error)
	FDB(ctx context.Context, links []string) ([]FDBEntry, error)
	Routes(ctx context.Context, links []string) ([]Route, error)

	ApplyLinks(ctx context.Context, changes []Change[Link]) []error
	ApplyNeighbors(ctx context.Context, changes []Change[Neighbor]) []error
	ApplyFDB(ctx context.Context, changes []Change[FDBEntry]) []error
	ApplyRoutes(ctx context.Context, changes []Change[Route]) []error
}

// Tables is the handle on the nftables of one network namespace; nft.Handle is the real one.
type Tables interface {
	// SyncTables makes each table hold exactly what is desired, each in one transaction, and removes those of Twill's tables (by name
	// prefix TablePrefix) that are named in stale. It writes nothing when nothing differs. A table that somebody else changed
	// since the last call is written again.
	SyncTables(ctx context.Context, desired []Table, stale []string) error

	// Resync makes the next SyncTables read every table, whatever is remembered of it.
	Resync()
}

// Kind is a kind of kernel object.
type Kind uint8

// The kinds, in the order in which objects are created.
const (
	KindLink Kind = iota
	KindFDB
	KindNeighbor
	KindRoute
	KindTable
	NumKinds
)

func (k Kind) String() string {
	return [...]string{"link", "fdb", "neighbor", "route", "table"}[k]
}

// Event is one notification of the kernel. Exactly the field of its Kind is set; Lost says that notifications were
// dropped (ENOBUFS), so that every kind may have changed. Events come in the order in which the kernel made the changes, and the
// changes that the reader's own process asked for may be among them.
type Event struct {
	Kind     Kind
	Deleted  bool
	Lost     bool
	Link     string // KindLink: the name. An address or link attribute changed, a port left the bridge, or the link came or went
	Neighbor Neighbor
	FDB      FDBEntry
	Route    Route
	Table    string // KindTable: the name

	// Intact says of KindLink that the message shows the link up and takes no address away, so that the routes and
	// neighbours on it still stand. Otherwise they may be gone without a notification of their own: the kernel flushes
	// IPv4 routes silently when a link goes down or loses its last address (net/ipv4/fib_frontend.c, fib_disable_ip).
	Intact bool

	// Foreign says of the other kinds that a dump would not return the object: another route protocol, a neighbour that is not
	// permanent. It matters only where it took the place of one of ours, and where it is a route by which the uplink or next hops are found.
	Foreign bool
	// Pod says of KindLink that the link bears PodLinkAliasPrefix and, with Deleted, that it is gone, else that it was set down. Nothing else is
	// told of such links.
	Pod bool
}
