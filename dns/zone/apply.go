package zone

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/twill-cni/twill/store"
)

// service is what a Service means to DNS. It is never changed after it was made.
type service struct {
	name       string // fully qualified
	external   string // what an ExternalName stands for, fully qualified; empty for other Services
	headless   bool
	clusterIPs []netip.Addr
	ports      []store.ServicePort // with a name
	endpoints  []endpoint          // ready ones, by name, then by address
	addrs      []netip.Addr        // of a headless one: those of its endpoints, sorted
	links      []link              // sorted
}

// endpoint is an address of a ready endpoint.
type endpoint struct {
	name  string // one label
	addr  netip.Addr
	ports []store.EndpointPort // with a name
}

// hasPortOf reports whether anything is below a label such as _tcp.
func (s *service) hasPortOf(label string) bool {
	protocol, ok := protocolOf(label)
	if !ok {
		return false
	}
	if !s.headless {
		return slices.ContainsFunc(s.ports, func(p store.ServicePort) bool { return p.Protocol == protocol })
	}
	return slices.ContainsFunc(s.endpoints, func(e endpoint) bool {
		return slices.ContainsFunc(e.ports, func(p store.EndpointPort) bool { return p.Protocol == protocol })
	})
}

// facts are what the store said, for working out what a change changes.
type facts struct {
	services map[store.ObjectName]*store.Service
	slices   map[store.ObjectName]*store.EndpointSlice
	of       map[store.ObjectName]map[store.ObjectName]*store.EndpointSlice // slices by Service, by name
	pods     map[store.PodKey]*store.Pod

	serviceNamespaces map[string]int // how many Services a namespace has
	podNamespaces     map[string]int
	podAddrs          map[podAddr]int // how many records: two, while a pod is replaced
}

func newFacts() facts {
	return facts{
		services: map[store.ObjectName]*store.Service{}, slices: map[store.ObjectName]*store.EndpointSlice{},
		of: map[store.ObjectName]map[store.ObjectName]*store.EndpointSlice{}, pods: map[store.PodKey]*store.Pod{},
		serviceNamespaces: map[string]int{}, podNamespaces: map[string]int{}, podAddrs: map[podAddr]int{},
	}
}

// Apply takes in what changed of Services and endpoints. It may be called at any time, from any goroutine.
func (z *Zone) Apply(c store.ServiceChanges) {
	z.mu.Lock()
	defer z.mu.Unlock()
	dirty := map[store.ObjectName]bool{}
	if c.Networks != nil {
		next := *z.around.Load()
		next.services = slices.Clone(c.Networks)
		z.around.Store(&next)
	}
	if c.Reset {
		for name := range z.facts.services {
			if c.Services[name] == nil {
				z.setService(name, nil, dirty)
			}
		}
		for name := range z.facts.slices {
			if c.Slices[name] == nil {
				z.setSlice(name, nil, dirty)
			}
		}
	}
	for name, s := range c.Services {
		z.setService(name, s, dirty)
	}
	for name, s := range c.Slices {
		z.setSlice(name, s, dirty)
	}
	for name := range dirty {
		z.resolve(name)
	}
	if len(dirty) > 0 {
		z.serial.Add(1)
	}
	if c.Reset {
		z.loaded.Store(true)
	}
}

func (z *Zone) setService(name store.ObjectName, s *store.Service, dirty map[store.ObjectName]bool) {
	dirty[name] = true
	if s == nil {
		delete(z.facts.services, name)
		return
	}
	z.facts.services[name] = s
}

func (z *Zone) setSlice(name store.ObjectName, s *store.EndpointSlice, dirty map[store.ObjectName]bool) {
	if old := z.facts.slices[name]; old != nil {
		of := store.ObjectName{Namespace: name.Namespace, Name: old.Service}
		dirty[of] = true
		delete(z.facts.of[of], name)
		if len(z.facts.of[of]) == 0 {
			delete(z.facts.of, of)
		}
		delete(z.facts.slices, name)
	}
	if s == nil {
		return
	}
	of := store.ObjectName{Namespace: name.Namespace, Name: s.Service}
	dirty[of] = true
	if z.facts.of[of] == nil {
		z.facts.of[of] = map[store.ObjectName]*store.EndpointSlice{}
	}
	z.facts.of[of][name] = s
	z.facts.slices[name] = s
}

// resolve makes a Service's entry from what is known. Names are compared in lower case, which Kubernetes' own are in.
func (z *Zone) resolve(name store.ObjectName) {
	key := store.ObjectName{Namespace: strings.ToLower(name.Namespace), Name: strings.ToLower(name.Name)}
	old, was := z.services.get(key)
	if !was {
		old = &service{}
	}
	s := z.facts.services[name]
	if s == nil {
		z.relink(old.links, nil)
		if was {
			z.services.remove(key)
			count(z.facts.serviceNamespaces, &z.serviceNamespaces, key.Namespace, -1)
		}
		return
	}
	next := z.newService(key, s, z.facts.of[name])
	z.relink(old.links, next.links)
	z.services.put(key, next)
	if !was {
		count(z.facts.serviceNamespaces, &z.serviceNamespaces, key.Namespace, 1)
	}
}

