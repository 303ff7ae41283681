package dnat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Plan is all that the rules for a frontend depend on. Frontends with equal plans share the chains of that plan, so there are as many chains as there
// are different plans, however many Services there are. A plan with a Counter is the exception: taking turns needs a counter that
// no other frontend moves.
type Plan struct {
	Choice     Choice
	Slots      uint32 // at least 1, or 0 where no choice is made (Reject, Drop)
	Inside     bool   // for clients inside of the cluster, at a frontend that has others for clients outside
	Masquerade Masquerade
	Guarded    bool                // only clients in the set of ranges
	Split      bool                // clients inside of the cluster have a plan of their own
	Sticky     uint32              // seconds for which a client keeps its endpoint; 0: no affinity
	Counter    service.FrontendKey // of RoundRobin alone: whose counter it is
}

// Choice is how a slot is chosen.
type Choice uint8

// The choices. A scheduler with weights, and those that a controller steers by weights, are the choice Random or RoundRobin among slots of
// which an endpoint has as many as it weighs.
const (
	Reject Choice = iota // there is nobody: ICMP port unreachable
	Drop                 // there is nobody here
	Random
	RoundRobin
	SourceHash
	DestinationHash
	Maglev
	numChoices
)

// Names of chains must be no words of nft, or it cannot read its own listing.
var choiceNames = [numChoices]string{"refused", "dropped", "random", "rr", "sh", "dh", "mh"}

func (c Choice) String() string { return choiceNames[c] }

// Masquerade says whose connections get the node's address as their source.
type Masquerade uint8

// The ways to masquerade.
const (
	Never Masquerade = iota
	OffCluster
	// OffNode is for all but the node's own pods. A plan for clients inside of the cluster has it: a pod of another node may have sent to this
	// node's address, and the endpoint that it gets would reply past this node.
	OffNode
	Always
	numMasquerades
)

var masqueradeNames = [numMasquerades]string{"", "offcluster", "offnode", "masquerade"}

// maxSticky is the longest affinity timeout in seconds: a day, as in the API.
const maxSticky = 86400

// String returns the plan's canonical text, which is the name of its chain: `random-3`, `random-3-offcluster`, `sh-5-inside-offnode`, `dropped-guarded-split`,
// `rr-2-at-tcp-80-10.96.0.7`. Plans are equal exactly when their texts are.
func (p Plan) String() string {
	b := append(make([]byte, 0, 64), p.Choice.String()...)
	if p.Slots > 0 {
		b = strconv.AppendUint(append(b, '-'), uint64(p.Slots), 10)
	}
	if p.Inside {
		b = append(b, "-inside"...)
	}
	if p.Masquerade != Never {
		b = append(append(b, '-'), masqueradeNames[p.Masquerade]...)
	}
	if p.Guarded {
		b = append(b, "-guarded"...)
	}
	if p.Split {
		b = append(b, "-split"...)
	}
	if p.Sticky > 0 {
		b = strconv.AppendUint(append(b, "-sticky-"...), uint64(p.Sticky), 10)
	}
	if p.Counter.Addr.IsValid() {
		b = append(append(append(b, "-at-"...), protocolName(p.Counter.Protocol)...), '-')
		b = append(strconv.AppendUint(b, uint64(p.Counter.Port), 10), '-')
		b = append(b, strings.ReplaceAll(p.Counter.Addr.String(), ":", "_")...) // nft's names have no colon
	}
	return string(b)
}

var errNoPlan = errors.New("not the name of a plan's chain")

