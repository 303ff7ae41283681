package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/kerneltest"
	"github.com/twill-cni/twill/store"
)

func TestServes(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100), peer(101))
		w.start()
		w.pass(time.Second)
		w.wantReady()
		w.wantHas(true, append(peerObjects(100), peerObjects(101)...)...)
		w.wantHas(true, "link flannel.1", "link flannel-v6.1", "link cni0", "route fd00:5:0:64::/64")
		if got := w.host.last(t); got.MTU != 1430 || got.Subnets != w.self().Subnets() {
			t.Errorf("announced %+v", got)
		}

		w.store.SetPeers(peer(101), peer(102))
		w.pass(time.Second)
		w.wantHas(false, peerObjects(100)...)
		w.wantHas(true, append(peerObjects(101), peerObjects(102)...)...)
		w.wantReady()
		if v := w.kernel.Violations(); len(v) > 0 {
			t.Errorf("order was violated: %v", v)
		}
	})
}

func TestBridge(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.host.preferred = []store.Subnets{{IPv4: netip.MustParsePrefix("10.5.7.0/24"), IPv6: netip.MustParsePrefix("fd00:5:0:7::/64")}}
		w.start()
		w.pass(time.Second)
		links, err := w.kernel.Links(context.Background(), []string{Bridge})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Name != Bridge {
				continue
			}
			want := "[10.5.7.1/24 fd00:5:0:7::1/64]"
			if got := fmt.Sprint(l.Addresses); got != want || l.MTU != 1430 || !l.Up || l.Bridge == nil || !l.Bridge.Hairpin {
				t.Errorf("bridge %+v, want addresses %s", l, want)
			}
			if l.Sysctls["ipv6/accept_dad"] != "0" || l.Sysctls["ipv6/accept_ra"] != "0" {
				t.Errorf("sysctls %v: pods are not reached before duplicate address detection has ended", l.Sysctls)
			}
			return
		}
		t.Error("there is no bridge")
	})
}

// A daemon that starts during an outage changes nothing: what its predecessor programmed still works.
func TestNothingChangesBeforeTheFirstSnapshot(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Second)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		before := w.kernel.Dump()
		if !strings.Contains(before, "10.5.100.0/24") {
			t.Fatalf("the first run left nothing:\n%s", before)
		}

		w.store.SetPeers(peer(101))
		w.store.Fail(errAway)
		w.start()
		w.pass(10 * time.Minute)
		if after := w.kernel.Dump(); after != before {
			t.Errorf("the kernel changed during the outage:\n%s\nbefore:\n%s", after, before)
		}
		w.wantUnready("waiting for the network configuration: connection refused")

		w.store.Fail(nil)
		w.pass(5 * time.Second)
		w.wantReady()
		w.wantHas(false, peerObjects(100)...)
		w.wantHas(true, peerObjects(101)...)
	})
}

func TestWaitsForTheNetworkConfiguration(t *testing.T) {
	inWorld(t, "", func(w *world) {
		w.start()
		w.pass(time.Hour)
		w.wantUnready("no network configuration is stored")
		if n := strings.Count(w.log.String(), "waiting for the network configuration"); n != 1 {
			t.Errorf("said so %d times in an hour, want once", n)
		}
		network, err := store.ParseNetwork([]byte(networkConfig))
		if err != nil {
			t.Fatal(err)
		}
		w.store.SetNetwork(&network)
		w.pass(5 * time.Second)
		w.wantReady()
	})
}

