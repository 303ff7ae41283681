package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-cni/twill/ctl/lab"
)

// recovery is how soon after a fault is over everything must be as it should.
const recovery = 5 * time.Second

const subnetsKey = lab.EtcdPrefix + "/subnets/"

func etcdClient(t *testing.T, l *lab.Lab) *clientv3.Client {
	t.Helper()
	client, err := l.Etcd().Client()
	must(t, err)
	return client
}

func put(t *testing.T, l *lab.Lab, key, value string) {
	t.Helper()
	_, err := etcdClient(t, l).Put(t.Context(), key, value)
	must(t, err)
}

func del(t *testing.T, l *lab.Lab, key string, options ...clientv3.OpOption) {
	t.Helper()
	_, err := etcdClient(t, l).Delete(t.Context(), key, options...)
	must(t, err)
}

// storedLeases returns the keys and values of the stored leases.
func storedLeases(ctx context.Context, l *lab.Lab) (map[string]string, error) {
	client, err := l.Etcd().Client()
	if err != nil {
		return nil, err
	}
	answer, err := client.Get(ctx, subnetsKey, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, kv := range answer.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all, nil
}

// leaseKey returns the key of the node's lease.
func leaseKey(t *testing.T, l *lab.Lab, n *lab.Node) string {
	t.Helper()
	all, err := storedLeases(t.Context(), l)
	must(t, err)
	for key, value := range all {
		if strings.Contains(value, `"`+n.Addrs()[0].String()+`"`) {
			return key
		}
	}
	t.Fatalf("no lease of %s in %v", n.Name, all)
	panic("unreachable")
}

// peerValue is the lease of a node that does not exist.
func peerValue(publicIP string) string {
	return fmt.Sprintf(`{"PublicIP":%q,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:0a:01"}}`, publicIP)
}

func hasRoute(t *testing.T, n *lab.Node, subnet string, want bool) func() error {
	return func() error {
		routes, err := trySh(t.Context(), n.Netns(), "ip route show proto 84; ip -6 route show proto 84")
		if err == nil && strings.Contains(routes, subnet) != want {
			err = fmt.Errorf("route to %s on %s: want %t, have:\n%s", subnet, n.Name, want, routes)
		}
		return err
	}
}

// unready waits until the node says that it is not ready, with a reason that holds the word.
func unready(t *testing.T, n *lab.Node, limit time.Duration, word string) time.Duration {
	t.Helper()
	return within(t, limit, func() error {
		err := ready(t, n)
		if err == nil || !strings.Contains(err.Error(), word) {
			return fmt.Errorf("readyz of %s says %v, want %q", n.Name, err, word)
		}
		return nil
	})
}

// A daemon that starts while etcd is down leaves what its predecessor programmed, and converges when etcd is back.
func TestEtcdDownAtStart(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	node, pods := l.Nodes()[0], l.Pods()
	stream := startLoad(t, pods[0], addr(t, pods[1], false), 5*time.Millisecond)
	back := startLoad(t, pods[2], addr(t, pods[0], false), 5*time.Millisecond)
	must(t, node.KillDaemon(t.Context()))
	// What the cluster looks like after the outage is not what it was before.
	del(t, l, leaseKey(t, l, l.Nodes()[2]))
	put(t, l, subnetsKey+"10.244.250.0-24", peerValue("172.30.9.1"))
	before := programmed(t, node)
	must(t, l.Etcd().Stop(t.Context()))
	must(t, node.StartDaemon())
	unready(t, node, enough, "waiting for")
	holds(t, 2*time.Second, func() error {
		if now := programmed(t, node); now != before {
			return errors.New(difference(before, now))
		}
		if ready(t, node) == nil {
			return errors.New("it says that it is ready")
		}
		return nil
	})
	must(t, l.Etcd().Start(t.Context()))
	took := within(t, recovery, func() error { return errors.Join(ready(t, node), hasRoute(t, node, "10.244.250.0/24", true)()) })
	t.Logf("converged %v after etcd was back", took)
	stream.endWhole(t)
	if s := back.end(t); s.Gap > recovery {
		t.Errorf("the node whose lease was deleted was away for %v", s.Gap)
	}
	within(t, recovery, func() error { return echo(t.Context(), pods[0].Netns(), addr(t, pods[2], false), 0) })
	wantMatrix(t, l)
}

// An outage costs no packet; the nodes say that something is wrong, and that it is over. A silent datastore is an outage too.
func TestEtcdOutage(t *testing.T) {
	tests := []struct {
		name       string
		begin, end func(t *testing.T, e *lab.Etcd) error
	}{
		{"stopped", func(t *testing.T, e *lab.Etcd) error { return e.Stop(t.Context()) }, func(t *testing.T, e *lab.Etcd) error { return e.Start(t.Context()) }},
		{"killed", func(t *testing.T, e *lab.Etcd) error { return e.Kill(t.Context()) }, func(t *testing.T, e *lab.Etcd) error { return e.Start(t.Context()) }},
		{"silent", func(_ *testing.T, e *lab.Etcd) error { return e.Pause() }, func(_ *testing.T, e *lab.Etcd) error { return e.Resume() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{PodsPerNode: 1})
			pods := l.Pods()
			stream := startLoad(t, pods[0], addr(t, pods[1], false), 2*time.Millisecond)
			must(t, tt.begin(t, l.Etcd()))
			for _, n := range l.Nodes() {
				took := unready(t, n, 20*time.Second, "datastore")
				if _, err := n.Get(t.Context(), n.HealthURL("/healthz")); err != nil {
					t.Errorf("%s is to be restarted because its datastore is away: %v", n.Name, err)
				}
				t.Logf("%s noticed after %v", n.Name, took.Round(time.Millisecond))
			}
			// Drift is mended during an outage too, and pods come.
			sh(t, l.Nodes()[0].Netns(), "ip route flush proto 84")
			within(t, time.Second, func() error {
				routes, err := trySh(t.Context(), l.Nodes()[0].Netns(), "ip route show proto 84")
				if err == nil && strings.Count(routes, "\n") != 2 {
					err = fmt.Errorf("routes:\n%s", routes)
				}
				return err
			})
			if _, err := l.Nodes()[0].AddPod(t.Context(), lab.PodOptions{}); err != nil {
				t.Error(err)
			}
			holds(t, outage(t), func() error {
				if !l.Nodes()[1].DaemonRunning() {
					return errors.New("the daemon has ended")
				}
				return nil
			})
			must(t, tt.end(t, l.Etcd()))
			for _, n := range l.Nodes() {
				took := within(t, recovery, func() error { return ready(t, n) })
				t.Logf("%s is ready again after %v", n.Name, took.Round(time.Millisecond))
			}
			put(t, l, subnetsKey+"10.244.250.0-24", peerValue("172.30.9.1"))
			within(t, recovery, hasRoute(t, l.Nodes()[2], "10.244.250.0/24", true))
			if s := stream.end(t); s.Gap > time.Second { // the flushed routes
				t.Errorf("a gap of %v: %v", s.Gap, s.Err)
			}
			wantMatrix(t, l)
		})
	}
}