// ParsePlan is the inverse of Plan.String. It accepts nothing that String does not return.
func ParsePlan(name string) (Plan, error) {
	p, rest := Plan{}, strings.Split(name, "-")
	take := func(word string) bool {
		if word == "" || len(rest) == 0 || rest[0] != word {
			return false
		}
		rest = rest[1:]
		return true
	}
	number := func() (n uint32) {
		if len(rest) > 0 {
			v, _ := strconv.ParseUint(rest[0], 10, 32) // what is no number does not come out the same in the end
			n, rest = uint32(v), rest[1:]
		}
		return n
	}
	choice := slices.Index(choiceNames[:], rest[0])
	if choice < 0 {
		return Plan{}, fmt.Errorf("chain %q: %w", name, errNoPlan)
	}
	p.Choice, rest = Choice(choice), rest[1:]
	if p.Choice > Drop {
		p.Slots = number()
	}
	p.Inside = take("inside")
	for m := OffCluster; m < numMasquerades; m++ {
		if take(masqueradeNames[m]) {
			p.Masquerade = m
			break
		}
	}
	p.Guarded = take("guarded")
	p.Split = take("split")
	if take("sticky") {
		p.Sticky = number()
	}
	if take("at") && len(rest) == 3 {
		p.Counter.Protocol = protocolNamed(rest[0])
		rest = rest[1:]
		p.Counter.Port = uint16(number())
		p.Counter.Addr, _ = netip.ParseAddr(strings.ReplaceAll(rest[0], "_", ":"))
		rest = rest[1:]
	}
	if len(rest) > 0 || !p.valid() || p.String() != name {
		return Plan{}, fmt.Errorf("chain %q: %w", name, errNoPlan)
	}
	return p, nil
}

// valid reports whether rules can be made for the plan.
func (p Plan) valid() bool {
	chooses := p.Choice > Drop
	return chooses == (p.Slots > 0) && p.Slots <= insideOffset && p.Sticky <= maxSticky &&
		(chooses || p.Sticky == 0 && p.Masquerade == Never) &&
		!(p.Inside && (p.Split || p.Guarded)) && (p.Choice == RoundRobin) == p.Counter.Addr.IsValid() && p.Counter.Addr.Zone() == ""
}

var protocols = [...]struct {
	name   string
	number store.Protocol
}{{"tcp", store.TCP}, {"udp", store.UDP}, {"sctp", store.SCTP}}

func protocolName(p store.Protocol) string {
	for _, known := range protocols {
		if known.number == p {
			return known.name
		}
	}
	return strconv.Itoa(int(p))
}

func protocolNamed(name string) store.Protocol {
	for _, known := range protocols {
		if known.name == name {
			return known.number
		}
	}
	n, _ := strconv.ParseUint(name, 10, 8)
	return store.Protocol(n)
}

// plansOf returns the plans of a frontend with the given numbers of slots: the one in the map of services, and the one for clients inside of the
// cluster when Split of the first says that there is one.
func plansOf(f *service.Frontend, slots, insideSlots uint32, masqueradeAll bool) (main, inside Plan) {
	main = planOf(f, slots, f.Empty)
	main.Masquerade = masqueradeOf(f, masqueradeAll)
	main.Guarded = f.Allowed != nil
	main.Split = f.Inside != nil
	if main.Split {
		inside = planOf(f, insideSlots, f.Inside.Empty)
		inside.Inside = true
		inside.Masquerade = OffNode
		if f.Masquerade == service.MasqueradeAlways {
			inside.Masquerade = Always
		}
	}
	if len(f.Allowed) == 0 && main.Guarded { // nobody
		main, inside = Plan{Choice: Drop}, Plan{}
	}
	return settle(main), settle(inside)
}

func planOf(f *service.Frontend, slots uint32, empty service.Empty) Plan {
	p := Plan{Slots: slots}
	switch {
	case slots == 0 && empty == service.Drop:
		p.Choice = Drop
	case slots == 0:
		p.Choice = Reject
	default:
		p.Choice = choiceOf(f.Scheduler)
		p.Sticky = uint32(min((f.Affinity+time.Second-1)/time.Second, maxSticky))
	}
	if p.Choice == RoundRobin {
		p.Counter = f.FrontendKey
	}
	return p
}

// settle leaves out what makes no difference where no choice is made.
func settle(p Plan) Plan {
	if p.Choice <= Drop {
		p.Masquerade = Never
	}
	return p
}

func choiceOf(s service.Scheduler) Choice {
	switch s {
	case service.RoundRobin, service.WeightedRR:
		return RoundRobin
	case service.SourceHash:
		return SourceHash
	case service.DestinationHash:
		return DestinationHash
	case service.Maglev:
		return Maglev
	}
	return Random
}

func masqueradeOf(f *service.Frontend, all bool) Masquerade {
	switch {
	case f.Masquerade == service.MasqueradeAlways, all && f.Kind == service.ClusterIP:
		return Always
	case f.Masquerade == service.MasqueradeOffCluster:
		return OffCluster
	}
	return Never
}
