package attachments

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

// Pods are told of what was done for them, once, if they have names.
func TestTell(t *testing.T) {
	a := store.PodRef{Namespace: "shop", Name: "a", UID: "1"}
	tests := map[string]struct {
		injure func(*node, *Keeper)
		want   []store.Event
	}{
		"nothing": {func(*node, *Keeper) {}, nil},
		"a link": {func(n *node, k *Keeper) {
			for _, id := range []string{"a", "b"} {
				l := n.links["veth-"+id]
				l.Up = false
				n.links["veth-"+id] = l
				k.Observe(kernel.Event{Kind: kernel.KindLink, Link: l.Name, Pod: true})
			}
		}, []store.Event{{Pod: a, Reason: reasonLink, Message: "The host's end of the pod's network link, veth-a, was down; Twill set it up again"}}},
		"host ports": {func(n *node, k *Keeper) {
			clear(n.table)
			k.Observe(tableChanged)
		}, []store.Event{{Pod: a, Reason: reasonPorts, Message: "The pod's host ports were not all in nftables; Twill put them back"}}},
		"a conflict": {func(n *node, k *Keeper) {
			r := n.add("c", "10.5.1.4/24")
			r.PortMappings, r.Pod, r.PodUID = n.records[owner("a")].PortMappings, "shop/c", "3"
			n.records[owner("c")] = r
			n.table = n.table.With(podOf(r).Own())
			k.Resync()
			n.settle(time.Minute)
			k.Resync()
		}, []store.Event{
			{Pod: store.PodRef{Namespace: "shop", Name: "c", UID: "3"}, Warning: true, Reason: reasonConflict,
				Message: "Another pod of this node has tcp * port 8080 and keeps it; this pod is not reached there"},
		}},
		"a dead pod": {func(n *node, k *Keeper) {
			n.vanish("a")
			n.vanish("b")
			k.Observe(gone("veth-a"))
		}, []store.Event{{Pod: a, Reason: reasonReleased, Message: "The pod's network namespace is gone, and no CNI DEL came; Twill released what was left of it"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode()
				r := n.add("a", "10.5.1.2/24", 8080)
				r.Pod, r.PodUID = "shop/a", "1"
				n.records[owner("a")] = r
				n.add("b", "10.5.1.3/24", 8081) // has no name
				k := run(t, n)
				tt.injure(n, k)
				n.settle(3 * delay)
				if diff := cmp.Diff(tt.want, n.told); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
