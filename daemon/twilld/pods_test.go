//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/record"
)

// podRecords returns the keys of the pods that are published, with the revision of each.
func (c *cluster) podRecords() map[string]int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := c.client.Get(ctx, "/coreos.com/network/registry/pods/", clientv3.WithPrefix())
	must(c.t, err)
	out := map[string]int64{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key[len("/coreos.com/network/registry/pods/"):])+" "+string(kv.Value)] = kv.ModRevision
	}
	return out
}

// The pods whose records are complete are in etcd, with their labels; a restart writes nothing, and what went meanwhile is taken out.
func TestPodsArePublished(t *testing.T) {
	c := newCluster(t, dualNetwork)
	n := c.addNode()
	n.start()
	n.eventuallyReady()
	store := record.Open(n.file("run"), "twill")
	attachPod := func(i int) attach.Record {
		t.Helper()
		// The namespace is this process's own, which lives, so that nobody takes the pod for dead.
		r := attach.Record{Network: "twill", ContainerID: fmt.Sprint("c", i), IfName: "eth0", Netns: fmt.Sprintf("/proc/%d/ns/net", os.Getpid()),
			Pod: fmt.Sprint("shop/web-", i), Labels: map[string]string{"app": "web"}, Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.99.0.%d/24", i))}}
		entry, err := store.Begin(r)
		must(t, err)
		defer entry.Close()
		must(t, entry.Commit())
		return r
	}
	key := func(i int) string {
		return fmt.Sprintf(`node1/shop/web-%d {"addresses":["10.99.0.%d"],"labels":{"app":"web"},"ready":true}`, i, i)
	}
	expect := func(want ...int) map[string]int64 {
		t.Helper()
		var have map[string]int64
		c.eventually("the published pods", func() string {
			have = c.podRecords()
			for _, i := range want {
				if have[key(i)] == 0 {
					return fmt.Sprintf("have %v, want %s", have, key(i))
				}
			}
			if len(have) != len(want) {
				return fmt.Sprintf("have %v, want %d", have, len(want))
			}
			return ""
		})
		return have
	}
	one, two := attachPod(1), attachPod(2)
	before := expect(1, 2)
	must(t, store.Remove(two.Owner()))
	expect(1)
	n.kill()
	attachPod(3)
	n.start()
	if after := expect(1, 3); after[key(1)] != before[key(1)] {
		t.Error("a restart wrote a record that was right")
	}
	must(t, n.signal(syscall.SIGTERM))
	must(t, store.Remove(one.Owner()))
	n.start()
	expect(3)
}
