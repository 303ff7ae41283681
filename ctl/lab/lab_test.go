package lab_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
)

func TestUpUsedByAnotherProcessAndDown(t *testing.T) {
	o := options(t, "whole")
	o.Nodes, o.PodsPerNode = 2, 1
	var mu sync.Mutex
	seen := map[lab.Stage]lab.Progress{}
	o.Progress = func(p lab.Progress) {
		mu.Lock()
		defer mu.Unlock()
		seen[p.Stage] = p
	}
	up(t, o)
	for stage, total := range map[lab.Stage]int{lab.StageUnderlay: 1, lab.StageEtcd: 1, lab.StageNodes: 2, lab.StageDaemons: 2, lab.StagePods: 2} {
		if got := seen[stage]; got.Done != total || got.Total != total {
			t.Errorf("the last progress of %s is %d of %d, want %d", stage, got.Done, got.Total, total)
		}
	}
	l, err := lab.Open(lab.Options{Name: o.Name, StateDir: o.StateDir}) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range l.Pods() {
		names = append(names, p.Name)
		if len(p.Addrs()) != 1 || len(p.Gateways()) != 1 {
			t.Errorf("pod %s: addresses %v, gateways %v", p.Name, p.Addrs(), p.Gateways())
		}
	}
	if diff := cmp.Diff([]string{"node1-pod1", "node2-pod1"}, names); diff != "" {
		t.Fatal(diff)
	}
	if err := reach(t, l.Pods()[0], l.Pods()[1].Addrs()[0], patience); err != nil {
		t.Errorf("from pod to pod: %v", err)
	}
	if out, err := l.Pods()[0].Command(context30(t), "cat", "/proc/net/dev").Output(); err != nil || !strings.Contains(string(out), "eth0") {
		t.Errorf("a command in a pod: %v, %s", err, out)
	}
	again, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Up(context30(t)); !errors.Is(err, lab.ErrExists) {
		t.Errorf("bringing it up again: %v", err)
	}
	if err := reach(t, l.Pods()[0], l.Pods()[1].Addrs()[0], patience); err != nil {
		t.Errorf("after that, from pod to pod: %v", err)
	}
}

