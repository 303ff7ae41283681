package proxy

import (
	"context"
	"errors"
	"fmt"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// Reader looks at nftables and changes nothing; nft.Handle is the real one.
type Reader interface {
	// Lookup returns those elements of a set that are there.
	Lookup(ctx context.Context, set kernel.SetID, keys []string) ([]kernel.EntryState, error)
	// EntryStates lists a set; see nft.Handle.
	EntryStates(ctx context.Context, set kernel.SetID, reset func(), each func(kernel.EntryState)) error
	// Differences says what of a table is not as it should be, but for the content of its Bulk sets.
	Differences(table kernel.Table) ([]kernel.Difference, error)
}

// Inspector answers questions of people about a Proxy: what the kernel holds of Services, and how that differs from what it should hold. The
// answers are read from the kernel when they are asked for. Its methods may be called concurrently.
//
// A sync waits for a question no longer than the copy of the list of Services takes, some milliseconds for 50,000. So a question meets
// changes that are made while it looks; what seems to be different then is looked at again, and is told when it differs every time.
type Inspector struct {
	proxy  *Proxy
	kernel Reader
}

// NewInspector makes an Inspector. k is to be another handle than the Proxy's, so that a long listing keeps no change waiting.
func NewInspector(p *Proxy, k Reader) *Inspector { return &Inspector{proxy: p, kernel: k} }

// ErrNoService is the error for a Service that the node does not know.
var ErrNoService = errors.New("this node knows no such Service")

// looks is how often what seems to be different is looked at, while the proxy goes on making changes.
const looks = 5

// Report tells of one Service, or of all when name is the zero value: then without slots and clients. Of one Service, entries that are too many in
// the kernel may be missed where nothing leads to them; of all, none is. The tables' chains and rules are compared in either case.
func (i *Inspector) Report(ctx context.Context, name store.ObjectName) (*dnat.Report, error) {
	v, err := i.proxy.desired(name)
	if err != nil {
		return nil, err
	}
	all := name == store.ObjectName{}
	report := &dnat.Report{Services: []dnat.ServiceState{}}
	found := findings{entries: make([][]dnat.Difference, len(v.families))}
	index := map[store.ObjectName]int{}
	for n, f := range v.families {
		o, err := i.observe(ctx, f, all)
		if err != nil {
			return nil, err
		}
		for _, of := range f.snapshot.Names() {
			state, _ := f.snapshot.State(of, o)
			if all {
				state = brief(state)
			}
			if at, ok := index[of]; ok {
				report.Services[at].Frontends = append(report.Services[at].Frontends, state.Frontends...)
				continue
			}
			index[of] = len(report.Services)
			report.Services = append(report.Services, state)
		}
		found.entries[n] = f.snapshot.Compare(o, nil)
	}
	if len(report.Services) == 0 && !all {
		return nil, fmt.Errorf("%s: %w; `twillctl service` lists those that it knows", name, ErrNoService)
	}
	if found.skeletons, err = i.skeletons(v); err != nil {
		return nil, err
	}
	report.Differences, err = i.confirm(ctx, name, v, found)
	return report, err
}

// brief leaves out what only one Service's report has.
func brief(s dnat.ServiceState) dnat.ServiceState {
	for n := range s.Frontends {
		f := &s.Frontends[n]
		f.Slots, f.InsideSlots, f.Clients = nil, nil, nil
	}
	return s
}

// desired is what the kernel should hold, at one moment.
type desired struct {
	programs uint64
	families []desiredFamily
}

type desiredFamily struct {
	of       kernel.TableFamily
	snapshot *dnat.Snapshot
	skeleton kernel.Table
}

// desired waits until no sync is under way. The zero name is that of all Services.
func (p *Proxy) desired(name store.ObjectName) (*desired, error) {
	p.state.Lock()
	defer p.state.Unlock()
	var only []store.ObjectName
	if name != (store.ObjectName{}) {
		only = append(only, name)
	}
	v := &desired{programs: p.programs}
	for _, f := range p.families {
		if f.fresh {
			break
		}
		v.families = append(v.families, desiredFamily{f.config.Family, f.table.Snapshot(only...), f.table.Skeleton()})
	}
	if len(v.families) < 2 {
		return nil, errors.Join(errNotSynced, p.health.State().Err)
	}
	return v, nil
}

// since reports whether anything was programmed since v was taken.
func (p *Proxy) since(v *desired) bool {
	p.state.Lock()
	defer p.state.Unlock()
	return p.programs != v.programs
}

// observe lists the large sets, or looks up what belongs to the Services of the snapshot.
func (i *Inspector) observe(ctx context.Context, f desiredFamily, all bool) (*dnat.Observed, error) {
	o := &dnat.Observed{}
	if all {
		for _, set := range dnat.BulkSets() {
			if err := i.list(ctx, f, o, set); err != nil {
				return nil, err
			}
		}
		return o, nil
	}
	if f.snapshot.HasAffinity() {
		if err := i.list(ctx, f, o, dnat.AffinitySet); err != nil {
			return nil, err
		}
	}
	return o, i.lookup(ctx, f, o, f.snapshot.Keys())
}

func (i *Inspector) list(ctx context.Context, f desiredFamily, o *dnat.Observed, set string) error {
	id := kernel.SetID{Family: f.of, Table: dnat.TableName, Set: set}
	return i.kernel.EntryStates(ctx, id, func() { o.Clear(set) }, func(e kernel.EntryState) { o.Add(set, e) })
}

func (i *Inspector) lookup(ctx context.Context, f desiredFamily, o *dnat.Observed, keys []dnat.SetKeys) error {
	for _, k := range keys {
		found, err := i.kernel.Lookup(ctx, kernel.SetID{Family: f.of, Table: dnat.TableName, Set: k.Set}, k.Keys)
		if err != nil {
			return err
		}
		for _, e := range found {
			o.Add(k.Set, e)
		}
	}
	return nil
}

// findings are what seems to be different.
type findings struct {
	skeletons []dnat.Difference
	entries   [][]dnat.Difference // by family, as in desired
}

func (f *findings) all() []dnat.Difference {
	out := append([]dnat.Difference{}, f.skeletons...)
	for _, e := range f.entries {
		out = append(out, e...)
	}
	return out
}

// skeletons compares what is no content of large sets.
func (i *Inspector) skeletons(v *desired) ([]dnat.Difference, error) {
	var out []dnat.Difference
	for _, f := range v.families {
		found, err := i.kernel.Differences(f.skeleton)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			out = append(out, dnat.Difference{Family: dnat.FamilyName(f.of), Difference: d})
		}
	}
	return out, nil
}

// confirm looks again at what seemed to be different, as long as that can be for a change that was under way.
func (i *Inspector) confirm(ctx context.Context, name store.ObjectName, v *desired, found findings) ([]dnat.Difference, error) {
	for range looks {
		if len(found.all()) == 0 || !i.proxy.since(v) {
			break
		}
		var err error
		if v, err = i.proxy.desired(name); err != nil {
			return nil, err
		}
		for n, f := range v.families {
			if len(found.entries[n]) == 0 {
				continue
			}
			o := &dnat.Observed{}
			if err := i.lookup(ctx, f, o, dnat.KeysOf(found.entries[n])); err != nil {
				return nil, err
			}
			found.entries[n] = f.snapshot.Compare(o, found.entries[n])
		}
		if found.skeletons, err = i.skeletons(v); err != nil {
			return nil, err
		}
	}
	return found.all(), nil
}
