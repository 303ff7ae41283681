package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/netconf"
)

var (
	errInjected = errors.New("injected")
	errKilled   = errors.New("killed")
)

// node is everything that a Plugin works on, in memory. Each call that changes something is a step; one of them can be made to fail, or to
// be the last before the process is killed.
type node struct {
	t    *testing.T
	step int
	fail int // the step that fails without having done anything; 0: none

	failAt string // steps of that name fail
	kill   int    // the step after which the process is killed

	netns    map[string]map[string]kernel.PodConfig // path -> interface -> what it holds
	pairs    map[string]pair                        // by host link
	shapers  map[string]kernel.PodOwner
	records  map[kernel.PodOwner]Record
	complete map[kernel.PodOwner]bool
	running  map[kernel.PodOwner]bool
	leases   map[kernel.PodOwner]Lease
	ports    map[uint16]netip.Addr
	bridge   *kernel.PodBridge
	broken   []kernel.PodOwner // records that cannot be read

	elsewhere []Record // of other networks

	daemon // that enforces policies
}

type pair struct {
	kernel.PodPair
	netns string
	up    bool
	shape kernel.PodShape
}

func newNode(t *testing.T, netns ...string) *node {
	n := &node{t: t, netns: map[string]map[string]kernel.PodConfig{}, pairs: map[string]pair{}, shapers: map[string]kernel.PodOwner{},
		records: map[kernel.PodOwner]Record{}, complete: map[kernel.PodOwner]bool{}, running: map[kernel.PodOwner]bool{},
		leases: map[kernel.PodOwner]Lease{}, ports: map[uint16]netip.Addr{}, daemon: newDaemon()}
	for _, path := range netns {
		n.netns[path] = map[string]kernel.PodConfig{}
	}
	return n
}

func (n *node) plugin() *Plugin {
	n.step = 0
	return &Plugin{Kernel: n, Records: records{n}, IPAM: addresses{n}, HostPorts: hostPorts{n}, Gate: gate{n}}
}

// does counts a step. A process that is killed does not return from the call.
func (n *node) does(what string, do func() error) error {
	n.step++
	if n.step == n.fail || what == n.failAt {
		return fmt.Errorf("%s: %w", what, errInjected)
	}
	err := do()
	if n.step == n.kill {
		panic(errKilled)
	}
	return err
}

// killed runs f and reports whether the process was killed in it. The kernel drops the locks of a process that dies.
func (n *node) killed(f func()) (killed bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled {
				panic(r)
			}
			clear(n.running)
			n.kill, killed = 0, true
		}
	}()
	f()
	return false
}

// left lists what belongs to pods.
func (n *node) left() []string {
	var out []string
	for path, interfaces := range n.netns {
		for name := range interfaces {
			out = append(out, "interface "+path+" "+name)
		}
	}
	for name := range n.pairs {
		out = append(out, "link "+name)
	}
	for name := range n.shapers {
		out = append(out, "shaper "+name)
	}
	for owner := range n.records {
		out = append(out, "record "+owner.String())
	}
	for owner := range n.leases {
		out = append(out, "lease "+owner.String())
	}
	for port := range n.ports {
		out = append(out, fmt.Sprintf("port %d", port))
	}
	slices.Sort(out)
	return out
}

func (n *node) CheckNetns(path string) error {
	if n.netns[path] == nil {
		return kernel.ErrNetnsMissing
	}
	return nil
}

func (n *node) EnsureBridge(b kernel.PodBridge) (kernel.PodBridgeState, error) {
	return kernel.PodBridgeState{Index: 7, MTU: 1500}, n.does("bridge", func() error { n.bridge = &b; return nil })
}

func (n *node) CreatePair(netns string, p kernel.PodPair) error {
	return n.does("pair", func() error {
		if old, ok := n.pairs[p.HostLink]; ok && old.Owner != p.Owner {
			return kernel.ErrForeignLink
		}
		if old, ok := n.pairs[p.HostLink]; ok {
			delete(n.netns[old.netns], old.Owner.IfName)
		}
		if _, ok := n.netns[netns][p.Owner.IfName]; ok {
			return kernel.ErrInterfaceExists
		}
		n.pairs[p.HostLink] = pair{PodPair: p, netns: netns}
		n.netns[netns][p.Owner.IfName] = kernel.PodConfig{}
		return nil
	})
}

func (n *node) Shape(hostLink string, owner kernel.PodOwner, s kernel.PodShape) error {
	return n.does("shape", func() error {
		p := n.pairs[hostLink]
		p.shape = s
		n.pairs[hostLink] = p
		if s.Egress.Bits > 0 {
			n.shapers[s.Device] = owner
		}
		return nil
	})
}

func (n *node) DropQueued(_ int, addresses []netip.Prefix) error {
	return n.does("drop", func() error {
		for _, a := range addresses {
			delete(n.queued, a.Addr())
		}
		return nil
	})
}

