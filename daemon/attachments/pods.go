package attachments

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Pods returns the pods that complete records of a network tell of, sorted by name. A pod has the name that the runtime gave to it; without one,
// or when several containers have it, as for a moment when a pod's sandbox is made anew, it has its container's id. Of a container with
// several interfaces in the network, eth0 counts. Whether a pod is ready nobody tells a plain host: it is when it is attached.
func Pods(records []Record, network, node string) []*store.Pod {
	records = slices.DeleteFunc(slices.Clone(records), func(r Record) bool {
		return r.Network != network || !r.Complete || r.Damage != nil || len(r.Addresses) == 0
	})
	slices.SortFunc(records, func(a, b Record) int {
		secondary := func(r Record) int {
			if r.IfName == "eth0" {
				return 0
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), secondary(a)-secondary(b), strings.Compare(a.IfName, b.IfName))
	})
	records = slices.CompactFunc(records, func(a, b Record) bool { return a.ContainerID == b.ContainerID })
	count := map[store.ObjectName]int{}
	for _, r := range records {
		count[podName(r)]++
	}
	pods := make([]*store.Pod, 0, len(records))
	for _, r := range records {
		p := &store.Pod{Name: podName(r), Node: node, Labels: r.Labels, Ready: true}
		if count[p.Name] > 1 {
			p.Name.Name = r.ContainerID
		}
		for _, a := range r.Addresses {
			if !slices.ContainsFunc(p.Addrs, func(have netip.Addr) bool { return have.Is4() == a.Addr().Is4() }) {
				p.Addrs = append(p.Addrs, a.Addr())
			}
		}
		for _, port := range r.Ports {
			p.Ports = append(p.Ports, store.PodPort{Name: port.Name, Protocol: store.Protocol(port.Protocol), Port: port.ContainerPort})
		}
		pods = append(pods, p)
	}
	slices.SortFunc(pods, func(a, b *store.Pod) int { return a.Name.Compare(b.Name) })
	return pods
}

// podName is the record's NAMESPACE/NAME. What is no name is replaced.
func podName(r Record) store.ObjectName {
	namespace, name, _ := strings.Cut(r.Pod, "/")
	if name == "" || strings.Contains(name, "/") {
		name = r.ContainerID
	}
	return store.ObjectName{Namespace: cmp.Or(namespace, "default"), Name: name}
}

// PodFeed tells which pods a node has, each time that this is another set.
type PodFeed struct {
	Records       func() ([]Record, error)
	Publish       func(pods []*store.Pod)
	Network, Node string
	Log           *slog.Logger
}

const (
	feedDelay = 10 * time.Millisecond // a burst of ADDs is looked at together
	feedRetry = time.Second
)

// Run looks at the records at first, whenever something comes from changed, and now and then, until ctx ends. While records cannot be read, nothing is
// published; a record that is damaged stands for the pod that it stood for before.
func (f *PodFeed) Run(ctx context.Context, changed <-chan struct{}) error {
	var last []*store.Pod
	known := map[kernel.PodOwner]Record{} // as they were before they were damaged
	published, soon := false, false       // soon: a look is due within feedDelay
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if !soon {
				look.Reset(feedDelay)
			}
			soon = true
			continue
		case <-look.C:
			soon = false
		}
		records, err := f.Records()
		if err != nil {
			f.Log.Warn("the node's pods cannot be listed; trying again", "err", err)
			look.Reset(feedRetry)
			continue
		}
		look.Reset(resyncEvery)
		pods := Pods(mended(records, known), f.Network, f.Node)
		if published && slices.EqualFunc(last, pods, (*store.Pod).Equal) {
			continue
		}
		last, published = pods, true
		f.Publish(pods)
	}
}

// mended puts what is known of them in the place of damaged records, and keeps known up to date.
func mended(records []Record, known map[kernel.PodOwner]Record) []Record {
	there := map[kernel.PodOwner]bool{}
	out := make([]Record, 0, len(records))
	for _, r := range records {
		there[r.Owner()] = true
		if before, ok := known[r.Owner()]; r.Damage != nil && ok && r.Complete {
			r = before
		} else if r.Damage == nil {
			known[r.Owner()] = r
		}
		out = append(out, r)
	}
	for owner := range known {
		if !there[owner] {
			delete(known, owner)
		}
	}
	return out
}
