package reconcile

import (
	"context"
	"fmt"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// syncLinks makes the desired links. It returns false when the links cannot be read, so that nothing else can be done.
func (p *pass) syncLinks(ctx context.Context) bool {
	if !p.takeDirty(kernel.KindLink) && len(p.links.changes()) == 0 {
		p.broken = p.links.broken()
		return true
	}
	if !p.readLinks(ctx) {
		return false
	}
	changes := p.links.changes()
	if len(changes) == 0 {
		return true
	}
	for _, c := range changes {
		p.log.Info("link is not as desired", "link", c.Value.Name, "why", strings.Join(p.links.diff(c.Value.Name), "; "))
	}
	refused := p.applyLinks(ctx, changes)
	// A link that was made again is empty, and a change in place can cost entries too: the last address takes the
	// routes with it. All that is read from here on is newer than the events which the changes have caused up to now.
	p.markDirty(kernel.KindFDB, kernel.KindNeighbor, kernel.KindRoute)
	p.takeDirty(kernel.KindLink)
	if !p.readLinks(ctx) {
		return false
	}
	for _, c := range changes {
		name := c.Value.Name
		if err, ok := refused[name]; ok {
			p.fail(kernel.KindLink, err)
		} else if diff := p.links.diff(name); len(diff) > 0 {
			p.fail(kernel.KindLink, fmt.Errorf("link %s is still not as desired: %s", name, strings.Join(diff, "; ")))
		}
	}
	return true
}

// applyLinks returns the errors of the links that were refused, by name.
func (p *pass) applyLinks(ctx context.Context, changes []kernel.Change[kernel.Link]) map[string]error {
	refused := map[string]error{}
	errs := p.kernel.ApplyLinks(ctx, changes)
	for i, c := range changes {
		name := c.Value.Name
		if err := at(errs, i); err != nil {
			delete(p.links.applied, name)
			refused[name] = fmt.Errorf("set link %s: %w", name, err)
			continue
		}
		p.links.applied[name] = c.Value
		p.counts(kernel.KindLink).Changes++
	}
	return refused
}

// readLinks dumps the links. It returns false when it failed.
func (p *pass) readLinks(ctx context.Context) bool {
	dump, err := p.kernel.Links(ctx, p.links.names())
	if err != nil {
		p.fail(kernel.KindLink, fmt.Errorf("read links: %w", err))
		return false
	}
	actual := make(map[string]kernel.Link, len(dump))
	for _, have := range dump {
		actual[have.Name] = have
	}
	for name := range p.links.applied {
		if _, ok := actual[name]; !ok {
			delete(p.links.applied, name)
		}
	}
	p.mu.Lock()
	p.links.actual = actual
	p.mu.Unlock()
	p.broken = p.links.broken()
	return true
}

// deleteStaleLinks removes links of ours that are not desired, unless a route that could not be moved still needs one.
func (p *pass) deleteStaleLinks(ctx context.Context) {
	inUse := p.linksInUse()
	for _, name := range p.links.stale() {
		if inUse[name] {
			p.counts(kernel.KindLink).Held++
			continue
		}
		p.log.Info("link is stale", "link", name)
		link := p.forgetLink(name) // first, so that the echo is no news
		errs := p.kernel.ApplyLinks(ctx, []kernel.Change[kernel.Link]{{Value: link, Delete: true}})
		if err := at(errs, 0); err != nil {
			p.fail(kernel.KindLink, fmt.Errorf("remove link %s: %w", name, err))
			continue
		}
		p.counts(kernel.KindLink).Changes++
	}
}

func (p *pass) forgetLink(name string) kernel.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	link := p.links.actual[name]
	delete(p.links.actual, name)
	return link
}