func TestPodComesAndGoes(t *testing.T) {
	o := options(t, "pod")
	o.Nodes = 1
	l := up(t, o)
	ctx, n := context30(t), l.Nodes()[0]
	p, err := n.AddPod(ctx, lab.PodOptions{Name: "web", IfName: "net0", CapabilityArgs: map[string]any{"mac": "02:00:00:00:00:07"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(ctx); err != nil {
		t.Error(err)
	}
	if mac := p.Result().Interfaces; !slices.ContainsFunc(mac, func(i *current.Interface) bool { return i.Mac == "02:00:00:00:00:07" && i.Name == "net0" }) {
		t.Errorf("capability and interface name did not arrive: %+v", mac)
	}
	if _, err := n.AddPod(ctx, lab.PodOptions{Name: "web"}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second pod of that name: %v", err)
	}
	sleeper := p.Command(ctx, "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("the pod's process ended by itself")
	}
	if p.Netns().Exists() || len(n.Pods()) != 0 {
		t.Error("the pod is there")
	}
	if _, err := n.AddPod(ctx, lab.PodOptions{Name: "bad", ConfList: []byte(`{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"nowhere"}]}`)}); err == nil {
		t.Error("a plugin that is not there attached a pod")
	}
	if left := namespaces(t, l.Name()+"-bad"); len(n.Pods()) != 0 || len(left) != 0 || netns.Named(l.Name()+"-bad").Exists() {
		t.Error("a pod that could not be attached is there")
	}
}

func TestDaemonStopsAndStarts(t *testing.T) {
	o := options(t, "daemon")
	o.Nodes = 1
	l := up(t, o)
	ctx, n := context30(t), l.Nodes()[0]
	for name, end := range map[string]func(context.Context) error{"stop": n.StopDaemon, "kill": n.KillDaemon} {
		before := n.DaemonPID()
		if err := end(ctx); err != nil || n.DaemonRunning() {
			t.Fatalf("%s: %v; it runs: %v", name, err, n.DaemonRunning())
		}
		for range 2 { // the second call finds it running
			if err := n.StartDaemon(); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Ready(ctx); err != nil || n.DaemonPID() == before {
			t.Fatalf("after %s: %v", name, err)
		}
	}
	if err := n.SetDaemon(lab.NodeOptions{Args: []string{"--iface=nowhere0"}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.StopDaemon(ctx), n.StartDaemon()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := n.Ready(short); err == nil || !strings.Contains(err.Error(), "nowhere0") {
		t.Errorf("a daemon that cannot serve: %v; want the end of its log", err)
	}
}

func TestEtcdKeepsItsData(t *testing.T) {
	l, _ := bare(t, "etcd", 0)
	ctx := context30(t)
	client, err := l.Etcd().Client()
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(context.Context) error{"stop": l.Etcd().Stop, "kill": l.Etcd().Kill} {
		if _, err := client.Put(ctx, "/key", name); err != nil {
			t.Fatal(err)
		}
		if err := end(ctx); err != nil || l.Etcd().Running() {
			t.Fatalf("%s: %v; it runs: %v", name, err, l.Etcd().Running())
		}
		if err := l.Etcd().Start(ctx); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Get(ctx, "/key"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != name {
			t.Fatalf("after %s: %v, %v", name, got, err)
		}
	}
	if err := l.Etcd().Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := client.Get(short, "/key"); err == nil {
		t.Error("a paused etcd answered")
	}
	if err := l.Etcd().Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(ctx, "/key"); err != nil {
		t.Error(err)
	}
}

func TestUnderlayCanBeBroken(t *testing.T) {
	_, nodes := bare(t, "underlay", 2)
	a, b := nodes[0], nodes[1]
	to := b.Addrs()[0]
	breaks := []struct {
		name       string
		cut, mend  func() error
		hasCarrier bool
	}{
		{"cable", b.Unplug, b.PlugIn, false},
		{"switch", b.Isolate, b.Rejoin, true},
	}
	for _, tt := range breaks {
		t.Run(tt.name, func(t *testing.T) {
			if err := reach(t, a, to, patience); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := tt.cut(); err != nil {
				t.Fatal(err)
			}
			if err := reach(t, a, to, 20*time.Millisecond); err == nil {
				t.Error("it was reached without its uplink")
			}
			out, err := b.Command(context30(t), "ip", "-o", "link", "show", b.Uplink()).Output()
			if err != nil || strings.Contains(string(out), "NO-CARRIER") == tt.hasCarrier {
				t.Errorf("the uplink is %s, %v", out, err)
			}
			if err := tt.mend(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "reach it again", func() error { return reach(t, a, to, time.Second) })
		})
	}
}

func TestUnderlayCanBeChanged(t *testing.T) {
	l, nodes := bare(t, "change", 2)
	a, b := nodes[0], nodes[1]
	if err := b.SetAddrs(netip.MustParseAddr("172.30.9.9"), netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, a, netip.MustParseAddr("172.30.9.9"), patience); err != nil {
		t.Errorf("the new address: %v", err)
	}
	if err := reach(t, a, netip.MustParseAddr("172.30.1.2"), 20*time.Millisecond); err == nil {
		t.Error("the old address still works")
	}
	if err := l.SetMTU(1400); err != nil {
		t.Fatal(err)
	}
	c, err := l.AddNode(context30(t), lab.NodeOptions{Name: "late", NoDaemon: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*lab.Node{a, c} {
		if out, err := n.Command(context30(t), "ip", "link", "show", "eth0").Output(); err != nil || !strings.Contains(string(out), "mtu 1400") {
			t.Errorf("%s: %s, %v", n.Name, out, err)
		}
	}
	if err := a.Delete(context30(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Node(a.Name); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("a deleted node: %v", err)
	}
	if err := reach(t, c, netip.MustParseAddr("172.30.9.9"), patience); err != nil {
		t.Errorf("the nodes that are left: %v", err)
	}
	again, err := lab.Open(lab.Options{Name: l.Name(), StateDir: filepath.Dir(l.Dir())})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := again.Node(b.Name); err != nil || !slices.Equal(n.Addrs(), b.Addrs()) {
		t.Errorf("another process sees %v, %v", n, err)
	}
}

func TestLabsDoNotMeet(t *testing.T) {
	a, nodesA := bare(t, "a", 1)
	b, nodesB := bare(t, "b", 1)
	if !slices.Equal(nodesA[0].Addrs(), nodesB[0].Addrs()) {
		t.Errorf("addresses %v and %v", nodesA[0].Addrs(), nodesB[0].Addrs())
	}
	if err := a.Down(context30(t)); err != nil {
		t.Fatal(err)
	}
	v4, _ := b.UnderlayGateway()
	if err := reach(t, nodesB[0], v4, patience); err != nil {
		t.Errorf("after another lab went down: %v", err)
	}
}

func TestForeignNamespaceIsLeftAlone(t *testing.T) {
	o := options(t, "foreign")
	o.Nodes = 2
	foreign, err := netns.Create(o.Name + "-node2")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Up(context30(t)); !errors.Is(err, os.ErrExist) {
		t.Errorf("a node whose namespace somebody else has: %v", err)
	}
	if got := namespaces(t, o.Name); !slices.Equal(got, []string{foreign.Name()}) {
		t.Errorf("left are %v", got)
	}
	if err := foreign.Do(func() error { return nil }); err != nil {
		t.Errorf("the foreign namespace: %v", err)
	}
	if err := foreign.Remove(); err != nil {
		t.Error(err)
	}
}

func TestDestroyWithoutALab(t *testing.T) {
	found, err := lab.Destroy(context30(t), options(t, "none"))
	if found || err != nil {
		t.Errorf("got %v, %v", found, err)
	}
}
