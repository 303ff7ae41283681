package attach

import (
	"context"
	"errors"
	"net/netip"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/netconf"
)

var (
	// ErrExists says that the attachment is complete already, or that the pod has an interface of the wanted name.
	ErrExists = errors.New("attachment exists")
	// ErrBusy says that another process works on the attachment at this moment.
	ErrBusy = errors.New("another ADD of the attachment is running")
	// ErrPrevResult says that ADD was given a result to build upon, or CHECK was given none.
	ErrPrevResult = errors.New("prevResult does not fit")
	// ErrNoPlugin says that the IPAM plugin is not there, so that it can have made nothing.
	ErrNoPlugin = errors.New("IPAM plugin is not there")
	// ErrNotClosed says that what another pod left in the kernel may open the addresses of the new one.
	ErrNotClosed = errors.New("the pod could not be kept closed until its policies are known")
	// ErrMismatch says that CHECK found something that is not as it was made.
	ErrMismatch = errors.New("attachment is not as it was made")
)

// Request is one call of the plugin about one attachment.
type Request struct {
	Owner  kernel.PodOwner
	Netns  string // path; empty when a DEL does not know it any more
	Args   netconf.Args
	Config *netconf.Config
}

// Plugin carries out the CNI verbs on what its fields stand for. One Plugin serves one call.
type Plugin struct {
	Kernel    Kernel
	Records   Records
	IPAM      IPAM
	HostPorts HostPorts
	Gate      Gate // nil where there are no policies
}

// Kernel is the part of the kernel that concerns one node's pods; podnet.Handle is the real one. Removing what is not there
// is no error; removing what is another owner's is one, and leaves it alone.
type Kernel interface {
	CheckNetns(path string) error
	EnsureBridge(b kernel.PodBridge) (kernel.PodBridgeState, error)
	CreatePair(netns string, p kernel.PodPair) error
	Shape(hostLink string, owner kernel.PodOwner, s kernel.PodShape) error
	DropQueued(link int, addresses []netip.Prefix) error
	UpPair(hostLink string) error
	ConfigurePod(netns string, c kernel.PodConfig) error
	Announce(netns, hostLink string, c kernel.PodConfig) error

	RemovePair(hostLink string, owner kernel.PodOwner) (bool, error)
	Unshape(device string, owner kernel.PodOwner) (bool, error)
	PodLinks() ([]kernel.PodLink, error)
	Shapers() (map[string]kernel.PodOwner, error)
	InspectPod(netns, hostLink, ifName string) (kernel.PodState, error)
	Probe() error
}

// Record is what is known of an attachment on disk: what its ADD was going to make, written before anything was made, so that
// whatever an ADD that was killed left behind can be found.
type Record struct {
	Network      string                `json:"network"`
	ContainerID  string                `json:"containerID"`
	IfName       string                `json:"ifName"`
	Netns        string                `json:"netns"`
	Pod          string                `json:"pod,omitempty"` // namespace/name
	PodUID       string                `json:"podUID,omitempty"`
	Labels       map[string]string     `json:"labels,omitempty"`
	Ports        []netconf.PodPort     `json:"ports,omitempty"` // that have names
	Bridge       string                `json:"bridge"`
	HostLink     string                `json:"hostLink"`
	Shaper       string                `json:"shaper,omitempty"` // ifb device; empty when nothing is shaped
	PortMappings []netconf.PortMapping `json:"portMappings,omitempty"`
	Addresses    []netip.Prefix        `json:"addresses,omitempty"` // absent while the lease is not known
}

// Owner returns whom the record is about.
func (r Record) Owner() kernel.PodOwner {
	return kernel.PodOwner{ContainerID: r.ContainerID, IfName: r.IfName}
}

// mappings joins the record's port mappings with the addresses that they lead to.
func (r Record) mappings() hostport.Pod {
	return hostport.Pod{Mappings: r.PortMappings, Addresses: r.Addresses, Bridge: r.Bridge}
}

