package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/dnat"
)

// programFamily brings one table up to date.
func (p *Proxy) programFamily(ctx context.Context, f *family, changes []dnat.Change) error {
	if f.fresh {
		return p.adopt(ctx, f)
	}
	u := f.table.Set(changes)
	if f.compare {
		return p.compare(ctx, f)
	}
	if u.Skeleton {
		if err := p.syncSkeleton(ctx, f); err != nil {
			return err
		}
	}
	return p.write(ctx, f, u.Elements)
}

// adopt takes over what an earlier run left in the kernel, and makes of it what should be there.
func (p *Proxy) adopt(ctx context.Context, f *family) error {
	for _, set := range dnat.PlanSets() {
		elements, err := p.opts.Kernel.ListElements(f.config.Family, dnat.TableName, set)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list set %s: %w", set, err)
		}
		f.filling = f.filling || err != nil
		f.table.Adopt(elements)
	}
	if err := p.syncSkeleton(ctx, f); err != nil { // sets that are missing, or of another shape, are made before they are read
		return err
	}
	listing, err := p.list(ctx, f)
	if err != nil {
		return err
	}
	all := p.tracker.All()
	if len(p.steered) > 0 {
		all = slices.Clone(all)
		for i := range all {
			all[i] = p.weigh(all[i])
		}
	}
	u := f.table.Reset(all, listing)
	f.fresh = false
	if err := p.syncSkeleton(ctx, f); err != nil {
		return err
	}
	if err := p.write(ctx, f, u.Elements); err != nil {
		return err
	}
	return p.prune(ctx, f)
}

// compare makes good whatever is different in the kernel.
func (p *Proxy) compare(ctx context.Context, f *family) error {
	if err := p.syncSkeleton(ctx, f); err != nil {
		return err
	}
	listing, err := p.list(ctx, f)
	if err != nil {
		return err
	}
	if err := p.write(ctx, f, f.table.Compare(listing)); err != nil {
		return err
	}
	return p.prune(ctx, f)
}

// prune removes the chains that nothing leads to any more. The table holds everything by now.
func (p *Proxy) prune(ctx context.Context, f *family) error {
	f.compare = false
	if !f.table.Prune() && !f.filling {
		return nil
	}
	f.filling = false
	return p.syncSkeleton(ctx, f)
}

// syncSkeleton writes all but the elements of large sets. A table that is filled for the first time lets pass what it does not know: kube-proxy's
// may come after it, as when a node moves from one to the other.
func (p *Proxy) syncSkeleton(ctx context.Context, f *family) error {
	t := f.table.Skeleton()
	if f.filling {
		t = dnat.Passing(t)
	}
	return p.opts.Kernel.SyncTables(ctx, []kernel.Table{t}, nil)
}

// list reads the large sets.
func (p *Proxy) list(ctx context.Context, f *family) (*dnat.Listing, error) {
	listing := &dnat.Listing{}
	return listing, listing.Read(ctx, p.opts.Kernel, f.config.Family, dnat.TableName, dnat.BulkSets()...)
}

// write changes elements, in several transactions when there are very many.
func (p *Proxy) write(ctx context.Context, f *family, changes []kernel.SetChange) error {
	for _, piece := range dnat.Split(changes, pieceSize) {
		if err := p.opts.Kernel.ChangeElements(ctx, f.config.Family, dnat.TableName, piece); err != nil {
			return err
		}
		for _, c := range piece {
			p.opts.Metrics.written.Add(float64(len(c.Add) + len(c.Remove)))
		}
	}
	return nil
}
