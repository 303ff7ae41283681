package filter

import (
	"net/netip"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// Config is what the table depends on beside the policies.
type Config = gate.Config

// Filter knows the policies and what they select, and says what the kernel of this node should hold. It is for one goroutine at a time.
type Filter struct {
	config Config

	// What was told.
	policies   map[string]map[string]*store.NetworkPolicy // by namespace and name
	cluster    map[string]*store.ClusterNetworkPolicy
	namespaces map[string]*namespace // those that are known or have pods
	pods       map[store.PodKey]*pod
	addrs      map[netip.Addr]*address // that somebody has, or that are in the kernel
	locals     map[localID]*local
	localsOf   map[store.PodKey][]*local
	localAddrs map[netip.Addr]*local // nil: two have it

	// What has to be looked at by the next Plan.
	dirtyPods     map[*pod]bool
	dirtyAddrs    map[*address]bool
	dirtyLocals   map[*local]bool
	allLocals     bool            // they are all dirty
	localsIn      map[string]bool // those of these namespaces are
	goneLocals    []*local
	dirtyBlocks   bool
	unusedClasses []*class
	idleClasses   []*class // that have nobody for longer than one Plan, oldest first
	idleMost      int
	unusedPorts   []*ports
	lingering     []*ports
	step          step

	// What the last Plan made of it.
	terms    map[string]*term // by text
	bound    map[string]map[*term]bool
	unbound  map[*term]bool
	blocks   map[*term]bool
	names    map[*term]bool
	networks []network
	subjects map[string]*subject               // by text
	chosen   map[string]map[string][2]*subject // by namespace and kindOf; policies and labels of the namespace are as they were
	classes  map[string]*class                 // by key
	ports    map[string]*ports                 // by text
	opened   map[netip.Addr]*local
	pairs    int

	subjectNumbers, classNumbers, portNumbers numbers

	bornSubjects, dyingSubjects []*subject
	bornTerms, dyingTerms       []*term
	lastID                      int
	evaluation                  uint64
	key, matched                []byte // for lookups
}

// New returns a Filter that knows nothing: its table is gate.Closed.
func New(config Config) *Filter { return newFilter(config, hash32) }

func newFilter(config Config, hash func(attempt uint64, text string) uint32) *Filter {
	return &Filter{
		config: config, idleMost: idleMost,
		policies: map[string]map[string]*store.NetworkPolicy{}, cluster: map[string]*store.ClusterNetworkPolicy{},
		namespaces: map[string]*namespace{}, pods: map[store.PodKey]*pod{}, addrs: map[netip.Addr]*address{},
		locals: map[localID]*local{}, localsOf: map[store.PodKey][]*local{}, localAddrs: map[netip.Addr]*local{},
		dirtyPods: map[*pod]bool{}, dirtyAddrs: map[*address]bool{}, dirtyLocals: map[*local]bool{}, localsIn: map[string]bool{},
		terms: map[string]*term{}, bound: map[string]map[*term]bool{}, unbound: map[*term]bool{}, blocks: map[*term]bool{}, names: map[*term]bool{},
		subjects: map[string]*subject{}, chosen: map[string]map[string][2]*subject{}, classes: map[string]*class{}, ports: map[string]*ports{}, opened: map[netip.Addr]*local{},
		subjectNumbers: newNumbers(hash), classNumbers: newNumbers(hash), portNumbers: newNumbers(hash),
		step: step{table: true},
	}
}

// namespace is a namespace with its pods.
type namespace struct {
	name   string
	object *store.Namespace // nil: not known yet
	pods   map[*pod]bool
	terms  []*term // that its pods may match; nil: to be collected
}

func (n *namespace) labels() map[string]string { return policy.NamespaceLabels(n.name, n.object) }

// pod is a pod of the cluster.
type pod struct {
	object    *store.Pod
	namespace *namespace
	answers   []*answer // sorted
}

// address is an address that a pod has, or had.
type address struct {
	addr    netip.Addr
	pods    []*pod // that claim it by what the datastore says
	settled bool   // it was in a Plan
	entry   *class // what the set of pods has for it; nil: no element
}

// Local is a pod that is attached to this node. Attachments are the truth about which pod has an address here, ahead of the datastore.
type Local struct {
	Key   store.PodKey
	UID   string // empty: not known
	Addrs []netip.Addr
}

type localID struct {
	key store.PodKey
	uid string
}

// local is a pod of this node. There are two with one key while a pod's successor of the same name is there already.
type local struct {
	localID
	addrs    []netip.Addr
	enforced bool        // its labels were known to the last Plan
	subjects [2]*subject // by direction; nil: no policy has a say
}

// enforceable returns the local's pod, if its labels are known.
func (f *Filter) enforceable(id localID) *pod {
	p := f.pods[id.key]
	if p == nil || id.uid != "" && p.object.UID != "" && id.uid != p.object.UID {
		return nil
	}
	return p
}

// Enforced reports whether the labels of a local pod are known, so that the planned tables hold its policies; else its addresses are closed. It is
// not the pod's when its UID is another one and both are known.
func (f *Filter) Enforced(key store.PodKey, uid string) bool {
	for _, l := range f.localsOf[key] {
		if l.enforced && (uid == "" || l.uid == "" || l.uid == uid) && f.enforceable(localID{key, uid}) != nil {
			return true
		}
	}
	return false
}

// Stats counts what the tables hold.
type Stats struct {
	Locals, Subjects, Terms, Classes, Pairs, Ports, Pods, Networks int
}

// Stats returns the figures of the last Plan.
func (f *Filter) Stats() Stats {
	s := Stats{Locals: len(f.opened), Subjects: len(f.subjects), Terms: len(f.terms), Classes: len(f.classes), Pairs: f.pairs, Ports: len(f.ports), Networks: len(f.networks)}
	for _, a := range f.addrs {
		if a.entry != nil {
			s.Pods++
		}
	}
	return s
}
