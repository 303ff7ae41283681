package dnat

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Report is what a node tells of its Services.
type Report struct {
	Services    []ServiceState `json:"services"`
	Differences []Difference   `json:"differences"` // none: the kernel holds what it should
}

// ServiceState is a Service, and what the kernel holds of it.
type ServiceState struct {
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	Frontends []FrontendState `json:"frontends"` // sorted by address
	Warnings  []string        `json:"warnings,omitempty"`
}

// FrontendState is an address and port of a Service. Plan, Slots, Hits and Clients are as the kernel has them, the rest is as the Service says.
type FrontendState struct {
	Address      netip.Addr     `json:"address"`
	Port         uint16         `json:"port"`
	Protocol     string         `json:"protocol"`
	Kind         string         `json:"kind"`
	PortName     string         `json:"portName,omitempty"`
	Scheduler    string         `json:"scheduler"`
	Masquerade   string         `json:"masquerade"`                // whose connections get the node's address: none, off-cluster or all
	Affinity     uint32         `json:"affinitySeconds,omitempty"` // 0: none
	SourceRanges []netip.Prefix `json:"sourceRanges,omitzero"`     // absent: every client; empty: none

	Plan        string        `json:"plan,omitempty"`       // the chain that connections go to; empty: the kernel does not know the frontend
	InsidePlan  string        `json:"insidePlan,omitempty"` // for clients inside of the cluster, where they have another one
	Hits        uint64        `json:"hits"`                 // first packets of connections since the frontend has had its plan
	Endpoints   int           `json:"endpoints"`            // different ones in the slots
	Slots       []SlotState   `json:"slots,omitempty"`
	InsideSlots []SlotState   `json:"insideSlots,omitempty"` // for clients inside of the cluster, where they have others
	Clients     []ClientState `json:"clients,omitempty"`     // those that are remembered
}

// SlotState is who has a slot.
type SlotState struct {
	Slot     int            `json:"slot"`
	Endpoint netip.AddrPort `json:"endpoint,omitzero"` // absent: the kernel has nobody there
	Local    bool           `json:"local"`             // on this node
	Weight   uint32         `json:"weight"`            // 0: it is no endpoint of the Service
}

// ClientState is a client that is remembered.
type ClientState struct {
	Client   netip.Addr     `json:"client"`
	Endpoint netip.AddrPort `json:"endpoint,omitzero"` // absent: the endpoint is gone, and the client gets another one
	Left     float64        `json:"leftSeconds"`       // until it is forgotten
}

// State returns a Service and what was observed of it, as far as it is of this family; ok is false when there is no such Service. It has to
// come before Compare.
func (s *Snapshot) State(name store.ObjectName, o *Observed) (state ServiceState, ok bool) {
	h := s.services[name]
	if h == nil {
		return ServiceState{}, false
	}
	state = ServiceState{Namespace: name.Namespace, Name: name.Name, Frontends: []FrontendState{}, Warnings: h.service.Warnings}
	rendered := h.frontends
	for i := range h.service.Frontends {
		f := &h.service.Frontends[i]
		if f.Addr.Is6() != s.words.v6() {
			continue
		}
		state.Frontends = append(state.Frontends, s.frontend(f, &rendered[0], o))
		rendered = rendered[1:]
	}
	return state, true
}

var kindNames = [...]string{service.ClusterIP: "ClusterIP", service.NodePort: "NodePort", service.ExternalIP: "ExternalIP", service.LoadBalancer: "LoadBalancer"}

var masqueradeWords = [...]string{service.MasqueradeNever: "none", service.MasqueradeOffCluster: "off-cluster", service.MasqueradeAlways: "all"}

func (s *Snapshot) frontend(f *service.Frontend, rendered *frontend, o *Observed) FrontendState {
	key := string(appendKey(nil, f.FrontendKey))
	out := FrontendState{
		Address:      f.Addr,
		Port:         f.Port,
		Protocol:     f.Protocol.String(),
		Kind:         kindNames[f.Kind],
		PortName:     f.PortName,
		Scheduler:    string(cmp.Or(f.Scheduler, service.Random)),
		Masquerade:   masqueradeWords[f.Masquerade],
		Affinity:     uint32(f.Affinity / time.Second),
		SourceRanges: f.Allowed,
		Plan:         s.planOf(o, setServices, key),
		InsidePlan:   s.planOf(o, setInside, key),
		Hits:         o.hits[key],
	}
	look := slotReader{key: key, v6: s.words.v6(), listing: &o.listing}
	w := width(look.v6)
	out.Slots = look.slots(false, len(rendered.slots)/w, f.Endpoints)
	if f.Inside != nil {
		out.InsideSlots = look.slots(true, len(rendered.insideSlots)/w, f.Inside.Endpoints)
	}
	different := map[netip.AddrPort]bool{}
	for _, slot := range slices.Concat(out.Slots, out.InsideSlots) {
		if slot.Endpoint.IsValid() {
			different[slot.Endpoint] = true
		}
	}
	out.Endpoints = len(different)
	out.Clients = look.clients(o.clients[key])
	return out
}

// planOf returns the name of a frontend's plan in the kernel.
func (s *Snapshot) planOf(o *Observed, set, key string) string {
	value, ok := o.listing.Sets[set][key]
	if !ok {
		return ""
	}
	n, _ := kernel.CutNumber(value)
	return s.planText(n)
}

// slotReader reads what was observed of a frontend.
type slotReader struct {
	key     string
	v6      bool
	listing *Listing
}

// slots reads as many slots as there should be, and those beyond that follow without a gap.
func (r slotReader) slots(inside bool, want int, known []service.Endpoint) []SlotState {
	byAddr := make(map[netip.AddrPort]*service.Endpoint, len(known))
	for i := range known {
		byAddr[known[i].Addr] = &known[i]
	}
	var out []SlotState
	for i := range insideOffset {
		endpoint := r.slot(slotNumber(i, inside))
		if i >= want && !endpoint.IsValid() {
			break
		}
		slot := SlotState{Slot: i, Endpoint: endpoint}
		if e := byAddr[endpoint]; e != nil {
			slot.Local, slot.Weight = e.Local, max(e.Weight, 1)
		}
		out = append(out, slot)
	}
	return out
}

// slot returns who has a slot, either way of keeping it.
func (r slotReader) slot(n uint32) netip.AddrPort {
	key := r.key + string(kernel.AppendNumber(nil, n))
	value, ok := r.listing.Sets[setEndpoints][key]
	if !ok {
		number, ok := r.listing.Sets[setSlots][key]
		if !ok {
			return netip.AddrPort{}
		}
		return r.member(number)
	}
	return endpointOf(value, r.v6)
}

// member returns the endpoint of a member.
func (r slotReader) member(number string) netip.AddrPort {
	value, ok := r.listing.Sets[setMembers][r.key+number]
	if !ok {
		return netip.AddrPort{}
	}
	return endpointOf(value, r.v6)
}

func (r slotReader) clients(entries []kernel.EntryState) []ClientState {
	var out []ClientState
	for _, e := range entries {
		client, _ := kernel.CutAddr(e.Key, r.v6)
		out = append(out, ClientState{Client: client, Endpoint: r.member(e.Value), Left: e.Expires.Seconds()})
	}
	slices.SortFunc(out, func(x, y ClientState) int { return x.Client.Compare(y.Client) })
	return out
}
