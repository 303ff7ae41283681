package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// oneAddress is the node's conflist with ranges of a single address of each family, which do not rest between two pods.
func oneAddress(t *testing.T, list []byte, addrs []netip.Addr) []byte {
	t.Helper()
	var doc map[string]any
	must(t, json.Unmarshal(list, &doc))
	for _, plugin := range doc["plugins"].([]any) {
		ipam, ok := plugin.(map[string]any)["ipam"].(map[string]any)
		if !ok {
			continue
		}
		ipam["quarantine"] = 0
		for i, set := range ipam["ranges"].([]any) {
			r := set.([]any)[0].(map[string]any)
			r["rangeStart"], r["rangeEnd"] = addrs[i].String(), addrs[i].String()
		}
	}
	text, err := json.Marshal(doc)
	must(t, err)
	return text
}

// TestReuse gives the same address to pods in turn of which one may do what the next one may not.
func TestReuse(t *testing.T) {
	t.Parallel()
	total := 1000
	if testing.Short() {
		total = 50
	}
	s := newStarts(t)
	list, err := s.node.ConfList()
	must(t, err)
	own := podAddrs(1, 99)
	list = oneAddress(t, list, own)
	// On both nodes, there are pods that hear nobody but those with app=free.
	fromFree := labelled("app", "free")
	guard := &store.NetworkPolicy{Name: store.ObjectName{Namespace: "z", Name: "guard"}, IsolatesIngress: true,
		Ingress: []store.PolicyRule{{Peers: []store.PolicyPeer{{Namespaces: &store.Selector{}, Pods: &fromFree}}}}}
	var guards []*ear
	for _, p := range s.rig.addPods(t, modelPods(2)[4:]) {
		guards = append(guards, newEar(t, p.name, p.ns, p.record.Addrs))
	}
	s.rig.apply(t, changesOf(policytest.Namespaces(), closes(named("x", "locked", "locked"), false, true), guard))
	open := append(guards, s.ears...)
	s.ears = open

	heard := func(name string) error { // a pod that may is heard, soon after its ADD
		begin := time.Now()
		for _, e := range open {
			for e.from(name) == 0 {
				if time.Since(begin) > patience {
					return fmt.Errorf("nothing of %s has reached %s", name, e.name)
				}
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	}
	late := 0
	for i := 0; i < total && !t.Failed(); i++ {
		app := []string{"free", "locked", "free", "stranger"}[i%4]
		then := heard
		if app != "free" {
			then = nil
		}
		name, err := s.start(t, app, list, then)
		if err != nil {
			t.Error(err)
		}
		switch app {
		case "locked":
			for _, e := range open {
				if n := e.from(name); n > 0 {
					t.Errorf("%d datagrams of %s reached %s", n, name, e.name)
				}
			}
		case "stranger":
			if n := guards[0].from(name); n > 0 {
				t.Errorf("%d datagrams of %s reached %s, which is on the same node and hears app=free alone", n, name, guards[0].name)
			}
			if guards[1].from(name) > 0 {
				late++
			}
		}
	}
	if late > 0 {
		t.Errorf("%d of %d strangers were heard by %s, on another node: it took them for the last pod that had the address", late, total/4, guards[1].name)
	}
	if s.early.Load()*10 < s.count.Load()*9 {
		t.Error(errors.New("too few pods had tried to send before they had an address"))
	}
}
