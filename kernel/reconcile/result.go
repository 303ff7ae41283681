package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// Counts are the figures of one kind of object after a Sync.
type Counts struct {
	Desired    int // distinct objects that the state asks for
	Programmed int // of these, how many the kernel holds as desired, as far as is known
	Changes    int // changes that the kernel accepted in this Sync, deletions among them
	Failures   int // changes that the kernel refused in this Sync, and failed dumps
	Held       int // changes not tried, because what they rest on failed or must not be taken away yet
	Conflicts  int // claims that lost to a different one
}

// Conflict is one object that two fragments want to be different things.
type Conflict struct {
	Kind          kernel.Kind
	Object        string // what the winner wants, as text
	Winner, Loser string // owners
}

func (c Conflict) String() string {
	return fmt.Sprintf("%s: %q is preferred to %q", c.Object, c.Winner, c.Loser)
}

func (c Conflict) compare(o Conflict) int {
	return cmp.Or(cmp.Compare(c.Kind, o.Kind), cmp.Compare(c.Object, o.Object), cmp.Compare(c.Loser, o.Loser))
}

// Result tells what a Sync found and did.
type Result struct {
	Kinds [kernel.NumKinds]Counts

	// Conflicts are the first few, sorted; Counts.Conflicts has their number.
	Conflicts []Conflict

	// InSync is true when the kernel holds all of the desired state, as far as is known, and no notification says
	// otherwise.
	InSync bool
}

// maxReported bounds the failures and conflicts that are told one by one.
const maxReported = 8

// failures collects the errors of single objects and keeps the text of the first few of them.
type failures struct {
	first []error
	more  int
}

func (f *failures) add(err error) {
	if len(f.first) < maxReported {
		f.first = append(f.first, err)
		return
	}
	f.more++
}

// err joins what was collected; nil when that is nothing.
func (f *failures) err() error {
	errs := slices.Clone(f.first)
	if f.more > 0 {
		errs = append(errs, fmt.Errorf("and %d more failures", f.more))
	}
	return errors.Join(errs...)
}
