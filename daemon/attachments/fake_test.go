package attachments

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twill-cni/twill/daemon/daemontest"
	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/store"
)

var errInjected = errors.New("injected")

// node is a Host in memory.
type node struct {
	records  map[kernel.PodOwner]Record
	leases   map[kernel.PodOwner]ipam.Lease
	links    map[string]kernel.PodLink
	shapers  map[string]kernel.PodOwner
	netns    map[string]uint64 // path -> inode
	table    hostport.Elements
	localnet map[string]bool // bridges that exist

	busy      bool   // ADDs run
	onRevise  func() // between the reading of the elements and of the records; once
	onRelease func()
	fail      map[string]int // how many calls of that name fail from now on
	calls     map[string]int

	released []string
	flushed  int
	turn     sync.Mutex
	observed struct{ released, elements, links int }
	told     []store.Event
}

func newNode() *node {
	return &node{
		records: map[kernel.PodOwner]Record{}, leases: map[kernel.PodOwner]ipam.Lease{}, links: map[string]kernel.PodLink{},
		shapers: map[string]kernel.PodOwner{}, netns: map[string]uint64{}, table: hostport.Elements{}, localnet: map[string]bool{"cni0": false},
		fail: map[string]int{}, calls: map[string]int{},
	}
}

// sync lets the race detector know that the test and the Keeper take turns: synctest.Wait tells it of one direction only.
func (n *node) sync() {
	n.turn.Lock()
	//lint:ignore SA2001 there is nothing to protect
	n.turn.Unlock()
}

func (n *node) call(what string) error {
	n.calls[what]++
	if n.fail[what] > 0 {
		n.fail[what]--
		return errInjected
	}
	return nil
}

func (n *node) Records() ([]Record, error) {
	n.sync()
	return slices.Collect(maps.Values(n.records)), n.call("records")
}

func (n *node) Leases() ([]ipam.Lease, error) {
	n.sync()
	return slices.Collect(maps.Values(n.leases)), n.call("leases")
}

func (n *node) NetnsGone(path string, inode uint64) bool {
	n.sync()
	have, there := n.netns[path]
	return !there || inode != 0 && have != inode
}

func (n *node) Exclusively(f func()) (bool, error) {
	n.sync()
	if n.busy {
		return false, n.call("freeze")
	}
	if err := n.call("freeze"); err != nil {
		return false, err
	}
	f()
	return true, nil
}

func (n *node) Release(_ context.Context, owner kernel.PodOwner) error {
	n.sync()
	if n.onRelease != nil {
		n.onRelease()
	}
	if err := n.call("release"); err != nil {
		return err
	}
	n.released = append(n.released, owner.ContainerID)
	delete(n.records, owner)
	delete(n.leases, owner)
	return nil
}

func (n *node) PodLinks() ([]kernel.PodLink, error) {
	n.sync()
	return slices.Collect(maps.Values(n.links)), n.call("links")
}

func (n *node) PodLink(name string) (kernel.PodLink, bool, error) {
	n.sync()
	l, ok := n.links[name]
	return l, ok, n.call("link")
}

func (n *node) UpPair(name string) error {
	n.sync()
	if err := n.call("up"); err != nil {
		return err
	}
	l := n.links[name]
	l.Up = true
	n.links[name] = l
	return nil
}

func (n *node) Shapers() (map[string]kernel.PodOwner, error) {
	n.sync()
	return maps.Clone(n.shapers), n.call("shapers")
}

func (n *node) Unshape(device string, _ kernel.PodOwner) (bool, error) {
	n.sync()
	_, there := n.shapers[device]
	delete(n.shapers, device)
	return there, n.call("unshape")
}

func (n *node) RevisePorts(_ context.Context, revise func(hostport.Elements) (hostport.Elements, error)) (bool, error) {
	n.sync()
	have := n.table.With(nil)
	if f := n.onRevise; f != nil {
		n.onRevise = nil
		f()
	}
	want, err := revise(have)
	if err = errors.Join(err, n.call("revise")); err != nil || want == nil || same(want, n.table) {
		return false, err
	}
	n.table = want
	return true, nil
}