// outage is for how long etcd is left alone after all nodes have noticed that it is away: no longer, unless TWILL_OUTAGE says so.
func outage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TWILL_OUTAGE")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	must(t, err)
	return d
}

// A daemon that was cut off while etcd forgot the history that it would need starts over from the present.
func TestEtcdCompacted(t *testing.T) {
	for _, verdict := range []string{"drop", "reject with tcp reset"} {
		t.Run(verdict, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{PodsPerNode: 1})
			node, pods := l.Nodes()[0], l.Pods()
			put(t, l, subnetsKey+"10.244.250.0-24", peerValue("172.30.9.1"))
			within(t, recovery, hasRoute(t, node, "10.244.250.0/24", true))
			stream := startLoad(t, pods[0], addr(t, pods[1], false), 2*time.Millisecond)
			sh(t, node.Netns(), "nft add table inet cut; nft add chain inet cut out '{ type filter hook output priority 0; }'; "+
				"nft add rule inet cut out tcp dport 2379 "+verdict+"; nft add chain inet cut in '{ type filter hook input priority 0; }'; "+
				"nft add rule inet cut in tcp sport 2379 drop")
			del(t, l, subnetsKey+"10.244.250.0-24")
			put(t, l, subnetsKey+"10.244.251.0-24", peerValue("172.30.9.1"))
			answer, err := etcdClient(t, l).Put(t.Context(), "/elsewhere", "")
			must(t, err)
			_, err = etcdClient(t, l).Compact(t.Context(), answer.Header.Revision, clientv3.WithCompactPhysical())
			must(t, err)
			unready(t, node, 20*time.Second, "datastore")
			sh(t, node.Netns(), "nft delete table inet cut")
			took := within(t, recovery, func() error {
				return errors.Join(hasRoute(t, node, "10.244.250.0/24", false)(), hasRoute(t, node, "10.244.251.0/24", true)(), ready(t, node))
			})
			t.Logf("converged after %v", took.Round(time.Millisecond))
			stream.endWhole(t)
		})
	}
}