func TestStopsForWhatRetryingCannotMend(t *testing.T) {
	tests := []struct {
		name    string
		disturb func(w *world)
		want    string
	}{
		{"another backend is stored", func(w *world) {
			w.store.SetNetwork(&store.Network{EnableIPv4: true, BackendType: "host-gw"})
		}, `the stored backend is "host-gw"`},
		{"no uplink", func(w *world) { w.uplink.fail(errors.New("there is no link eth9")) }, "there is no link eth9"},
		{"uplink without IPv6", func(w *world) {
			w.uplink.set(kernel.Uplink{Name: "eth0", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
		}, "uplink eth0 has no IPv6 address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				tt.disturb(w)
				before := w.kernel.Dump()
				w.start()
				err := w.stop()
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Run returned %v, want %q", err, tt.want)
				}
				if w.kernel.Dump() != before || len(w.store.Snapshot().Leases) > 0 {
					t.Errorf("something was changed:\n%s%v", w.kernel.Dump(), w.store.Snapshot().Leases)
				}
			})
		})
	}
}

// Whatever is removed or changed behind the daemon's back is there again within a second.
func TestDriftIsRepaired(t *testing.T) {
	mac := kernel.MAC{2, 0, 0, 0, 0, 100}
	base := netip.MustParseAddr("10.5.100.0")
	tests := []struct {
		name    string
		disturb func(w *world)
	}{
		{"nothing", func(*world) {}},
		{"device deleted", func(w *world) { w.kernel.DeleteLink("flannel.1") }},
		{"device down", func(w *world) { w.kernel.SetUp("flannel.1", false) }},
		{"bridge deleted", func(w *world) { w.kernel.DeleteLink(Bridge) }},
		{"neighbour deleted", func(w *world) { w.kernel.DeleteNeighbor(kernel.NeighborKey{Link: "flannel.1", IP: base}) }},
		{"FDB entry deleted", func(w *world) { w.kernel.DeleteFDB(kernel.FDBKey{Link: "flannel.1", MAC: mac}) }},
		{"route deleted", func(w *world) { w.kernel.DeleteRoute(kernel.RouteKey{Dst: netip.PrefixFrom(base, 24)}) }},
		{"table deleted", func(w *world) { w.tables.DeleteTable(kernel.TablePrefix + "masquerade") }},
		{"FDB entry changed", func(w *world) {
			if err := w.kernel.PutFDB(kernel.FDBEntry{Link: "flannel.1", MAC: mac, Dst: netip.MustParseAddr("192.0.2.99")}, kerneltest.Ours); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"everything", func(w *world) {
			for _, link := range []string{"flannel.1", "flannel-v6.1", Bridge} {
				w.kernel.DeleteLink(link)
			}
			w.tables.DeleteTable(kernel.TablePrefix + "masquerade")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				w.store.SetPeers(peer(100), peer(101))
				w.start()
				w.pass(10 * time.Second)
				want := w.kernel.Dump() + w.tables.Dump()
				tt.disturb(w)
				w.pass(100 * time.Millisecond)
				if got := w.kernel.Dump() + w.tables.Dump(); got != want {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				w.wantReady()
			})
		})
	}
}

func TestUplinkIsFollowed(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.start()
		w.pass(time.Second)
		subnets := w.self().Subnets()

		w.uplink.set(kernel.Uplink{Name: "eth0", MTU: 9000, Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.55/24"), netip.MustParsePrefix("2001:db8::1/64")}})
		w.monitor.event(kernel.Event{Kind: kernel.KindLink, Link: "eth0"})
		w.pass(time.Second)
		w.wantReady()
		if got := w.host.last(t); got.MTU != 8930 {
			t.Errorf("announced MTU %d, want 8930", got.MTU)
		}
		lease := store.Find(w.store.Snapshot().Leases, subnets)
		if lease == nil || lease.PublicIP != netip.MustParseAddr("192.0.2.55") {
			t.Errorf("lease %+v, want the new address under the same subnets", lease)
		}
		if gone := w.store.Redialed(); !slices.Equal(gone, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
			t.Errorf("the store was told that %v are gone, want the old address", gone)
		}
		links, err := w.kernel.Links(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Name == "flannel.1" && (l.VXLAN.Local != netip.MustParseAddr("192.0.2.55") || l.MTU != 8950) {
				t.Errorf("device has MTU %d, local %s", l.MTU, l.VXLAN.Local)
			}
		}
	})
}

