package attachments

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/store"
)

var errUnrecorded = errors.New("a pod has no record")

// portPlan is what the table of host ports should hold.
type portPlan struct {
	want     hostport.Elements
	restored int            // elements of complete records that were missing
	removed  int            // elements that belong to no record
	udp      []hostport.Pod // pods that got ports back
	localnet []string       // bridges of pods with ports for IPv4
	waiting  bool           // an ADD runs that has added its ports, or is going to
	disputed []string       // ports that two complete records claim
	mended   []Record       // whose elements were missing
	rivals   []rival
}

// rival is a pod that does not get host ports which another one has.
type rival struct {
	Record
	ports []string
}

// planPorts decides which elements stay, come and go. bridges are guarded whether or not a record names them.
func planPorts(have hostport.Elements, records []Record, bridges []string) portPlan {
	p := portPlan{want: hostport.Elements{}}
	claims, whole := claimsOf(records)
	holds := map[string]string{} // what the table is going to hold, key -> value
	shared := hostport.Pod{}.Shared()
	for set, elements := range have {
		_, forGood := shared[set]
		for _, e := range elements {
			key, value := keyOf(set, e), valueOf(e)
			if !forGood && whole && !claims[key+value] {
				p.removed++
				continue
			}
			holds[key] = value
			p.want[set] = append(p.want[set], e)
		}
	}
	add := func(elements hostport.Elements) (added bool) {
		for set, list := range elements {
			for _, e := range list {
				value, there := holds[keyOf(set, e)]
				if there && value != valueOf(e) {
					p.disputed = append(p.disputed, hostport.Describe(e))
				}
				if !there {
					holds[keyOf(set, e)] = valueOf(e)
					p.want[set] = append(p.want[set], e)
					p.restored++
					added = true
				}
			}
		}
		return added
	}
	for _, r := range records {
		pod := podOf(r)
		elements, err := pod.Ports()
		if err != nil || len(elements) == 0 {
			continue // without mappings, or without addresses yet
		}
		if !r.Complete {
			p.waiting = p.waiting || r.Adding
			continue
		}
		disputed := len(p.disputed)
		if add(elements.With(pod.Own()).With(pod.Shared())) {
			p.udp = append(p.udp, pod)
			p.mended = append(p.mended, r)
		}
		if ports := slices.Clone(p.disputed[disputed:]); len(ports) > 0 {
			slices.Sort(ports)
			p.rivals = append(p.rivals, rival{r, slices.Compact(ports)}) // a port is in several maps
		}
		if pod.HasIPv4() && !slices.Contains(p.localnet, pod.Bridge) {
			p.localnet = append(p.localnet, pod.Bridge)
		}
	}
	for _, bridge := range bridges {
		add(hostport.Pod{Bridge: bridge}.Shared())
	}
	if len(p.want) == 0 && p.removed == 0 {
		p.want = nil
	}
	return p
}

func podOf(r Record) hostport.Pod {
	return hostport.Pod{Bridge: r.Bridge, Mappings: r.PortMappings, Addresses: r.Addresses}
}

// claimsOf returns the elements that any record asks for. It is not whole when a record cannot be read.
func claimsOf(records []Record) (claims map[string]bool, whole bool) {
	claims, whole = map[string]bool{}, true
	for _, r := range records {
		whole = whole && r.Damage == nil
		pod := podOf(r)
		elements, err := pod.Ports()
		if err != nil {
			continue
		}
		for set, list := range elements.With(pod.Own()) {
			for _, e := range list {
				claims[keyOf(set, e)+valueOf(e)] = true
			}
		}
	}
	return claims, whole
}

func keyOf(set string, e kernel.Element) string { return set + " " + datumText(e.Key) }

func valueOf(e kernel.Element) string { return " : " + datumText(e.Value) }

