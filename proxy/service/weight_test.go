package service_test

import (
	"testing"
	"time"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

func weights(w map[string]uint32) func(*store.Service) {
	return func(s *store.Service) { s.Weights = w }
}

func scheduler(name string) func(*store.Service) {
	return func(s *store.Service) { s.Scheduler = name }
}

func TestSchedulers(t *testing.T) {
	one := sliceList{pods("10.244.1.5")}
	affinity := func(s *store.Service) { s.AffinityTimeout = time.Hour }
	runAll(t, []resolution{
		{
			name: "chosen", svc: web(scheduler("lc")), slices: one,
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster; lc"},
		},
		{
			name: "the node's", svc: web(), slices: one, node: func(n *service.Node) { n.Scheduler = service.Maglev },
			want: []string{"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster; mh"},
		},
		{
			name: "unknown", svc: web(scheduler("fastest")), slices: one, node: func(n *service.Node) { n.Scheduler = service.Maglev },
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster; mh",
				`warning: scheduler "fastest" is unknown, mh is used: choose one of random, rr, wrr, sh, dh, mh, lc, sed, nq`,
			},
		},
		{
			name: "hash with session affinity", svc: web(scheduler("mh"), affinity), slices: one,
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.1.5:8080@; masquerade off-cluster; affinity 1h0m0s; mh",
				"warning: session affinity goes before scheduler mh: " +
					"a client stays with its endpoint on one node, but nodes need not agree on it any more",
			},
		},
	})
}

func TestWeights(t *testing.T) {
	three := sliceList{pods("10.244.1.5", "10.244.2.5", "10.244.3.5")}
	clusterIP := func(endpoints string, warnings ...string) []string {
		lines := []string{"ClusterIP TCP 10.96.0.7:80: " + endpoints + "; masquerade off-cluster"}
		for _, w := range warnings {
			lines = append(lines, "warning: "+w)
		}
		return lines
	}
	runAll(t, []resolution{
		{
			name: "by address", svc: web(weights(map[string]uint32{"10.244.2.5": 3})), slices: three,
			want: clusterIP("10.244.1.5:8080@ 10.244.2.5:8080*3 10.244.3.5:8080"),
		},
		{
			name: "address before node before zone", svc: web(weights(map[string]uint32{"zone-1": 2, "node-b": 3, "10.244.2.6": 4})),
			slices: sliceList{pods("10.244.1.5", "10.244.2.5", "10.244.2.6", "10.244.3.5")},
			want:   clusterIP("10.244.1.5:8080@*2 10.244.2.5:8080*3 10.244.2.6:8080*4 10.244.3.5:8080"),
		},
		{
			name: "0 takes no new connections", svc: web(weights(map[string]uint32{"node-b": 0})), slices: three,
			want: clusterIP("10.244.1.5:8080@ 10.244.3.5:8080"),
		},
		{
			name: "0 on all ready ones leaves those that drain", svc: web(weights(map[string]uint32{"node-b": 0})),
			slices: sliceList{pods("10.244.1.5 draining", "10.244.2.5")},
			want:   clusterIP("10.244.1.5:8080@"),
		},
		{
			name: "0 in our zone leaves the others", svc: web(weights(map[string]uint32{"zone-1": 0})),
			slices: sliceList{pods("10.244.1.5 zones=zone-1", "10.244.2.5 zones=zone-1", "10.244.3.5 zones=zone-2")},
			want:   clusterIP("10.244.3.5:8080"),
		},
		{
			name: "0 on all", svc: web(weights(map[string]uint32{"zone-1": 0, "zone-2": 0})), slices: three,
			want: clusterIP("reject", `port "http": all IPv4 endpoints weigh 0, so nobody answers`),
		},
		{
			name: "0 on the local one with Local", svc: web(internalLocal, weights(map[string]uint32{"node-a": 0})), slices: three,
			want: clusterIP("drop"),
		},
		{
			name: "too large", svc: web(weights(map[string]uint32{"node-b": 1 << 20})), slices: three,
			want: clusterIP("10.244.1.5:8080@ 10.244.2.5:8080*65535 10.244.3.5:8080",
				"weight 1048576 of node-b is more than 65535, which is used"),
		},
		{
			name: "nobody's", svc: web(weights(map[string]uint32{"node-x": 2, "10.244.9.9": 2})), slices: three,
			want: clusterIP("10.244.1.5:8080@ 10.244.2.5:8080 10.244.3.5:8080",
				"weight of 10.244.9.9 has no effect now: no endpoint has that address, node or zone",
				"weight of node-x has no effect now: no endpoint has that address, node or zone"),
		},
		{
			name: "nobody's, as there is nobody", svc: web(weights(map[string]uint32{"node-x": 2})), slices: sliceList{pods()},
			want: clusterIP("reject"),
		},
		{
			name: "an address written at length", svc: web(weights(map[string]uint32{"fd00:0001::5": 2})),
			slices: sliceList{pods("10.244.1.5"), podsIn("web-2", "fd00:1::5")},
			want:   clusterIP("10.244.1.5:8080@", "weight of fd00:0001::5 has no effect: the address is written fd00:1::5"),
		},
		{
			name: "a scheduler without weights", svc: web(scheduler("rr"), weights(map[string]uint32{"node-a": 0, "node-b": 3})), slices: three,
			want: []string{
				"ClusterIP TCP 10.96.0.7:80: 10.244.2.5:8080 10.244.3.5:8080; masquerade off-cluster; rr",
				"warning: scheduler rr takes no weights: only 0 has an effect",
			},
		},
	})
}
