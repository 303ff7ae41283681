//go:build linux

package portmap

import (
	"context"
	"errors"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/plugins/hostport"
)

// FlushUDP makes the kernel forget the UDP flows to the pod's host ports. A client that goes on sending would keep its old
// entry, and with it the old destination, alive for ever. TCP and SCTP connections end by themselves.
func FlushUDP(ctx context.Context, p hostport.Pod) error {
	var errs []error
	for _, to := range p.UDP() {
		errs = append(errs, conntrack.FlushUDP(ctx, to))
	}
	return errors.Join(errs...)
}