func TestUplinkGoesAndComesBack(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Second)
		before := w.kernel.Dump()

		w.uplink.fail(errors.New("there is no link eth0"))
		w.monitor.event(kernel.Event{Kind: kernel.KindLink, Link: "eth0", Deleted: true})
		w.pass(time.Minute)
		w.wantUnready("there is no link eth0")
		if w.kernel.Dump() != before {
			t.Errorf("the kernel changed:\n%s", w.kernel.Dump())
		}
		w.store.SetPeers(peer(100), peer(101))
		w.pass(time.Second)
		w.wantHas(true, peerObjects(101)...)

		uplink, _ := w.uplink.get()
		w.uplink.set(uplink)
		w.monitor.event(kernel.Event{Kind: kernel.KindLink, Link: "eth0"})
		w.pass(100 * time.Millisecond)
		w.wantReady()
	})
}

func TestFailuresAreRetried(t *testing.T) {
	broken := errors.New("no buffer space available")
	tests := []struct {
		name    string
		disturb func(w *world)
	}{
		{"dump of links", func(w *world) { w.kernel.FailNext(kerneltest.DumpLinks, broken) }},
		{"dump of routes", func(w *world) { w.kernel.FailNext(kerneltest.DumpRoutes, broken) }},
		{"links", func(w *world) { w.kernel.FailNext(kerneltest.ApplyLinks, broken) }},
		{"FDB entries", func(w *world) { w.kernel.FailNext(kerneltest.ApplyFDB, broken) }},
		{"neighbours", func(w *world) { w.kernel.FailNext(kerneltest.ApplyNeighbors, broken) }},
		{"routes", func(w *world) { w.kernel.FailNext(kerneltest.ApplyRoutes, broken) }},
		{"tables", func(w *world) { w.tables.FailNext(broken) }},
		{"files", func(w *world) { w.host.fail = []error{broken, broken} }},
		{"registration", func(w *world) { w.store.Fail(broken); time.AfterFunc(time.Second, func() { w.store.Fail(nil) }) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, networkConfig, func(w *world) {
				w.store.SetPeers(peer(100))
				tt.disturb(w)
				w.start()
				w.wantUnready(broken.Error())
				w.pass(5 * time.Second)
				w.wantReady()
				w.wantHas(true, peerObjects(100)...)
				if v := w.kernel.Violations(); len(v) > 0 {
					t.Errorf("order was violated: %v", v)
				}
			})
		})
	}
}

// A peer that the kernel refuses keeps the node from being ready, but not from serving.
func TestOneRefusedPeer(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100), peer(101))
		for range 20 {
			w.kernel.FailObject("route 10.5.100.0/24", errors.New("invalid argument"))
		}
		w.start()
		w.pass(10 * time.Second)
		w.wantUnready("invalid argument")
		w.wantHas(true, peerObjects(101)...)
		w.host.last(t)
		if n := strings.Count(w.log.String(), "sync failed"); n != 1 {
			t.Errorf("logged the failure %d times, want once", n)
		}
		dumps := w.kernel.Counts().Dumps[kernel.KindNeighbor]
		w.pass(time.Minute)
		if now := w.kernel.Counts().Dumps[kernel.KindNeighbor]; now != dumps {
			t.Errorf("retries for a route read the neighbours %d times", now-dumps)
		}
		w.pass(time.Minute)
		w.wantReady()
		w.wantHas(true, peerObjects(100)...)
	})
}

