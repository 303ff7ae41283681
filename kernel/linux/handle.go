//go:build linux

package linux

import (
	"context"
	"errors"
	"log/slog"

	"github.com/twill-cni/twill/kernel"
)

// Handle reads and changes one network namespace: the one that the calling thread was in when Open was called. It
// implements kernel.Kernel. It may be used by several goroutines; calls are made one after the other.
type Handle struct{ log *slog.Logger }

// Open opens a Handle on the caller's current network namespace.
func Open(log *slog.Logger) (*Handle, error) { return &Handle{log}, nil }

// Close releases the handle's sockets.
func (h *Handle) Close() error { return nil }

func (h *Handle) Links(ctx context.Context, names []string) ([]kernel.Link, error) {
	return nil, errors.ErrUnsupported
}
func (h *Handle) Neighbors(ctx context.Context, links []string) ([]kernel.Neighbor, error) {
	return nil, errors.ErrUnsupported
}
func (h *Handle) FDB(ctx context.Context, links []string) ([]kernel.FDBEntry, error) {
	return nil, errors.ErrUnsupported
}
func (h *Handle) Routes(ctx context.Context, links []string) ([]kernel.Route, error) {
	return nil, errors.ErrUnsupported
}
func (h *Handle) ApplyLinks(ctx context.Context, changes []kernel.Change[kernel.Link]) []error {
	return []error{errors.ErrUnsupported}
}
func (h *Handle) ApplyNeighbors(ctx context.Context, changes []kernel.Change[kernel.Neighbor]) []error {
	return []error{errors.ErrUnsupported}
}
func (h *Handle) ApplyFDB(ctx context.Context, changes []kernel.Change[kernel.FDBEntry]) []error {
	return []error{errors.ErrUnsupported}
}
func (h *Handle) ApplyRoutes(ctx context.Context, changes []kernel.Change[kernel.Route]) []error {
	return []error{errors.ErrUnsupported}
}

// ReadLink returns what the kernel has of the link, and whether there is one of that name.
func (h *Handle) ReadLink(ctx context.Context, name string) (kernel.Link, bool, error) {
	return kernel.Link{}, false, errors.ErrUnsupported
}

// Cleanup removes everything that is ours: routes with kernel.RouteProtocol and links with kernel.LinkAlias.
func (h *Handle) Cleanup(ctx context.Context) error { return errors.ErrUnsupported }

// EnsureForwarding switches forwarding on for the families asked for when it is off.
func (h *Handle) EnsureForwarding(ipv4, ipv6 bool) error { return errors.ErrUnsupported }

// CheckForwarding returns an error that names each family for which forwarding is off.
func (h *Handle) CheckForwarding(ipv4, ipv6 bool) error { return errors.ErrUnsupported }

// BridgeNetfilter says whether bridged packets pass through the netfilter hooks of IPv4 and IPv6.
func (h *Handle) BridgeNetfilter() (ipv4, ipv6 bool, err error) {
	return false, false, errors.ErrUnsupported
}
