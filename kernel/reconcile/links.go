package reconcile

import (
	"maps"
	"slices"

	"github.com/twill-cni/twill/kernel"
)

// links is the book of the few links: maps by name.
type links struct {
	desired map[string]kernel.Link
	actual  map[string]kernel.Link // from the last dump
	applied map[string]kernel.Link // as asked for in the last change that succeeded
}

func (l *links) names() []string { return slices.Sorted(maps.Keys(l.desired)) }

// stale returns the links that are ours and are not desired. One that was desired but never became ours is not among
// them.
func (l *links) stale() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(l.actual)) {
		if _, desired := l.desired[name]; !desired && !l.actual[name].Unmarked {
			names = append(names, name)
		}
	}
	return names
}

// overlay returns the links that carry neighbours and FDB entries of ours: the VXLAN devices, stale ones among them.
func (l *links) overlay() []string {
	var names []string
	for _, name := range append(l.names(), l.stale()...) {
		if l.desired[name].VXLAN != nil || l.actual[name].VXLAN != nil {
			names = append(names, name)
		}
	}
	return names
}

// diff says in what the link of that name differs from what is desired.
func (l *links) diff(name string) []string {
	have, exists := l.actual[name]
	if !exists {
		return []string{"it does not exist"}
	}
	want := l.desired[name]
	return linkDiff(want, fillUnknown(want, have, l.applied[name]))
}

// changes returns the links that are not as desired, lower devices before those that are stacked on them.
func (l *links) changes() []kernel.Change[kernel.Link] {
	var changes []kernel.Change[kernel.Link]
	for _, name := range l.names() {
		if len(l.diff(name)) > 0 {
			changes = append(changes, kernel.Change[kernel.Link]{Value: l.desired[name]})
		}
	}
	slices.SortStableFunc(changes, func(a, b kernel.Change[kernel.Link]) int { return stacked(a.Value) - stacked(b.Value) })
	return changes
}

func stacked(l kernel.Link) int {
	if l.VXLAN != nil {
		return 1
	}
	return 0
}

// broken returns the desired links on which nothing can be programmed.
func (l *links) broken() map[string]bool {
	var broken map[string]bool
	for name, want := range l.desired {
		if have, exists := l.actual[name]; !usable(want, have, exists) {
			if broken == nil {
				broken = map[string]bool{}
			}
			broken[name] = true
		}
	}
	return broken
}