func TestRejectedPeersAreLoggedOnce(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		bad := peer(100)
		bad.BackendType = "udp"
		w.store.SetPeers(bad, peer(101))
		w.start()
		for range 5 {
			w.pass(10 * time.Minute)
		}
		w.wantReady()
		if n := strings.Count(w.log.String(), "skipped a peer"); n != 2 { // one for each family
			t.Errorf("logged %d times, want 2", n)
		}
		if r := w.syncs.first(); r.Peers != 1 || r.Rejected != 2 {
			t.Errorf("report %+v, want 1 peer and 2 rejects", r)
		}
		w.store.SetPeers(peer(100), peer(101))
		w.pass(time.Second)
		w.wantHas(true, peerObjects(100)...)
		if !strings.Contains(w.log.String(), "mended or gone") {
			t.Error("the end of it was not logged")
		}
	})
}

func TestOutageWhileServing(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Second)
		before := w.kernel.Dump()
		w.store.Fail(errAway)
		w.pass(30 * time.Minute)
		w.wantUnready("datastore: connection refused")
		if err := w.node.Status().Amiss(); err != nil {
			t.Errorf("an outage of the datastore is not the node's trouble: %v", err)
		}
		w.kernel.DeleteLink("flannel.1")
		w.pass(100 * time.Millisecond)
		if w.kernel.Dump() != before {
			t.Errorf("drift is not repaired during an outage:\n%s", w.kernel.Dump())
		}
		w.store.Fail(&store.Trouble{Reason: store.ReasonForbidden, Err: errAway})
		if err := w.node.Status().Amiss(); store.ReasonOf(err, "") != store.ReasonForbidden {
			t.Errorf("amiss is %v", err)
		}
		w.store.Fail(nil)
		w.pass(100 * time.Millisecond)
		w.wantReady()
	})
}

func TestLostSubnetsAreReplaced(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.start()
		w.pass(time.Second)
		lost := w.self().Subnets()
		taker := peer(100)
		taker.Subnet, taker.IPv6Subnet = lost.IPv4, lost.IPv6
		w.store.SetPeers(taker)
		w.pass(time.Second)
		w.store.Lose() // a moment after the taker's record is seen, and nothing else happens
		w.pass(time.Second)
		w.wantReady()
		if now := w.self().Subnets(); now == lost || w.host.last(t).Subnets != now {
			t.Errorf("subnets %s after %s was lost, announced %s", now, lost, w.host.last(t).Subnets)
		}
		w.wantHas(true, "route "+lost.IPv4.String())
	})
}

func TestIdleNodeRests(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Minute)
		before, written := w.syncs.count(), w.kernel.Counts().Changes
		w.pass(time.Hour)
		if n := w.syncs.count() - before; n < 9 || n > 12 {
			t.Errorf("%d syncs in an idle hour, want one every five to six minutes", n)
		}
		if now := w.kernel.Counts().Changes; now != written {
			t.Errorf("an idle node wrote to the kernel: %v, then %v", written, now)
		}
	})
}

func TestBurstsAreCoalesced(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.start()
		w.pass(time.Minute)
		before := w.syncs.count()
		var peers []*store.Lease
		for n := 100; n < 250; n++ {
			peers = append(peers, peer(n))
			w.store.SetPeers(peers...)
			w.pass(time.Millisecond)
		}
		w.pass(time.Second)
		if n := w.syncs.count() - before; n > 10 {
			t.Errorf("%d syncs for 150 snapshots in 150 ms", n)
		}
		w.wantHas(true, peerObjects(249)...)
	})
}

// Another program that keeps deleting a route costs a few syncs a second, not all of the processor.
func TestQuarrelIsBounded(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Minute)
		before := w.syncs.count()
		key := kernel.RouteKey{Dst: netip.MustParsePrefix("10.5.100.0/24")}
		for range 10_000 {
			w.kernel.DeleteRoute(key)
			w.pass(time.Millisecond)
		}
		if n := w.syncs.count() - before; n > 40 {
			t.Errorf("%d syncs in 10 s", n)
		}
		w.pass(time.Second)
		w.wantHas(true, peerObjects(100)...)
	})
}