// Records keeps the records of one network; record.Store is the real one.
type Records interface {
	// Begin writes the record of an ADD that starts. The error wraps ErrBusy when another ADD of the owner runs, and
	// ErrExists when there is a record of the owner, complete or left behind.
	Begin(r Record) (Entry, error)
	// Get returns the owner's record. found is false, without an error, when there is none. The error wraps ErrBusy while an ADD
	// of the owner runs. A record that cannot be read is an error.
	Get(owner kernel.PodOwner) (r Record, found bool, err error)
	// Complete reports whether the owner's record is that of an ADD that ran to its end.
	Complete(owner kernel.PodOwner) bool
	// Retire makes a complete record one that is not, before anything that belongs to it is removed. There need be none.
	Retire(owner kernel.PodOwner) error
	Remove(owner kernel.PodOwner) error
	// Freeze waits for the ADDs that run and holds up those that come, until release is called.
	Freeze() (release func(), err error)
	// List returns all records, and the errors of those that cannot be read.
	List() ([]Record, error)
	// OfNode returns the records of this network and of all others of the node, without those that cannot be read.
	OfNode() ([]Record, error)
}

// Entry is the record of an ADD that runs.
type Entry interface {
	Update(r Record) error
	Commit() error // the attachment is complete
	Close()        // the ADD ends; its record stays
}

// IPAM gives addresses; it is the in-process allocator or a delegated plugin.
type IPAM interface {
	Allocate(ctx context.Context, r Request) (Lease, error)
	Release(ctx context.Context, owner kernel.PodOwner) error // no error when there is no lease
	Check(ctx context.Context, owner kernel.PodOwner, addresses []netip.Prefix) error
	Status(ctx context.Context) error
	Retain(ctx context.Context, valid []kernel.PodOwner) error
	// Leased returns the addresses of the owner's lease; none when there is no lease, or when the plugin cannot be asked.
	Leased(ctx context.Context, owner kernel.PodOwner) ([]netip.Addr, error)
	// Free returns those of the addresses that are the network's to give and that no lease holds; none when the plugin cannot be asked.
	Free(ctx context.Context, addresses []netip.Addr) ([]netip.Addr, error)
}

// Lease is what IPAM gives.
type Lease struct {
	Addresses []ipam.Address
	Routes    []ipam.Route
	DNS       netconf.DNS
}

// HostPorts makes ports of the node lead to pods.
type HostPorts interface {
	// Add makes all mappings of the pod or none. The error wraps hostport.ErrTaken when a port leads to another pod.
	Add(ctx context.Context, p hostport.Pod) error
	// Remove removes those of the mappings that lead to the pod.
	Remove(ctx context.Context, p hostport.Pod) error
	// Check returns an error that names a mapping which does not lead to the pod.
	Check(ctx context.Context, p hostport.Pod) error
	// Targets returns what the node's host ports lead to, whoever made them: one Pod for each address.
	Targets() ([]hostport.Pod, error)
}

// Gate keeps what a pod's policies do not allow away from it, from its first packet on. The daemon does; see "No leak at the start".
type Gate interface {
	// Ask tells the daemon of an ADD whose record has its addresses, and waits for nothing.
	Ask(r Record) Answer
}

// Answer is what the daemon says of one ADD's pod.
type Answer interface {
	// Closed returns once nothing in the kernel opens the pod's addresses, unless it is the pod's own. When the daemon does not see to
	// it, this does. The error wraps ErrNotClosed.
	Closed(ctx context.Context) error
	// Ready returns once the kernel has what the pod's policies say, or when that takes too long: then the pod opens later.
	Ready(ctx context.Context)
	// Close tells the daemon that the ADD is at its end. By then the record has its final name, or is gone.
	Close()
}

// ungated is the Answer where there are no policies.
type ungated struct{}

func (ungated) Closed(context.Context) error { return nil }
func (ungated) Ready(context.Context)        {}
func (ungated) Close()                       {}
