package attachments

import (
	"errors"
	"slices"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// keepLinks sets pods' links up that somebody set down: those that m names, or all. It reports whether it could.
//
// Only links of complete records are touched: the link of an ADD that runs is down on purpose, and a DEL makes the record incomplete before it
// removes the link. For a link to be another ADD's by the time it is set up, a whole DEL and half an ADD of the same attachment
// would have to fit between two system calls of ours; removing a veth pair alone takes the kernel some 20 ms.
func (k *Keeper) keepLinks(m marks) bool {
	down, err := k.downLinks(m)
	if err == nil && len(down) > 0 {
		err = k.upLinks(down)
	}
	k.complain("links of pods", err)
	return err == nil
}

func (k *Keeper) downLinks(m marks) ([]kernel.PodLink, error) {
	if m.allLinks {
		links, err := k.opts.Host.PodLinks()
		return slices.DeleteFunc(links, func(l kernel.PodLink) bool { return l.Up }), err
	}
	var down []kernel.PodLink
	var errs []error
	for name := range m.links {
		l, found, err := k.opts.Host.PodLink(name)
		errs = append(errs, err)
		if found && !l.Up {
			down = append(down, l)
		}
	}
	return down, errors.Join(errs...)
}

func (k *Keeper) upLinks(down []kernel.PodLink) error {
	records, err := k.opts.Host.Records()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range down {
		i := slices.IndexFunc(records, func(r Record) bool {
			return r.Complete && r.HostLink == l.Name && r.Owner() == l.Owner
		})
		if i < 0 {
			continue
		}
		if err := k.opts.Host.UpPair(l.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		k.opts.Observer.LinkRepaired()
		k.opts.Log.Info("a pod's link was set up again", "link", l.Name, "pod", l.Owner)
		k.tell(refOf(records[i].Pod, records[i].PodUID), store.Event{Reason: reasonLink,
			Message: "The host's end of the pod's network link, " + l.Name + ", was down; Twill set it up again"})
	}
	return errors.Join(errs...)
}
