package attachments

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
	"github.com/twill-cni/twill/store"
)

// attached is a complete record.
func attached(id, ifName, pod string, addresses ...string) Record {
	r := Record{Record: attach.Record{Network: "twill", ContainerID: id, IfName: ifName, Pod: pod}, Complete: true}
	for _, a := range addresses {
		r.Addresses = append(r.Addresses, netip.MustParsePrefix(a))
	}
	return r
}

func TestPods(t *testing.T) {
	labelled := attached("c1", "eth0", "shop/web", "10.244.1.2/24", "fd00::2/64")
	labelled.Labels = map[string]string{"app": "web"}
	labelled.Ports = []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}, {Name: "dns", ContainerPort: 53, Protocol: netconf.UDP},
		{Name: "diameter", ContainerPort: 3868, Protocol: netconf.SCTP}}
	other, adding, damaged := attached("c2", "eth0", "a/b", "10.244.1.3/24"), attached("c3", "eth0", "a/c", "10.244.1.4/24"), attached("c4", "eth0", "a/d", "10.244.1.5/24")
	other.Network, adding.Complete, damaged.Damage = "another", false, errors.New("x")
	pod := func(namespace, name string, addrs ...string) *store.Pod {
		p := &store.Pod{Name: store.ObjectName{Namespace: namespace, Name: name}, Node: "n1", Ready: true}
		for _, a := range addrs {
			p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
		}
		return p
	}
	web := pod("shop", "web", "10.244.1.2", "fd00::2")
	web.Labels = labelled.Labels
	web.Ports = []store.PodPort{{Name: "http", Protocol: store.TCP, Port: 8080}, {Name: "dns", Protocol: store.UDP, Port: 53}, {Name: "diameter", Protocol: store.SCTP, Port: 3868}}
	tests := []struct {
		name    string
		records []Record
		want    []*store.Pod
	}{
		{"none", nil, nil},
		{"labels, ports and both families", []Record{labelled}, []*store.Pod{web}},
		{"another network, an ADD that runs, a damaged record, no address", []Record{other, adding, damaged, attached("c", "eth0", "a/b")}, nil},
		{"no name", []Record{attached("c1", "eth0", "", "10.244.1.2/24")}, []*store.Pod{pod("default", "c1", "10.244.1.2")}},
		{"no namespace", []Record{attached("c1", "eth0", "/web", "10.244.1.2/24")}, []*store.Pod{pod("default", "web", "10.244.1.2")}},
		{"no possible name", []Record{attached("c1", "eth0", "a/b/c", "10.244.1.2/24")}, []*store.Pod{pod("a", "c1", "10.244.1.2")}},
		{"several interfaces", []Record{attached("c1", "aaa", "a/b", "10.244.1.9/24"), attached("c1", "eth0", "a/b", "10.244.1.2/24")},
			[]*store.Pod{pod("a", "b", "10.244.1.2")}},
		{"one name twice", []Record{attached("c2", "eth0", "a/b", "10.244.1.3/24"), attached("c1", "eth0", "a/b", "10.244.1.2/24")},
			[]*store.Pod{pod("a", "c1", "10.244.1.2"), pod("a", "c2", "10.244.1.3")}},
		{"several addresses of a family", []Record{attached("c1", "eth0", "a/b", "10.244.1.2/24", "10.244.1.3/24")}, []*store.Pod{pod("a", "b", "10.244.1.2")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have := Pods(test.records, "twill", "n1")
			if diff := cmp.Diff(test.want, have, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards the three, which the feed's goroutine uses too
		var records []Record
		var fail error
		var published [][]*store.Pod
		changed := make(chan struct{}, 1)
		f := &PodFeed{Network: "twill", Node: "n1", Log: slog.New(slog.DiscardHandler),
			Records: func() ([]Record, error) { mu.Lock(); defer mu.Unlock(); return records, fail },
			Publish: func(pods []*store.Pod) { mu.Lock(); defer mu.Unlock(); published = append(published, pods) }}
		set := func(next []Record, err error) { mu.Lock(); defer mu.Unlock(); records, fail = next, err }
		ctx, cancel := context.WithCancel(t.Context())
		set(nil, errors.New("injected"))
		ended := make(chan error)
		go func() { ended <- f.Run(ctx, changed) }()
		expect := func(what string, times, pods int) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(published) != times || times > 0 && len(published[times-1]) != pods {
				t.Fatalf("%s: published %v", what, published)
			}
		}
		expect("records cannot be read", 0, 0)
		set(nil, nil)
		expect("none", 1, 0)
		change := func(next ...Record) { set(next, nil); changed <- struct{}{} }
		one, two := attached("c1", "eth0", "a/b", "10.244.1.2/24"), attached("c2", "eth0", "a/c", "10.244.1.3/24")
		change(one)
		expect("one", 2, 1)
		change(one)
		expect("nothing new", 2, 1)
		change(one, two)
		expect("two", 3, 2)
		broken := two
		broken.Damage, broken.Pod, broken.Addresses = errors.New("x"), "", nil
		change(one, broken)
		expect("damage", 3, 2)
		change(one)
		expect("one is left", 4, 1)
		one.Ports = []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}} // it was attached anew
		change(one)
		expect("a port has a name", 5, 1)
		set(nil, nil)
		time.Sleep(resyncEvery)
		expect("a change that was not told", 6, 0)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
