package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/twill-cni/twill/store"
)

// Node is a node that pods can be on.
type Node struct {
	Name       string
	IPv4, IPv6 netip.Prefix // subnets of its pods; the zero Prefix: its pods have no address of the family
}

// Size says how large a cluster is to be.
type Size struct {
	Nodes                      []Node // at least one
	Namespaces, Pods           int    // at least one each
	Policies, ClusterPolicies  int
	Disputed, Silent, Anywhere float64 // shares (0 to 1) of pods with another's address, of pods without an address, and of peers that mean everything
}

// Cluster is a random cluster. It is for one goroutine at a time.
type Cluster struct {
	size     Size
	rand     *rand.Rand
	next     map[string]uint64 // how many addresses of a node's subnets are used
	numbered int               // how many objects have got a name

	Namespaces      []*store.Namespace
	Pods            []*store.Pod
	Policies        []*store.NetworkPolicy
	ClusterPolicies []*store.ClusterNetworkPolicy
}

// Generate returns a cluster that depends on random and size alone. It keeps random for its methods.
func Generate(random *rand.Rand, size Size) *Cluster {
	c := &Cluster{size: size, rand: random, next: map[string]uint64{}}
	for i := range size.Namespaces {
		c.Namespaces = append(c.Namespaces, c.namespace(fmt.Sprintf("ns%d", i)))
	}
	for range size.Pods {
		c.Pods = append(c.Pods, c.newPod())
	}
	for range size.Policies {
		c.Policies = append(c.Policies, c.policy(store.ObjectName{Namespace: pick(c.rand, c.Namespaces).Name, Name: c.name("policy")}))
	}
	for range size.ClusterPolicies {
		c.ClusterPolicies = append(c.ClusterPolicies, c.clusterPolicy(c.name("cluster")))
	}
	return c
}

// Changes returns the whole cluster as a reset.
func (c *Cluster) Changes() store.PolicyChanges {
	changes := newChanges()
	changes.Reset = true
	for _, namespace := range c.Namespaces {
		changes.Namespaces[namespace.Name] = namespace
	}
	for _, pod := range c.Pods {
		changes.Pods[pod.Key()] = pod
	}
	for _, policy := range c.Policies {
		changes.Policies[policy.Name] = policy
	}
	for _, policy := range c.ClusterPolicies {
		changes.ClusterPolicies[policy.Name] = policy
	}
	return changes
}

func newChanges() store.PolicyChanges {
	return store.PolicyChanges{
		Policies:        map[store.ObjectName]*store.NetworkPolicy{},
		ClusterPolicies: map[string]*store.ClusterNetworkPolicy{},
		Namespaces:      map[string]*store.Namespace{},
		Pods:            map[store.PodKey]*store.Pod{},
	}
}

func (c *Cluster) name(kind string) string {
	c.numbered++
	return fmt.Sprintf("%s%d", kind, c.numbered)
}

// What labels, ports and names are made of. There are few, so that many things match.
var (
	keys         = []string{"app", "env", "tier"}
	values       = []string{"", "a", "b", "c"}
	names        = []string{"http", "dns", "metrics"}
	numbers      = []uint16{53, 80, 81, 443, 8080, 8081, 65535}
	protocols    = []store.Protocol{store.TCP, store.TCP, store.TCP, store.UDP, store.UDP, store.SCTP}
	outside      = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:0:7::/64")}
	everywhere   = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	allOperators = []store.SelectorOperator{store.SelectorIn, store.SelectorNotIn, store.SelectorExists, store.SelectorDoesNotExist}
)

func (c *Cluster) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range keys {
		if c.chance(0.6) {
			labels[key] = pick(c.rand, values)
		}
	}
	return labels
}

func (c *Cluster) namespace(name string) *store.Namespace {
	labels := c.labels()
	labels[store.NamespaceNameLabel] = name
	return &store.Namespace{Name: name, Labels: labels}
}

// newPod returns a pod on any node.
func (c *Cluster) newPod() *store.Pod {
	node := pick(c.rand, c.size.Nodes)
	pod := &store.Pod{
		Name:   store.ObjectName{Namespace: pick(c.rand, c.Namespaces).Name, Name: c.name("pod")},
		Node:   node.Name,
		Labels: c.labels(),
		Ports:  c.podPorts(),
		Ready:  c.chance(0.8),
	}
	switch {
	case c.chance(c.size.Silent):
	case len(c.Pods) > 0 && c.chance(c.size.Disputed):
		other := pick(c.rand, c.Pods)
		pod.Node, pod.Addrs = other.Node, other.Addrs
	default:
		pod.Addrs = c.addresses(node)
	}
	return pod
}

// addresses returns the next of the node's, leaving out the first two: the network's and the bridge's. A subnet that is used up starts anew, so
// that addresses are disputed.
func (c *Cluster) addresses(node Node) []netip.Addr {
	n := c.next[node.Name]
	c.next[node.Name]++
	var all []netip.Addr
	for _, subnet := range []netip.Prefix{node.IPv4, node.IPv6} {
		if !subnet.IsValid() {
			continue
		}
		room := uint64(1)<<min(subnet.Addr().BitLen()-subnet.Bits(), 32) - 3
		all = append(all, advance(subnet.Masked().Addr(), n%room+2))
	}
	return all
}

// advance returns the address that is so many after another.
func advance(addr netip.Addr, n uint64) netip.Addr {
	bytes := addr.AsSlice()
	for i := len(bytes) - 1; i >= 0 && n > 0; i-- {
		n += uint64(bytes[i])
		bytes[i] = byte(n)
		n >>= 8
	}
	after, _ := netip.AddrFromSlice(bytes)
	return after
}

func (c *Cluster) podPorts() []store.PodPort {
	var ports []store.PodPort
	for _, name := range names {
		if c.chance(0.6) {
			ports = append(ports, store.PodPort{Name: name, Protocol: pick(c.rand, protocols), Port: pick(c.rand, numbers)})
		}
	}
	if len(ports) > 0 && c.chance(0.1) { // of another container
		ports = append(ports, store.PodPort{Name: ports[0].Name, Protocol: pick(c.rand, protocols), Port: pick(c.rand, numbers)})
	}
	return ports
}

func (c *Cluster) chance(share float64) bool { return c.rand.Float64() < share }

func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }
