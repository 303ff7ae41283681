package endpoints

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/twill-cni/twill/store"
)

// label is one pair of a namespace's labels.
type label struct{ namespace, key, value string }

// group is what has a slice, or several when a targetPort is a name: a Service's pods on one node.
type group struct {
	service store.ObjectName
	node    string
}

// Builder keeps Services, pods and the slices that follow from them. It is for one goroutine. The zero Builder is not usable; see New.
type Builder struct {
	services map[store.ObjectName]*store.Service // those with a selector
	pods     map[store.PodKey]*store.Pod

	byAnchor map[label]map[store.ObjectName]bool // Services, by the pair of their selector that comes first
	byLabel  map[label]map[store.PodKey]bool

	members map[group]map[store.PodKey]bool
	nodes   map[store.ObjectName]map[string]bool // the nodes that a Service has a group on
	slices  map[group][]*store.EndpointSlice     // as Take told them
	dirty   map[group]bool
}

// New returns a Builder that knows nothing.
func New() *Builder {
	return &Builder{
		services: map[store.ObjectName]*store.Service{}, pods: map[store.PodKey]*store.Pod{},
		byAnchor: map[label]map[store.ObjectName]bool{}, byLabel: map[label]map[store.PodKey]bool{},
		members: map[group]map[store.PodKey]bool{}, nodes: map[store.ObjectName]map[string]bool{},
		slices: map[group][]*store.EndpointSlice{}, dirty: map[group]bool{},
	}
}

// add and remove keep sets of sets without empty ones.
func add[K, V comparable](sets map[K]map[V]bool, key K, value V) {
	if sets[key] == nil {
		sets[key] = map[V]bool{}
	}
	sets[key][value] = true
}

func remove[K, V comparable](sets map[K]map[V]bool, key K, value V) {
	delete(sets[key], value)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}

// anchor returns the pair of the Service's selector by which it is found.
func anchor(s *store.Service) label {
	first := slices.Min(slices.Collect(maps.Keys(s.Selector)))
	return label{s.Name.Namespace, first, s.Selector[first]}
}

func selects(s *store.Service, p *store.Pod) bool {
	if s.Name.Namespace != p.Name.Namespace {
		return false
	}
	for key, value := range s.Selector {
		if have, ok := p.Labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// SetService takes in what a Service is now, nil for gone.
func (b *Builder) SetService(name store.ObjectName, s *store.Service) {
	if s != nil && (len(s.Selector) == 0 || s.Type == store.ServiceExternalName) {
		s = nil
	}
	old := b.services[name]
	if old != nil && s != nil && maps.Equal(old.Selector, s.Selector) {
		b.services[name] = s
		if !sameEndpoints(old, s) {
			b.touch(name)
		}
		return
	}
	if old != nil {
		remove(b.byAnchor, anchor(old), name)
		b.touch(name)
		for node := range b.nodes[name] {
			delete(b.members, group{name, node})
		}
		delete(b.nodes, name)
		delete(b.services, name)
	}
	if s == nil {
		return
	}
	b.services[name] = s
	add(b.byAnchor, anchor(s), name)
	for key := range b.candidates(s) {
		if p := b.pods[key]; selects(s, p) {
			b.join(group{name, p.Node}, key)
		}
	}
	b.touch(name)
}

// candidates returns the pods that have the rarest pair of the selector.
func (b *Builder) candidates(s *store.Service) map[store.PodKey]bool {
	var rarest map[store.PodKey]bool
	first := true
	for key, value := range s.Selector {
		if have := b.byLabel[label{s.Name.Namespace, key, value}]; first || len(have) < len(rarest) {
			rarest, first = have, false
		}
	}
	return rarest
}

// sameEndpoints reports whether two states of a Service with one selector have the same slices.
func sameEndpoints(a, b *store.Service) bool {
	return a.PublishNotReady == b.PublishNotReady && slices.Equal(families(a), families(b)) &&
		slices.EqualFunc(a.Ports, b.Ports, func(p, q store.ServicePort) bool {
			return p.Name == q.Name && p.Protocol == q.Protocol && p.TargetPort == q.TargetPort && p.Port == q.Port
		})
}

// touch has all slices of a Service made again.
func (b *Builder) touch(name store.ObjectName) {
	for node := range b.nodes[name] {
		b.dirty[group{name, node}] = true
	}
}

func (b *Builder) join(g group, key store.PodKey) {
	add(b.members, g, key)
	add(b.nodes, g.service, g.node)
	b.dirty[g] = true
}

func (b *Builder) leave(g group, key store.PodKey) {
	remove(b.members, g, key)
	if b.members[g] == nil {
		remove(b.nodes, g.service, g.node)
	}
	b.dirty[g] = true
}

// SetPod takes in what a pod is now, nil for gone.
func (b *Builder) SetPod(key store.PodKey, p *store.Pod) {
	old := b.pods[key]
	if old.Equal(p) {
		return
	}
	if old != nil {
		delete(b.pods, key)
		for k, v := range old.Labels {
			remove(b.byLabel, label{key.Name.Namespace, k, v}, key)
		}
		for name := range b.selecting(old) {
			b.leave(group{name, key.Node}, key)
		}
	}
	if p == nil {
		return
	}
	b.pods[key] = p
	for k, v := range p.Labels {
		add(b.byLabel, label{key.Name.Namespace, k, v}, key)
	}
	for name := range b.selecting(p) {
		b.join(group{name, key.Node}, key)
	}
}

// selecting yields the Services that select the pod.
func (b *Builder) selecting(p *store.Pod) map[store.ObjectName]bool {
	out := map[store.ObjectName]bool{}
	for k, v := range p.Labels {
		for name := range b.byAnchor[label{p.Name.Namespace, k, v}] {
			if selects(b.services[name], p) {
				out[name] = true
			}
		}
	}
	return out
}

// Take returns the slices that changed since it was last called; nil stands for one that is gone.
func (b *Builder) Take() map[store.ObjectName]*store.EndpointSlice {
	changes := map[store.ObjectName]*store.EndpointSlice{}
	for g := range b.dirty {
		old, next := b.slices[g], b.render(g)
		for _, s := range old {
			changes[s.Name] = nil
		}
		for i, s := range next {
			at := slices.IndexFunc(old, func(o *store.EndpointSlice) bool { return o.Name == s.Name })
			if at >= 0 && reflect.DeepEqual(old[at], s) {
				next[i] = old[at]
				delete(changes, s.Name)
				continue
			}
			changes[s.Name] = s
		}
		if b.slices[g] = next; len(next) == 0 {
			delete(b.slices, g)
		}
	}
	b.dirty = map[group]bool{} // not cleared: a map that once held everything is large for ever
	return changes
}

// families returns which families a Service has endpoints of, false standing for IPv4: those of its addresses, or both when it is headless.
func families(s *store.Service) []bool {
	var out []bool
	for _, ipv6 := range []bool{false, true} {
		if len(s.ClusterIPs) == 0 || slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return a.Is6() == ipv6 }) {
			out = append(out, ipv6)
		}
	}
	return out
}

// render makes the slices of a group.
func (b *Builder) render(g group) []*store.EndpointSlice {
	s := b.services[g.service]
	if s == nil {
		return nil
	}
	var out []*store.EndpointSlice
	byName := map[string]*store.EndpointSlice{}
	for key := range b.members[g] {
		p := b.pods[key]
		ports, named := resolve(s, p)
		for _, ipv6 := range families(s) {
			i := slices.IndexFunc(p.Addrs, func(a netip.Addr) bool { return a.Is6() == ipv6 })
			if i < 0 {
				continue
			}
			name := sliceName(g, ipv6, named)
			slice := byName[name]
			if slice == nil {
				slice = &store.EndpointSlice{Name: store.ObjectName{Namespace: g.service.Namespace, Name: name}, Service: g.service.Name, IPv6: ipv6, Ports: ports}
				byName[name] = slice
				out = append(out, slice)
			}
			slice.Endpoints = append(slice.Endpoints, store.Endpoint{Addr: p.Addrs[i], Ready: p.Ready || s.PublishNotReady, Serving: p.Ready, Node: p.Node})
		}
	}
	for _, slice := range out {
		slices.SortFunc(slice.Endpoints, func(a, b store.Endpoint) int { return a.Addr.Compare(b.Addr) })
		// Two records may name one address for a moment, while a pod is replaced: the ready one counts.
		slice.Endpoints = merge(slice.Endpoints)
	}
	slices.SortFunc(out, func(a, b *store.EndpointSlice) int { return cmp.Compare(a.Name.Name, b.Name.Name) })
	return out
}

// merge makes one endpoint of those with the same address. They are sorted by it.
func merge(endpoints []store.Endpoint) []store.Endpoint {
	out := endpoints[:0]
	for _, e := range endpoints {
		if n := len(out); n > 0 && out[n-1].Addr == e.Addr {
			out[n-1].Ready, out[n-1].Serving = out[n-1].Ready || e.Ready, out[n-1].Serving || e.Serving
			continue
		}
		out = append(out, e)
	}
	return out
}

func sliceName(g group, ipv6 bool, named string) string {
	family := "IPv4"
	if ipv6 {
		family = "IPv6"
	}
	return g.service.Name + ":" + g.node + ":" + family + named
}

// resolve returns the numbers of the Service's ports on a pod, and those of named target ports as a part of the slice's name. A name that the pod does
// not know has no port there, as in Kubernetes.
func resolve(s *store.Service, p *store.Pod) (ports []store.EndpointPort, named string) {
	var b strings.Builder
	for _, sp := range s.Ports {
		port, isName := targetPort(sp, p)
		if isName {
			b.WriteString(":" + strconv.Itoa(int(port)))
		}
		if port != 0 {
			ports = append(ports, store.EndpointPort{Name: sp.Name, Protocol: sp.Protocol, Port: port})
		}
	}
	return ports, b.String()
}

// targetPort returns 0 for a name that is not known.
func targetPort(sp store.ServicePort, p *store.Pod) (port uint16, isName bool) {
	if sp.TargetPort == "" {
		return sp.Port, false
	}
	if n, err := strconv.ParseUint(sp.TargetPort, 10, 16); err == nil && n > 0 {
		return uint16(n), false
	}
	for _, named := range p.Ports {
		if named.Name == sp.TargetPort && named.Protocol == sp.Protocol {
			return named.Port, true
		}
	}
	return 0, true
}