// What is no lease is reported once and skips that one entry.
func TestEtcdGarbage(t *testing.T) {
	t.Parallel()
	l := up(t, lab.Options{PodsPerNode: 1})
	node, pods := l.Nodes()[0], l.Pods()
	garbage := map[string]string{
		"not-a-subnet":    peerValue("172.30.9.1"),
		"10.244.240.0-24": "{",
		"10.244.241.0-24": "",
		"10.244.242.0-24": strings.Repeat("x", 1<<20),
		"10.244.243.0-24": strings.Replace(peerValue("172.30.9.1"), "vxlan", "udp", 1),
		"10.244.244.0-24": strings.Replace(peerValue("172.30.9.1"), `"VNI":1`, `"VNI":2`, 1),
		"10.244.245.0-24": strings.Replace(peerValue("172.30.9.1"), "02:00:00:00:0a:01", "ff:ff:ff:ff:ff:ff", 1),
		"10.244.246.0-24": peerValue("not an address"),
		"10.244.247.0-24": peerValue(node.Addrs()[0].String()),
		"192.0.2.0-24":    peerValue("172.30.9.1"),
		"10.244.0.0-33":   peerValue("172.30.9.1"),
		"\x00\xff":        "\x00\xff",
	}
	before := sh(t, node.Netns(), "ip route show proto 84 | sort; bridge fdb show dev flannel.1; ip neigh show dev flannel.1")
	stream := startLoad(t, pods[0], addr(t, pods[1], false), 2*time.Millisecond)
	for key, value := range garbage {
		put(t, l, subnetsKey+key, value)
	}
	within(t, recovery, func() error {
		if n := metric(t, node, "twill_rejected_peers"); int(n) != len(garbage) {
			return fmt.Errorf("%v are counted as rejected, want %d", n, len(garbage))
		}
		return ready(t, node)
	})
	// Other news must not repeat the reports.
	for i := range 5 {
		put(t, l, subnetsKey+"10.244.250.0-24", peerValue(fmt.Sprintf("172.30.9.%d", 10+i)))
		put(t, l, subnetsKey+"10.244.240.0-24", garbage["10.244.240.0-24"])
	}
	within(t, recovery, hasRoute(t, node, "10.244.250.0/24", true))
	del(t, l, subnetsKey+"10.244.250.0-24")
	within(t, recovery, hasRoute(t, node, "10.244.250.0/24", false))
	if now := sh(t, node.Netns(), "ip route show proto 84 | sort; bridge fdb show dev flannel.1; ip neigh show dev flannel.1"); now != before {
		t.Errorf("garbage changed the kernel:\n%s", difference(before, now))
	}
	text, err := node.DaemonLog()
	must(t, err)
	for key := range garbage {
		if key == "\x00\xff" {
			continue // quoted in some way or other
		}
		reports := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, key) {
				reports++
			}
		}
		if reports != 1 {
			t.Errorf("%s is reported %d times in the log, want once", key, reports)
		}
	}
	if len(text) > 64<<10 {
		t.Errorf("the log has %d bytes: is a value of a megabyte in it?", len(text))
	}
	for key := range garbage {
		del(t, l, subnetsKey+key)
	}
	within(t, recovery, func() error {
		if n := metric(t, node, "twill_rejected_peers"); n != 0 {
			return fmt.Errorf("%v are still counted as rejected", n)
		}
		return nil
	})
	stream.endWhole(t)
	wantMatrix(t, l)
}