// count keeps a table of what is there at all.
func count[K comparable](counts map[K]int, there *table[K, struct{}], key K, by int) {
	before := counts[key]
	counts[key] = before + by
	switch {
	case before+by == 0:
		delete(counts, key)
		there.remove(key)
	case before == 0:
		there.put(key, struct{}{})
	}
}

func (z *Zone) newService(key store.ObjectName, s *store.Service, from map[store.ObjectName]*store.EndpointSlice) *service {
	out := &service{name: key.Name + "." + key.Namespace + ".svc." + z.domain}
	if s.Type == store.ServiceExternalName {
		// An address there is no name, whatever it looks like; asking for it upstream would tell the world of it.
		if _, err := netip.ParseAddr(s.ExternalName); err == nil || s.ExternalName == "" {
			return out
		}
		if _, ok := dns.IsDomainName(s.ExternalName); ok {
			out.external = dns.Fqdn(s.ExternalName)
		}
		return out
	}
	out.clusterIPs = s.ClusterIPs
	out.headless = len(s.ClusterIPs) == 0
	for _, p := range s.Ports {
		if p.Name != "" {
			p.Name = strings.ToLower(p.Name)
			out.ports = append(out.ports, p)
		}
	}
	out.endpoints = readyEndpoints(from, s.PublishNotReady)
	for _, addr := range out.clusterIPs {
		out.links = append(out.links, link{addr, out.name})
	}
	if out.headless {
		for _, e := range out.endpoints {
			out.addrs = append(out.addrs, e.addr)
			out.links = append(out.links, link{e.addr, e.name + "." + out.name})
		}
		slices.SortFunc(out.addrs, netip.Addr.Compare)
	}
	slices.SortFunc(out.links, link.compare)
	out.links = slices.Compact(out.links)
	return out
}

// readyEndpoints returns the ready endpoints of a Service's slices; all of them when unready ones are to be published.
func readyEndpoints(from map[store.ObjectName]*store.EndpointSlice, unready bool) []endpoint {
	var out []endpoint
	for _, slice := range from {
		ports := namedPorts(slice.Ports)
		for _, e := range slice.Endpoints {
			if !e.Ready && !unready {
				continue
			}
			name := strings.ToLower(e.Hostname)
			if CheckDomain(name) != nil || strings.Contains(name, ".") { // written by hand, and no label
				name = dashed(e.Addr)
			}
			out = append(out, endpoint{name, e.Addr, ports})
		}
	}
	slices.SortFunc(out, endpoint.compare)
	return merge(out)
}

func (e endpoint) compare(o endpoint) int {
	if c := cmp.Or(strings.Compare(e.name, o.name), e.addr.Compare(o.addr)); c != 0 {
		return c
	}
	return slices.CompareFunc(e.ports, o.ports, comparePorts)
}

func comparePorts(a, b store.EndpointPort) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// merge makes one endpoint of those with one name and address, which several slices may have: one a port, for example. They are sorted.
func merge(endpoints []endpoint) []endpoint {
	out := endpoints[:0]
	for _, e := range endpoints {
		n := len(out) - 1
		if n < 0 || out[n].name != e.name || out[n].addr != e.addr {
			out = append(out, e)
			continue
		}
		ports := slices.Concat(out[n].ports, e.ports)
		slices.SortFunc(ports, comparePorts)
		out[n].ports = slices.Compact(ports)
	}
	return out
}

func namedPorts(ports []store.EndpointPort) []store.EndpointPort {
	var out []store.EndpointPort
	for _, p := range ports {
		if p.Name != "" {
			p.Name = strings.ToLower(p.Name)
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePorts)
	return slices.Compact(out)
}

// ApplyPods takes in what changed of pods, of a change of which the other parts are somebody else's. It may be called at any time, from any goroutine.
func (z *Zone) ApplyPods(c store.PolicyChanges) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if c.Reset {
		for key := range z.facts.pods {
			if c.Pods[key] == nil {
				z.setPod(key, nil)
			}
		}
	}
	for key, p := range c.Pods {
		z.setPod(key, p)
	}
	if c.Reset {
		z.podsLoaded.Store(true)
	}
}

// setPod counts what is new before what is gone, so that what stays is never missing in between.
func (z *Zone) setPod(key store.PodKey, p *store.Pod) {
	old := z.facts.pods[key]
	if p == nil {
		delete(z.facts.pods, key)
	} else {
		z.facts.pods[key] = p
		z.countPod(p, 1)
	}
	if old != nil {
		z.countPod(old, -1)
	}
}

func (z *Zone) countPod(p *store.Pod, by int) {
	namespace := strings.ToLower(p.Name.Namespace)
	for _, addr := range p.Addrs {
		count(z.facts.podAddrs, &z.pods, podAddr{namespace, addr}, by)
		count(z.facts.podNamespaces, &z.podNamespaces, namespace, by)
	}
}