func (n *node) FlushUDP(context.Context, hostport.Pod) error {
	n.sync()
	n.flushed++
	return n.call("flush")
}

func (n *node) Localnet(bridge string) (bool, error) {
	n.sync()
	return n.localnet[bridge], n.call("localnet")
}

func (n *node) AllowLocalnet(bridge string) error {
	n.sync()
	if _, there := n.localnet[bridge]; there {
		n.localnet[bridge] = true
	}
	return n.call("allow")
}

func (n *node) Released() {
	n.sync()
	n.observed.released++
}
func (n *node) PortsRepaired(e int) {
	n.sync()
	n.observed.elements += e
}
func (n *node) LinkRepaired() {
	n.sync()
	n.observed.links++
}

func (n *node) tell(e store.Event) {
	n.sync()
	n.told = append(n.told, e)
}

func owner(id string) kernel.PodOwner { return kernel.PodOwner{ContainerID: id, IfName: "eth0"} }

// add puts a complete attachment in place, as an ADD does.
func (n *node) add(id, addr string, ports ...uint16) Record {
	r := Record{Complete: true, Record: attach.Record{Network: "twill", ContainerID: id, IfName: "eth0", Netns: "/ns/" + id, Bridge: "cni0",
		HostLink: "veth-" + id, Addresses: []netip.Prefix{netip.MustParsePrefix(addr)}}}
	for _, p := range ports {
		r.PortMappings = append(r.PortMappings, netconf.PortMapping{Protocol: netconf.TCP, HostPort: p, ContainerPort: 80})
	}
	n.records[owner(id)] = r
	n.netns[r.Netns] = uint64(1000 + len(n.netns))
	n.leases[owner(id)] = ipam.Lease{Owner: ipam.Owner{ContainerID: id, IfName: "eth0"}, Netns: r.Netns, NetnsInode: n.netns[r.Netns],
		Addresses: []ipam.Address{{Prefix: r.Addresses[0]}}, Created: time.Now()}
	n.links[r.HostLink] = kernel.PodLink{Name: r.HostLink, Owner: owner(id), Up: true}
	if elements, err := podOf(r).Ports(); err == nil && len(elements) > 0 {
		n.table = n.table.With(elements).With(podOf(r).Own())
		for set, list := range podOf(r).Shared() {
			n.table[set] = list
		}
	}
	return r
}

// vanish takes the pod away without a DEL.
func (n *node) vanish(id string) {
	delete(n.netns, "/ns/"+id)
	delete(n.links, "veth-"+id)
}

const delay = 30 * time.Second

// run runs a Keeper in a bubble of synctest until the test ends.
func run(t *testing.T, n *node) *Keeper {
	t.Helper()
	k := New(Options{Host: n, Network: "twill", Bridge: "cni0", Log: slog.New(slog.DiscardHandler), Observer: n, Tell: n.tell, Delay: delay,
		Jitter: func(time.Duration) time.Duration { return 0 }})
	daemontest.Start(t, k.Run)
	n.settle(time.Second)
	return k
}

// settle lets time pass.
func (n *node) settle(d time.Duration) {
	n.sync()
	time.Sleep(d)
	synctest.Wait()
}

func gone(link string) kernel.Event {
	return kernel.Event{Kind: kernel.KindLink, Link: link, Pod: true, Deleted: true, Intact: true}
}

var tableChanged = kernel.Event{Kind: kernel.KindTable, Table: hostport.TableName}

// same compares tables without regard to order.
func same(a, b hostport.Elements) bool { return slices.Equal(lines(a), lines(b)) }

func lines(e hostport.Elements) []string {
	out := []string{}
	for set, list := range e {
		for _, e := range list {
			out = append(out, keyOf(set, e)+valueOf(e))
		}
	}
	slices.Sort(out)
	return out
}