// datumText tells data of one set apart.
func datumText(data []kernel.Datum) string {
	var s strings.Builder
	for _, d := range data {
		switch {
		case d.Addr.IsValid():
			fmt.Fprint(&s, d.Addr, ".")
		case d.Name != "":
			fmt.Fprint(&s, d.Name, ".")
		default:
			fmt.Fprint(&s, d.Number, ".")
		}
	}
	return s.String()
}

// keepPorts makes the table of host ports hold what the records say. It returns after which time to look again.
func (k *Keeper) keepPorts(ctx context.Context) time.Duration {
	guarded, err := k.guarded()
	if err != nil {
		k.complain("host ports", err)
		return retryDelay
	}
	var p portPlan
	changed, err := k.opts.Host.RevisePorts(ctx, func(have hostport.Elements) (hostport.Elements, error) {
		records, err := k.opts.Host.Records() // after the elements: see the package comment
		if err != nil {
			return nil, err
		}
		slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Owner().String(), b.Owner().String()) })
		p, err = k.plan(have, records, guarded)
		return p.want, err
	})
	if ctx.Err() != nil {
		return never
	}
	k.complain("host ports", err)
	if err != nil {
		return retryDelay
	}
	for _, bridge := range p.localnet {
		k.localnet[bridge] = true
	}
	k.keepLocalnet() // the guard is in place now
	if changed {
		k.opts.Observer.PortsRepaired(max(p.restored+p.removed, 1))
		k.opts.Log.Info("host ports repaired", "restored", p.restored, "removed", p.removed)
	}
	for _, r := range p.mended {
		k.tell(refOf(r.Pod, r.PodUID), store.Event{Reason: reasonPorts, Message: "The pod's host ports were not all in nftables; Twill put them back"})
	}
	for _, pod := range p.udp {
		if err := k.opts.Host.FlushUDP(ctx, pod); err != nil {
			k.opts.Log.Warn("UDP flows may go on past a host port", "err", err)
		}
	}
	k.complainOfDispute(p)
	if changed || p.waiting {
		return portsAgain
	}
	return never
}

// plan is planPorts with the knowledge of links: while there is a pod without a record, an element that no record asks for may be its.
func (k *Keeper) plan(have hostport.Elements, records []Record, guarded []string) (portPlan, error) {
	p := planPorts(have, records, guarded)
	if p.removed == 0 {
		return p, nil
	}
	links, err := k.opts.Host.PodLinks()
	if err == nil && len(scene{records: records, links: links}.strangers()) > 0 {
		unknown := Record{Damage: errUnrecorded}
		p = planPorts(have, append(records, unknown), guarded)
	}
	return p, err
}

// complainOfDispute tells of a dispute when it begins or becomes another one: in the log, and the pods that lose it.
func (k *Keeper) complainOfDispute(p portPlan) {
	const task = "disputed host ports"
	slices.Sort(p.disputed)
	var err error
	if len(p.disputed) > 0 {
		err = fmt.Errorf("two pods want %s: the one that has it keeps it", strings.Join(p.disputed, ", "))
	}
	if err != nil && err.Error() != k.complaints[task] {
		for _, r := range p.rivals {
			k.tell(refOf(r.Pod, r.PodUID), store.Event{Warning: true, Reason: reasonConflict,
				Message: "Another pod of this node has " + strings.Join(r.ports, ", ") + " and keeps it; this pod is not reached there"})
		}
	}
	k.complain(task, err)
}

// guarded returns the bridges on which pods could reach the node's loopback addresses but for the guard.
func (k *Keeper) guarded() ([]string, error) {
	on, err := k.opts.Host.Localnet(k.opts.Bridge)
	if err != nil || !on {
		return nil, err
	}
	return []string{k.opts.Bridge}, nil
}

// keepLocalnet sets route_localnet on bridges that were made again since a guarded host port needed it.
func (k *Keeper) keepLocalnet() {
	for bridge := range k.localnet {
		k.complain("localhost by way of "+bridge, k.opts.Host.AllowLocalnet(bridge))
	}
}
