package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// chance is a Service as it is at one time.
type chance struct {
	there                        bool
	internalLocal, externalLocal bool
	endpoints                    map[string]string // pod -> state, as slice.endpoints has it
	port                         int               // of all endpoints
	split                        bool              // over two slices
}

// randomChanges makes random changes of some Services, and after each asks who answers, and whether it is who should. In the end, the kernel holds
// what a daemon makes that has never known anything else.
func randomChanges(t *testing.T, r *rig, _ variables) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const services, rounds = 6, 10
	first := 100
	state := make([]chance, services)
	for i := range state {
		must(t, r.Apply(t.Context(), r.vars(t, first+i).expand(t, "{apiVersion: v1, kind: Namespace, metadata: {name: $ns}}", "")))
	}
	for round := range rounds {
		for i := range state {
			if round > 0 && random.IntN(2) == 0 {
				continue
			}
			state[i].mutate(random)
			r.realize(t, r.vars(t, first+i), state[i])
		}
		r.barrier(t)
		var group sync.WaitGroup
		for i, c := range state {
			group.Go(func() { r.want(t, r.vars(t, first+i), c.probes()...) })
		}
		group.Wait()
		if t.Failed() {
			t.Fatalf("round %d: the Services are %+v", round+1, state)
		}
	}
	for _, name := range nodeNames {
		n := r.machines[name].node
		was := settled(t, n)
		must(t, n.StopDaemon(t.Context()))
		sh(t, n.Netns(), "nft delete table ip twill-proxy; nft delete table ip6 twill-proxy")
		must(t, n.StartDaemon())
		must(t, n.Ready(t.Context()))
		if now := contents(t, n); now != was {
			t.Errorf("the tables of %s have a history:\n%s", name, differing(now, was))
		}
	}
}

// mutate changes one thing or another.
func (c *chance) mutate(random *rand.Rand) {
	c.there = random.IntN(6) > 0
	switch random.IntN(4) {
	case 0:
		c.internalLocal = !c.internalLocal
	case 1:
		c.externalLocal = !c.externalLocal
	case 2:
		c.split = !c.split
	}
	c.port = 8080
	if random.IntN(4) == 0 {
		c.port = 9090
	}
	c.endpoints = map[string]string{}
	for _, pod := range []string{"a", "b", "c", "d"} {
		if random.IntN(3) > 0 {
			c.endpoints[pod] = []string{"", "", "", "/draining", "/gone", "/unready"}[random.IntN(6)]
		}
	}
}

// realize makes the API server have it.
func (r *rig) realize(t *testing.T, v variables, c chance) {
	t.Helper()
	var one, two []string
	for i, pod := range slices.Sorted(maps.Keys(c.endpoints)) {
		if e := pod + c.endpoints[pod]; c.split && i%2 == 1 {
			two = append(two, e)
		} else {
			one = append(one, e)
		}
	}
	ports := fmt.Sprintf("{port: %d}", c.port)
	text := slice{name: "one", ports: ports, endpoints: strings.Join(one, " ")}.yaml() + slice{name: "two", ports: ports, endpoints: strings.Join(two, " ")}.yaml()
	policy := func(local bool) string { return map[bool]string{true: "Local", false: "Cluster"}[local] }
	svc := web("type: NodePort, internalTrafficPolicy: "+policy(c.internalLocal), "externalTrafficPolicy: "+policy(c.externalLocal))
	if c.there {
		text += svc
	} else {
		must(t, r.Delete(t.Context(), v.expand(t, svc, "")))
	}
	must(t, r.Apply(t.Context(), v.expand(t, text, "")))
}

// probes returns what should be.
func (c *chance) probes() []probe {
	if !c.there {
		return []probe{{"a", "tcp $vip:80", dropped}, {"out1", "tcp $node1:$np", refused}}
	}
	here := map[string]string{"a": "node1", "b": "node1", "c": "node2", "d": "node2"}
	// pick returns those who answer on a node ("": on any), or what happens otherwise.
	pick := func(node, client string) string {
		var ready, draining, all []string
		for pod, state := range c.endpoints {
			if state == "" || state == "/draining" {
				all = append(all, pod)
			}
			if node != "" && here[pod] != node {
				continue
			}
			name := answerOf(pod, uint16(c.port))
			if client == "*" || client == pod {
				name += "~"
			}
			switch state {
			case "":
				ready = append(ready, name)
			case "/draining":
				draining = append(draining, name)
			}
		}
		if len(ready) == 0 {
			ready = draining
		}
		switch {
		case len(all) == 0:
			return refused
		case len(ready) == 0:
			return dropped
		}
		slices.Sort(ready)
		return strings.Join(ready, " ")
	}
	internal := func(node string) string {
		if c.internalLocal {
			return node
		}
		return ""
	}
	external, masqueraded := "", "*"
	if c.externalLocal {
		external, masqueraded = "node1", ""
	}
	return []probe{
		{"a", "tcp $vip:80", pick(internal("node1"), "a")}, {"d", "tcp $vip:80", pick(internal("node2"), "d")},
		{"node1", "tcp $vip:80", pick(internal("node1"), "*")}, {"out1", "tcp $node1:$np", pick(external, masqueraded)},
	}
}