func (n *node) UpPair(hostLink string) error {
	return n.does("up", func() error {
		p := n.pairs[hostLink]
		n.mayUp(p.Owner)
		p.up = true
		n.pairs[hostLink] = p
		return nil
	})
}

func (n *node) ConfigurePod(netns string, c kernel.PodConfig) error {
	return n.does("pod", func() error { n.netns[netns][c.IfName] = c; return nil })
}

func (n *node) Announce(string, string, kernel.PodConfig) error {
	return n.does("announce", func() error { return nil })
}

func (n *node) RemovePair(hostLink string, owner kernel.PodOwner) (bool, error) {
	p, ok := n.pairs[hostLink]
	if !ok {
		return false, nil
	}
	if p.Owner != owner {
		return false, kernel.ErrForeignLink
	}
	return true, n.does("remove pair", func() error {
		delete(n.pairs, hostLink)
		delete(n.netns[p.netns], owner.IfName)
		return nil
	})
}

func (n *node) Unshape(device string, owner kernel.PodOwner) (bool, error) {
	have, ok := n.shapers[device]
	if !ok {
		return false, nil
	}
	if have != owner {
		return false, kernel.ErrForeignLink
	}
	return true, n.does("unshape", func() error { delete(n.shapers, device); return nil })
}

func (n *node) PodLinks() ([]kernel.PodLink, error) {
	var out []kernel.PodLink
	for name, p := range n.pairs {
		out = append(out, kernel.PodLink{Name: name, Owner: p.Owner})
	}
	return out, nil
}

func (n *node) Shapers() (map[string]kernel.PodOwner, error) { return maps.Clone(n.shapers), nil }

func (n *node) InspectPod(netns, hostLink, ifName string) (kernel.PodState, error) {
	var s kernel.PodState
	if p, ok := n.pairs[hostLink]; ok {
		s.Host = kernel.PodLink{Name: hostLink, Owner: p.Owner, MAC: p.HostMAC, MTU: p.MTU, Master: p.Bridge, Up: p.up}
		s.Master, s.Hairpin = n.bridge.Name, p.Hairpin
		s.Ingress, s.Egress = p.shape.Ingress.Bits > 0, n.shapers[p.shape.Device] == p.Owner
		s.Connected = p.netns == netns && p.Owner.IfName == ifName
	}
	if c, ok := n.netns[netns][ifName]; ok {
		s.Pod.Name, s.Pod.MAC, s.Pod.MTU, s.Pod.Up = ifName, c.MAC, n.pairs[hostLink].MTU, true
		s.Pod.Addresses, s.Pod.Routes = c.Addresses, c.Routes
	}
	return s, nil
}

func (n *node) Probe() error { return n.does("probe", func() error { return nil }) }

type records struct{ *node }

func (n records) Begin(r Record) (Entry, error) {
	if n.running[r.Owner()] {
		return nil, ErrBusy
	}
	if _, ok := n.records[r.Owner()]; ok {
		return nil, ErrExists
	}
	err := n.does("begin", func() error {
		n.records[r.Owner()], n.running[r.Owner()] = r, true
		return nil
	})
	return entry{n, r.Owner()}, err
}

func (n records) Get(owner kernel.PodOwner) (Record, bool, error) {
	if n.running[owner] {
		return Record{}, false, ErrBusy
	}
	if slices.Contains(n.broken, owner) {
		return Record{}, false, errors.New("unreadable")
	}
	r, ok := n.records[owner]
	return r, ok, nil
}

func (n records) Complete(owner kernel.PodOwner) bool { return n.complete[owner] }

func (n records) Retire(owner kernel.PodOwner) error {
	return n.does("retire record", func() error { delete(n.complete, owner); return nil })
}

func (n records) Remove(owner kernel.PodOwner) error {
	return n.does("remove record", func() error {
		delete(n.records, owner)
		delete(n.complete, owner)
		return nil
	})
}

func (n records) Freeze() (func(), error) { return func() {}, nil }

func (n records) List() ([]Record, error) {
	return slices.Collect(maps.Values(n.records)), nil
}

func (n records) OfNode() ([]Record, error) {
	return append(slices.Clone(n.elsewhere), slices.Collect(maps.Values(n.records))...), nil
}

type entry struct {
	records
	owner kernel.PodOwner
}

func (e entry) Update(r Record) error {
	return e.does("update", func() error { e.node.records[e.owner] = r; return nil })
}

func (e entry) Commit() error {
	return e.does("commit", func() error { e.complete[e.owner] = true; return nil })
}

func (e entry) Close() { delete(e.running, e.owner) }

type addresses struct{ *node }

func (n addresses) Allocate(_ context.Context, r Request) (Lease, error) {
	l := Lease{Addresses: []ipam.Address{address(4, len(n.leases)), address(6, len(n.leases))}}
	err := n.does("allocate", func() error { n.leases[r.Owner] = l; return nil })
	if err != nil {
		return Lease{}, err
	}
	return l, nil
}

