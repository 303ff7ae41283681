package node

import (
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Wanted is what the kernel was last told to hold, and what of the records was skipped.
type Wanted struct {
	Fragments []*kernel.Fragment
	Links     []string // names of the links that the node looks after
	Rejected  []store.Reject
	Self      *store.Lease
}

// Wanted returns what the last sync was for; nil before the first. It may be called concurrently, and nothing of it is changed later.
func (n *Node) Wanted() *Wanted { return n.wanted.Load() }

// want keeps what a sync is for.
func (s *server) want(state kernel.State, rejected []store.Reject) {
	w := &Wanted{Fragments: state.Fragments, Rejected: rejected, Self: s.reg.Lease()}
	for _, l := range state.Links {
		w.Links = append(w.Links, l.Name)
	}
	s.n.wanted.Store(w)
}
