package trace

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/kernel/path"
)

// State is how a hop is.
type State string

// The states.
const (
	OK         State = "ok"
	Failed     State = "failed"
	Suspicious State = "suspicious"
	NotLooked  State = "not looked at"
)

// The things that a packet meets.
const (
	Pod        = "pod"
	Veth       = "veth"
	Bridge     = "bridge"
	Forwarding = "forwarding"
	Filter     = "filter" // nftables of others
	Service    = "service"
	Policy     = "policy"
	Uplink     = "uplink"
	Overlay    = "overlay" // the VXLAN device
	Route      = "route"
	Neighbour  = "neighbour"
	FDB        = "fdb"
	Underlay   = "underlay" // the way to the other node
	MTU        = "mtu"
	RPFilter   = "rp_filter"
	Arrival    = "arrival" // the route at the end's node
	Probe      = "probe"
)

// Hop is one thing on the way.
type Hop struct {
	Node   string `json:"node"`
	What   string `json:"what"`
	Reply  bool   `json:"reply,omitempty"` // on the way back
	State  State  `json:"state"`
	Holds  string `json:"holds"` // what the kernel holds
	Reason string `json:"reason,omitempty"`
	Mend   string `json:"mend,omitempty"`
}

// Result is what became of a Case.
type Result struct {
	From    End    `json:"from"`
	To      End    `json:"to"`
	Service string `json:"service,omitempty"` // what was asked for, when the way leads through a Service
	Hops    []Hop  `json:"hops"`
	Failure *Hop   `json:"failure,omitempty"` // the first that fails, or the cause that is likely; nil: nothing
}

// End is an end of the way.
type End struct {
	Pod     string     `json:"pod,omitempty"`
	Node    string     `json:"node,omitempty"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitempty"`
}

func (e End) String() string {
	address := e.Address.String()
	if e.Port != 0 {
		address = netip.AddrPortFrom(e.Address, e.Port).String()
	}
	if e.Pod == "" {
		return address
	}
	return fmt.Sprintf("%s (%s, %s)", e.Pod, address, e.Node)
}

// Outcome is that of a probe; see ctl/probe.
type Outcome struct {
	Asked    bool
	Answered bool
	Detail   string
	Size     int // bytes of the packet
}

// Case is what is known of a way.
type Case struct {
	From, To       End
	Source, Target *path.View // nil: not looked at
	Unlooked       string     // why Target is nil
	Service        *Hop       // what the Service's frontend leads to; nil: the way leads through none
	ServiceName    string
	Egress         *Hop // what policies say; nil: they are off, or could not be asked
	Ingress        *Hop
	Probe, Large   Outcome
}

// judge collects hops.
type judge struct {
	Case
	node  string
	reply bool
	hops  []Hop
}

func (j *judge) add(what string, state State, holds, reason, mend string) {
	j.hops = append(j.hops, Hop{Node: j.node, What: what, Reply: j.reply, State: state, Holds: holds, Reason: reason, Mend: mend})
}

// check adds a hop that is ok when there is no reason against it.
func (j *judge) check(what, holds string, reason, mend string) {
	if reason == "" {
		j.add(what, OK, holds, "", "")
		return
	}
	j.add(what, Failed, holds, reason, mend)
}

// Judge goes the way from end to end and back.
func Judge(c Case) Result {
	j := &judge{Case: c, node: c.From.Node}
	if c.Source != nil {
		j.start(c.Source)
	}
	if c.Service != nil {
		j.hops = append(j.hops, *c.Service)
	}
	if c.To.Address.IsValid() {
		j.through()
	}
	j.probed()
	return Result{From: c.From, To: c.To, Service: c.ServiceName, Hops: j.hops, Failure: j.failure()}
}

// through goes on to the target.
func (j *judge) through() {
	s, t := j.Source, j.Target
	local := j.From.Node == j.To.Node && t != nil && s != nil
	if s != nil && !local {
		j.forwarding(s)
	}
	j.policy(j.Egress)
	if s != nil && !local {
		j.leave(s, t, j.To)
	}
	j.node = j.To.Node
	switch {
	case t == nil && j.To.Pod != "":
		j.add(Pod, NotLooked, j.To.Node, j.Unlooked, "")
		return
	case t == nil:
		return
	}
	if s == nil || local {
		j.policy(j.Ingress)
		j.arrive(t)
		return
	}
	j.links(t)
	j.forwarding(t)
	j.arrival(t, s)
	j.policy(j.Ingress)
	j.arrive(t)
	j.reply = true
	j.leave(t, s, j.From)
	j.node = j.From.Node
	j.arrival(s, t)
}

// policy adds what policies say.
func (j *judge) policy(h *Hop) {
	if h != nil {
		j.hops = append(j.hops, *h)
	}
}

// probed adds what the probes said.
func (j *judge) probed() {
	j.node, j.reply = j.From.Node, false
	for _, p := range []Outcome{j.Probe, j.Large} {
		switch {
		case p.Asked && p.Answered:
			j.add(Probe, OK, p.Detail, "", "")
		case p.Asked && p.Size > 0:
			j.add(MTU, Failed, p.Detail, fmt.Sprintf("packets of %d bytes get no answer, small ones do: a link on the way has a smaller MTU, and nobody tells", p.Size),
				"compare the MTUs of all links on the way, also of switches between the nodes (ping -M do -s SIZE), and give twilld the smallest")
		case p.Asked:
			j.add(Probe, Failed, p.Detail, "no answer came", "look at what lies between the nodes, and at nftables, tc and XDP of both (nft list ruleset, tc filter show)")
		case p.Detail != "":
			j.add(Probe, NotLooked, p.Detail, "", "")
		}
	}
}

// failure is the first hop that failed; when that is the probe, a suspicious one before it is what it failed at.
func (j *judge) failure() *Hop {
	var suspect *Hop
	for i := range j.hops {
		h := &j.hops[i]
		switch {
		case h.State == Suspicious && suspect == nil:
			suspect = h
		case h.State == Failed && h.What == Probe && suspect != nil:
			return suspect
		case h.State == Failed:
			return h
		}
	}
	return nil
}

func words(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, ", ")
}