func address(version, i int) ipam.Address {
	if version == 6 {
		return ipam.Address{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", i+2)), Gateway: netip.MustParseAddr("fd00::1")}
	}
	return ipam.Address{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+2)), Gateway: netip.MustParseAddr("10.0.0.1")}
}

func (n addresses) Release(_ context.Context, owner kernel.PodOwner) error {
	if _, ok := n.leases[owner]; !ok {
		return nil
	}
	for _, p := range n.pairs {
		if p.Owner == owner {
			n.t.Errorf("the addresses of %s were released while its link was there", owner)
		}
	}
	return n.does("release", func() error { n.forget(owner); delete(n.leases, owner); return nil })
}

func (n addresses) Check(_ context.Context, owner kernel.PodOwner, want []netip.Prefix) error {
	var have []netip.Prefix
	for _, a := range n.leases[owner].Addresses {
		have = append(have, a.Prefix)
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("lease: %w", ErrMismatch)
	}
	return nil
}

func (n addresses) Leased(_ context.Context, owner kernel.PodOwner) (leased []netip.Addr, _ error) {
	for _, a := range n.leases[owner].Addresses {
		leased = append(leased, a.Prefix.Addr())
	}
	return leased, nil
}

// Free knows the network's addresses by the prefixes that address gives.
func (n addresses) Free(ctx context.Context, all []netip.Addr) (free []netip.Addr, _ error) {
	taken := map[netip.Addr]bool{}
	for owner := range n.leases {
		leased, _ := n.Leased(ctx, owner)
		for _, a := range leased {
			taken[a] = true
		}
	}
	for _, a := range all {
		if !taken[a] && (address(4, 0).Prefix.Contains(a) || address(6, 0).Prefix.Contains(a)) {
			free = append(free, a)
		}
	}
	return free, nil
}

func (n addresses) Status(context.Context) error {
	return n.does("ipam status", func() error { return nil })
}

func (n addresses) Retain(_ context.Context, valid []kernel.PodOwner) error {
	return n.does("retain", func() error {
		maps.DeleteFunc(n.leases, func(o kernel.PodOwner, _ Lease) bool { return !slices.Contains(valid, o) })
		return nil
	})
}

type hostPorts struct{ *node }

func (n hostPorts) Add(_ context.Context, p hostport.Pod) error {
	for _, m := range p.Mappings {
		if at, ok := n.ports[m.HostPort]; ok && at != p.Addresses[0].Addr() {
			return hostport.ErrTaken
		}
	}
	return n.does("add ports", func() error {
		for _, m := range p.Mappings {
			n.ports[m.HostPort] = p.Addresses[0].Addr()
		}
		return nil
	})
}

func (n hostPorts) Remove(_ context.Context, p hostport.Pod) error {
	return n.does("remove ports", func() error {
		for _, m := range p.Mappings {
			if n.ports[m.HostPort] == p.Addresses[0].Addr() {
				delete(n.ports, m.HostPort)
			}
		}
		return nil
	})
}

func (n hostPorts) Targets() ([]hostport.Pod, error) {
	pods := map[netip.Addr]hostport.Pod{}
	for port, to := range n.ports {
		p := hostport.Pod{Addresses: []netip.Prefix{netip.PrefixFrom(to, to.BitLen())}}
		p.Mappings = append(pods[to].Mappings, netconf.PortMapping{Protocol: netconf.TCP, HostPort: port})
		pods[to] = p
	}
	return slices.Collect(maps.Values(pods)), nil
}

func (n hostPorts) Check(_ context.Context, p hostport.Pod) error {
	for _, m := range p.Mappings {
		if n.ports[m.HostPort] != p.Addresses[0].Addr() {
			return fmt.Errorf("port %d: %w", m.HostPort, ErrMismatch)
		}
	}
	return nil
}

// request is an attachment with everything: host ports and shaping both ways.
func request(id, netns string) Request {
	cfg := &netconf.Config{CNIVersion: "1.1.0", Name: "net", Bridge: "cni0", MTU: 1450, Hairpin: true, RunDir: "/run/twill", IPAM: "twill-ipam",
		PortMappings: []netconf.PortMapping{{Protocol: netconf.TCP, HostPort: 80, ContainerPort: 8080}},
		Bandwidth:    netconf.Bandwidth{Ingress: kernel.Rate{Bits: 1e6}, Egress: kernel.Rate{Bits: 1e6}}}
	return Request{Owner: kernel.PodOwner{ContainerID: id, IfName: "eth0"}, Netns: netns, Config: cfg}
}

// plain is one without.
func plain(id, netns string) Request {
	r := request(id, netns)
	r.Config.PortMappings, r.Config.Bandwidth = nil, netconf.Bandwidth{}
	return r
}