func TestMonitorIsOpenedAgain(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Second)
		w.monitor.broken <- errors.New("socket closed")
		synctest.Wait()
		w.wantUnready("watch the kernel: socket closed")
		if w.node.Status().Amiss() == nil {
			t.Error("nothing is amiss")
		}
		w.kernel.DeleteLink("flannel.1") // nobody is told
		w.pass(time.Second)
		w.wantReady()
		w.wantHas(true, peerObjects(100)...)
		if w.monitor.opened != 2 || fmt.Sprint(w.monitor.links) != "[eth0 flannel.1 flannel-v6.1 cni0]" {
			t.Errorf("opened %d times, watches %v", w.monitor.opened, w.monitor.links)
		}
	})
}

func TestAnnouncedOnlyWhenTheNodeCanServe(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.host.before = func() {
			w.wantHas(true, "link flannel.1", "link cni0")
		}
		w.kernel.FailObject("link cni0", errors.New("operation not permitted"))
		w.start()
		if w.host.count() > 0 {
			t.Error("announced without a bridge")
		}
		w.pass(time.Second)
		w.host.last(t)
		n := w.host.count()
		w.store.SetPeers(peer(100))
		w.pass(time.Second)
		if w.host.count() != n {
			t.Error("announced again although nothing changed")
		}
	})
}

// A resync writes the files again when somebody removed them. When that fails, it is tried again until it succeeds.
func TestAnnouncementIsRetried(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.start()
		w.pass(time.Second)
		n := w.host.count()
		w.host.mu.Lock()
		w.host.fail = []error{errors.New("no space left on device")}
		w.host.mu.Unlock()
		w.pass(resyncEvery + resyncJitter)
		w.wantReady()
		if w.host.count() == n {
			t.Error("ready, but the files were not written")
		}
	})
}

// A change of the uplink right after the first sync looked at it is noticed.
func TestUplinkIsWatchedFromTheStart(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		changed := false
		opts.Forwarding = func(bool, bool) error {
			if !changed {
				changed = true
				time.Sleep(time.Millisecond) // until the monitor runs
				u, _ := w.uplink.get()
				u.MTU = 1400
				w.uplink.set(u)
				w.monitor.event(kernel.Event{Kind: kernel.KindLink, Link: u.Name, Intact: true})
			}
			return nil
		}
		w.startWith(opts)
		w.pass(time.Second)
		if mtu := w.host.last(t).MTU; mtu != 1330 {
			t.Errorf("the pods' MTU is %d, want 1330", mtu)
		}
	})
}

// A node that is to end while it starts ends well, although what it was reading is cut short.
func TestEndWhileItStarts(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		opts.BridgeMAC = func(ctx context.Context) (kernel.MAC, error) {
			<-ctx.Done()
			return kernel.MAC{}, ctx.Err()
		}
		w.startWith(opts)
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestStopLeavesTheKernel(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		w.store.SetPeers(peer(100))
		w.start()
		w.pass(time.Second)
		before := w.kernel.Dump() + w.tables.Dump()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if after := w.kernel.Dump() + w.tables.Dump(); after != before {
			t.Errorf("the kernel changed:\n%s", after)
		}
	})
}

func TestForwardingAndHousekeeping(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		var forwarding, housekeeping int
		opts.Forwarding = func(ipv4, ipv6 bool) error {
			if forwarding++; forwarding == 1 {
				return errors.New("read-only file system")
			}
			if !ipv4 || !ipv6 {
				t.Error("want both families")
			}
			return nil
		}
		opts.Housekeeping = func(context.Context) error { housekeeping++; return errors.New("some pods are stuck") }
		w.startWith(opts)
		w.wantUnready("enable forwarding: read-only file system")
		w.pass(time.Minute)
		w.wantReady()
		if housekeeping == 0 || !strings.Contains(w.log.String(), "some pods are stuck") {
			t.Errorf("housekeeping ran %d times", housekeeping)
		}
	})
}