// A node whose lease somebody deletes takes the same subnet again; so do all nodes when all data are gone.
func TestEtcdLosesLeases(t *testing.T) {
	config := func(l *lab.Lab) []byte {
		return []byte(`{"EnableIPv4":true,"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	}
	tests := []struct {
		name string
		lose func(t *testing.T, l *lab.Lab, key string)
	}{
		{"the key deleted", func(t *testing.T, l *lab.Lab, key string) { del(t, l, key) }},
		{"the etcd lease revoked", func(t *testing.T, l *lab.Lab, key string) {
			answer, err := etcdClient(t, l).Get(t.Context(), key)
			must(t, err)
			_, err = etcdClient(t, l).Revoke(t.Context(), clientv3.LeaseID(answer.Kvs[0].Lease))
			must(t, err)
		}},
		{"the value overwritten with garbage", func(t *testing.T, l *lab.Lab, key string) { put(t, l, key, "{") }},
		{"all keys deleted", func(t *testing.T, l *lab.Lab, _ string) {
			del(t, l, lab.EtcdPrefix, clientv3.WithPrefix())
			must(t, l.SetNetworkConfig(t.Context(), config(l)))
		}},
		{"a new etcd", func(t *testing.T, l *lab.Lab, _ string) {
			must(t, l.Etcd().Kill(t.Context()))
			must(t, os.RemoveAll(filepath.Join(l.Dir(), "etcd", "data")))
			must(t, os.Mkdir(filepath.Join(l.Dir(), "etcd", "data"), 0o700))
			must(t, l.Etcd().Start(t.Context()))
			must(t, l.SetNetworkConfig(t.Context(), config(l)))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := up(t, lab.Options{PodsPerNode: 1})
			pods := l.Pods()
			before, err := storedLeases(t.Context(), l)
			must(t, err)
			stream := startLoad(t, pods[0], addr(t, pods[1], false), 5*time.Millisecond)
			tt.lose(t, l, leaseKey(t, l, l.Nodes()[0]))
			took := within(t, recovery, func() error {
				now, err := storedLeases(t.Context(), l)
				if err != nil {
					return err
				}
				for key, value := range before {
					if now[key] != value {
						return fmt.Errorf("%s holds %q, want %q", key, now[key], value)
					}
				}
				for _, n := range l.Nodes() {
					err = errors.Join(err, ready(t, n))
				}
				if len(now) != len(before) {
					err = errors.Join(err, fmt.Errorf("%d leases, want %d", len(now), len(before)))
				}
				return err
			})
			within(t, recovery, func() error { return echo(t.Context(), pods[0].Netns(), addr(t, pods[2], false), 0) })
			t.Logf("back after %v", took.Round(time.Millisecond))
			if s := stream.end(t); s.Gap > recovery {
				t.Errorf("a gap of %v", s.Gap)
			}
			wantMatrix(t, l)
		})
	}
}
