package policytest

import (
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/twill-cni/twill/store"
)

// Case is a set of policies, and what they leave open between the pods of the model (Pods, Namespaces). What it expects was written by hand, or put
// together from tables that were.
type Case struct {
	Kind, Name      string
	Policies        []*store.NetworkPolicy
	ClusterPolicies []*store.ClusterNetworkPolicy
	Family          Family // that it is about

	expect []expectation
}

// Family says for which addresses a case holds.
type Family uint8

// The families.
const (
	Both Family = iota
	OnlyIPv4
	OnlyIPv6
)

// Has reports whether the case holds for connections between such addresses.
func (f Family) Has(addr netip.Addr) bool {
	return f == Both || (f == OnlyIPv4) == addr.Is4()
}

// Service is what may be asked of a pod of the model. The zero Service stands for ICMP, or ICMPv6.
type Service struct {
	Protocol store.Protocol
	Port     uint16
}

func (s Service) String() string {
	if s == (Service{}) {
		return "ICMP"
	}
	return fmt.Sprintf("%s %d", s.Protocol, s.Port)
}

// For returns the flow's protocol and port when it is asked of that address.
func (s Service) For(dst netip.Addr) (store.Protocol, uint16) {
	switch {
	case s != Service{}:
		return s.Protocol, s.Port
	case dst.Is4():
		return ICMP, 0
	}
	return ICMPv6, 0
}

// What is asked in every case.
var (
	tcp80, tcp81   = Service{store.TCP, 80}, Service{store.TCP, 81}
	udp80, udp81   = Service{store.UDP, 80}, Service{store.UDP, 81}
	sctp80, sctp81 = Service{store.SCTP, 80}, Service{store.SCTP, 81}
	ping           = Service{}
)

// Services returns what may be asked of each pod of the model.
func Services() []Service { return []Service{tcp80, tcp81, udp80, udp81, sctp80, sctp81, ping} }

// Check is one connection and what is to become of it. Pods are named namespace/name.
type Check struct {
	Src, Dst string
	Service  Service
	Allowed  bool
}

func (c Check) String() string { return fmt.Sprintf("%s -> %s %s", c.Src, c.Dst, c.Service) }

// Checks returns one check for each pair of pods and each service: 9 * 9 * 7.
func (c Case) Checks() []Check {
	var checks []Check
	for _, src := range Pods() {
		for _, dst := range Pods() {
			for _, service := range Services() {
				checks = append(checks, c.check(src.Name.String(), dst.Name.String(), service))
			}
		}
	}
	return checks
}

// check asks the expectations, the last of which counts; a pod always reaches itself.
func (c Case) check(src, dst string, service Service) Check {
	check := Check{Src: src, Dst: dst, Service: service, Allowed: true}
	for _, e := range c.expect {
		if e.about(src, dst, service) {
			check.Allowed = e.allowed || src == dst
		}
	}
	return check
}

// expectation says what becomes of some connections. Pods are patterns of path.Match over namespace/name.
type expectation struct {
	allowed  bool
	src, dst string
	services []Service // empty: all
}

func (e expectation) about(src, dst string, service Service) bool {
	return glob(e.src, src) && glob(e.dst, dst) && (len(e.services) == 0 || slices.Contains(e.services, service))
}

func glob(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func open(src, dst string, services ...Service) expectation {
	return expectation{true, src, dst, services}
}

func shut(src, dst string, services ...Service) expectation {
	return expectation{false, src, dst, services}
}

// Changes returns the model with the case's policies as a reset.
func (c Case) Changes() store.PolicyChanges {
	changes := newChanges()
	changes.Reset = true
	for _, namespace := range Namespaces() {
		changes.Namespaces[namespace.Name] = namespace
	}
	for _, pod := range Pods() {
		changes.Pods[pod.Key()] = pod
	}
	for _, p := range c.Policies {
		changes.Policies[p.Name] = p
	}
	for _, p := range c.ClusterPolicies {
		changes.ClusterPolicies[p.Name] = p
	}
	return changes
}

// Cases returns all cases.
func Cases() []Case {
	return slices.Concat(basicCases(), combinedCases(), peerCases(), selectorCases(), portCases(), blockCases(), tierCases(), clusterCases())
}
