package kernel

import (
	"errors"
	"net/netip"
)

var (
	// ErrNetnsMissing says that the path of a pod's network namespace leads nowhere.
	ErrNetnsMissing = errors.New("it does not exist")
	// ErrHostNetns says that a pod's network namespace is the one that the program itself runs in.
	ErrHostNetns = errors.New("it is the network namespace of the host")
	// ErrNoNetns says that a file is no network namespace.
	ErrNoNetns = errors.New("it is no network namespace")
	// ErrNoBridge says that a link with the bridge's name is something else.
	ErrNoBridge = errors.New("it is no bridge")
	// ErrForeignLink says that a link with the wanted name belongs to somebody else.
	ErrForeignLink = errors.New("a link of that name belongs to somebody else")
	// ErrInterfaceExists says that the pod has an interface of the wanted name.
	ErrInterfaceExists = errors.New("an interface of that name exists in the pod")
)

// PodOwner is whom a pod's links belong to: the primary key of a CNI attachment within its network.
type PodOwner struct {
	ContainerID string
	IfName      string // name of the interface inside the pod
}

// Alias returns the IFLA_IFALIAS of the owner's host link.
func (o PodOwner) Alias() string { return PodLinkAliasPrefix + o.ContainerID + "/" + o.IfName }

func (o PodOwner) String() string { return o.ContainerID + "/" + o.IfName }

// PodBridge is what the bridge that a node's pods hang on must be.
type PodBridge struct {
	Name     string
	MTU      int            // bytes; 0 leaves what the bridge has
	Gateways []netip.Prefix // the addresses that pods use as gateways; other addresses of the bridge are left alone
}

// PodBridgeState is what a bridge is.
type PodBridgeState struct {
	Index int
	MAC   MAC
	MTU   int // bytes
}

// PodPair is the veth pair between the bridge and a pod.
type PodPair struct {
	Owner    PodOwner
	HostLink string // name of the end on the bridge
	HostMAC  MAC
	PodMAC   MAC
	MTU      int // bytes, of both ends
	Bridge   int // index of the bridge
	Hairpin  bool
}

// PodConfig is what the pod's end of the pair holds.
type PodConfig struct {
	IfName    string
	MAC       MAC
	Addresses []netip.Prefix // host address and the length of its subnet
	Routes    []PodRoute
}

// PodRoute is a route inside a pod.
type PodRoute struct {
	Dst      netip.Prefix // masked
	Gateway  netip.Addr   // zero: the destination is on the pod's link
	MTU      int          // bytes; 0 for none
	AdvMSS   int          // bytes; 0 for none
	Priority int          // metric; 0 is the kernel's default
	Table    int          // 0 is the main table
	Scope    *int         // rtm_scope; nil: by the gateway, as `ip route` does
}

// PodShape limits a pod's traffic, seen from the pod. A zero rate is no limit.
type PodShape struct {
	Device  string // name of the ifb device that queues what the pod sends
	MTU     int    // bytes, of the pod's link: a burst smaller than a packet would let nothing pass
	Ingress Rate
	Egress  Rate
}

// Rate is a token bucket.
type Rate struct {
	Bits  uint64 // per second
	Burst uint64 // bits
}

// PodState is what there is of a pod's link. A Name that is empty says that the link is missing.
type PodState struct {
	Host PodLink
	Pod  struct {
		Name      string
		MAC       MAC
		MTU       int // bytes
		Up        bool
		Addresses []netip.Prefix
		Routes    []PodRoute // of the main table and by the pod's link
	}
	Connected bool   // the two links are the ends of one pair
	Master    string // name of the link that the host link is a port of
	Hairpin   bool
	Ingress   bool // what goes to the pod is shaped
	Egress    bool // what comes from the pod is redirected to a shaper
}

// PodLink is the host end of a pod's veth pair, as the kernel has it.
type PodLink struct {
	Name   string
	Owner  PodOwner
	MAC    MAC
	MTU    int // bytes
	Master int // index of the bridge; 0 for none
	Up     bool
}
