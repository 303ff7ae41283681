//go:build linux

package main

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/daemon/config"
	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/daemon/report"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/kube"
)

// reports are what Kubernetes is told of this node and its pods. A node whose leases are in etcd tells nothing: it may have no Node.
type reports struct {
	to *kube.Reporter // nil: nobody
}

func newReports(cfg *config.Config, client *kube.Client) *reports {
	if cfg.Datastore != "kube" || client == nil {
		return &reports{}
	}
	return &reports{to: client.Reporter(jitter)}
}

// tell tells of something, and returns at once.
func (r *reports) tell(e store.Event) {
	if r.to != nil {
		r.to.Event(e)
	}
}

// failed tells of an error with which the daemon ends, and returns it. Run, which ends with the daemon, writes it before it returns.
func (r *reports) failed(err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		r.tell(report.Failed(err))
	}
	return err
}

// Health returns what the API server forbids to tell.
func (r *reports) Health() error {
	if r.to == nil {
		return nil
	}
	return r.to.Health()
}

// Run tells how the node fares until ctx ends. It is ready when all of also are. What lesser returns is told while nothing else is amiss: Events
// have one reason, and what keeps the node from serving is more important.
func (r *reports) Run(ctx context.Context, status *node.Status, lesser func() error, also ...func() error) error {
	if r.to == nil {
		return nil
	}
	others := func() error {
		var errs []error
		for _, ready := range also {
			errs = append(errs, ready())
		}
		return errors.Join(errs...)
	}
	follower := report.New(report.Options{
		Ready: func() error { return errors.Join(status.Ready(), others()) },
		Amiss: func() error {
			if err := errors.Join(status.Amiss(), others(), r.Health()); err != nil {
				return err
			}
			return lesser()
		},
		Teller: r.to,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return follower.Run(ctx) })
	g.Go(func() error { return r.to.Run(ctx) })
	return g.Wait()
}

// gone says, for a cleanup, that the node has no network any more.
func (r *reports) gone(ctx context.Context) error {
	if r.to == nil {
		return nil
	}
	return r.to.Gone(ctx)
}