func TestStuckSyncIsNotLive(t *testing.T) {
	s := &Status{store: nil}
	now := time.Now()
	s.begin(now)
	if err := s.Live(now.Add(stuck)); err != nil {
		t.Errorf("after %s: %v", stuck, err)
	}
	if err := s.Live(now.Add(stuck + time.Second)); err == nil {
		t.Error("a stuck sync counts as live")
	}
	s.end(Report{End: now})
	if err := s.Live(now.Add(time.Hour)); err != nil {
		t.Errorf("after the sync ended: %v", err)
	}
}

// Peers that register while a node takes its first steps are programmed before it says that it is ready.
func TestReadyCountsPeersThatCameDuringTheFirstSync(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		come := sync.OnceFunc(func() {
			w.store.SetPeers(peer(101))
			time.Sleep(10 * time.Millisecond) // plugins are installed, and the snapshot comes
		})
		w.host.before = come
		w.start()
		ready := false
		for range 100 {
			w.pass(time.Millisecond)
			if ready = w.node.Status().Ready() == nil; ready {
				break
			}
		}
		if !ready {
			t.Error("not ready in 100 ms")
		}
		w.wantHas(true, peerObjects(101)...)
	})
}

// A kernel that lacks something leaves the node as it was, and out of the cluster, until somebody has mended that.
func TestKernelLacksSomething(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		lack := error(&kernel.LackError{Feature: kernel.Feature{Name: "VXLAN devices", Module: "vxlan"}, Err: kernel.ErrUnsupported})
		var mu sync.Mutex
		opts.Kernel = func(n store.Network) error {
			mu.Lock()
			defer mu.Unlock()
			if !n.EnableIPv6 {
				t.Error("asked for another network")
			}
			return lack
		}
		before := w.kernel.Dump()
		w.startWith(opts)
		w.pass(time.Minute)
		w.wantUnready("lacks VXLAN devices: run `modprobe vxlan`")
		if reason := store.ReasonOf(w.node.Status().Ready(), ""); reason != store.ReasonKernelFeatureMissing {
			t.Errorf("reason %q", reason)
		}
		if n := strings.Count(w.log.String(), "modprobe vxlan"); n != 1 {
			t.Errorf("said %d times", n)
		}
		if after := w.kernel.Dump(); after != before || w.host.count() > 0 || len(w.store.Snapshot().Leases) > 0 {
			t.Errorf("something was done: %s", after)
		}
		mu.Lock()
		lack = nil
		mu.Unlock()
		w.pass(10 * time.Second)
		w.wantReady()
	})
}

// An error that is no lack ends the node: asking again mends nothing.
func TestKernelRefuses(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		opts.Kernel = func(store.Network) error { return fs.ErrPermission }
		w.startWith(opts)
		if err := w.stop(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Run returns %v", err)
		}
	})
}

// What another network has on the host is not taken from it; when it is gone, the node goes on, and does not ask again.
func TestLeftovers(t *testing.T) {
	inWorld(t, networkConfig, func(w *world) {
		opts := w.options()
		var left atomic.Bool
		left.Store(true)
		opts.Leftovers = func(_ context.Context, own store.Subnets) error {
			if !own.IPv4.IsValid() {
				t.Error("asked without subnets")
			}
			if left.Load() {
				return fmt.Errorf("bridge cni0 serves others: %w", kernel.ErrInTheWay)
			}
			return nil
		}
		before := w.kernel.Dump()
		w.startWith(opts)
		w.pass(time.Minute)
		w.wantUnready("bridge cni0 serves others")
		if reason := store.ReasonOf(w.node.Status().Ready(), ""); reason != store.ReasonLeftover {
			t.Errorf("reason %q", reason)
		}
		if after := w.kernel.Dump(); after != before || w.host.count() > 0 {
			t.Errorf("something was done: %s", after)
		}
		left.Store(false)
		w.pass(10 * time.Second)
		w.wantReady()
		left.Store(true)
		w.pass(10 * time.Minute)
		w.wantReady()
	})
}
