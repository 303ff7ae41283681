package lab_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab"
)

// runsWith reports whether the daemon's process has these arguments.
func runsWith(n *lab.Node, args ...string) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.DaemonPID()))
	if err != nil {
		return err
	}
	have := strings.Split(string(text), "\x00")
	for _, want := range args {
		if !strings.Contains(strings.Join(have, " "), want) {
			return fmt.Errorf("%s runs as %q, without %q", n.Name, have, want)
		}
	}
	return nil
}

func TestSwitch(t *testing.T) {
	o := options(t, "switch")
	o.Nodes, o.PodsPerNode, o.BackendConfig = 3, 1, []byte(`{"VNI":7}`)
	l := up(t, o)
	ctx := context30(t)
	stop := errors.New("interrupted")
	err := l.SwitchRouting(ctx, lab.Routing{Backend: lab.BGP}, func(s lab.Switched) error {
		if s.Node.Name == "node2" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || l.Routing().Backend != lab.VXLAN {
		t.Fatalf("an interrupted switch: %v; the lab has %v", err, l.Routing())
	}
	var backends []string
	pids := map[string]int{}
	for _, n := range l.Nodes() {
		backends, pids[n.Name] = append(backends, n.Backend()), n.DaemonPID()
	}
	if diff := cmp.Diff([]string{lab.BGP, lab.BGP, lab.VXLAN}, backends); diff != "" {
		t.Error(diff)
	}
	l, err = lab.Open(lab.Options{Name: o.Name, StateDir: o.StateDir}) // another process ends it
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	err = l.SwitchRouting(ctx, lab.Routing{Backend: lab.BGP}, func(s lab.Switched) error {
		steps = append(steps, fmt.Sprintf("%d/%d %s %v again %v", s.Done, s.Total, s.Node.Name, s.Routing, s.Node.DaemonPID() == pids[s.Node.Name]))
		return runsWith(s.Node, "--backend=bgp", "--bgp-config="+s.Node.BGPConfigFile())
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"1/3 node1 bgp (overlay cross-subnet) again true", "2/3 node2 bgp (overlay cross-subnet) again true",
		"3/3 node3 bgp (overlay cross-subnet) again false"}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	checkStored(t, l, `{"Backend":{"Type":"bgp","VNI":7},"EnableIPv4":true,"EnableIPv6":false,"Network":"10.244.0.0/16"}`)
	if l, err = lab.Open(lab.Options{Name: o.Name, StateDir: o.StateDir}); err != nil || l.Routing().Backend != lab.BGP {
		t.Fatalf("another process sees %v, %v", l, err)
	}
	err = l.SwitchRouting(ctx, lab.Routing{Backend: lab.VXLAN}, func(s lab.Switched) error {
		if _, err := os.Lstat(s.Node.BGPConfigFile()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the BGP configuration of %s: %v", s.Node.Name, err)
		}
		return runsWith(s.Node, "--backend=vxlan")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range l.Nodes() {
		for _, to := range l.Pods() {
			eventually(t, "reach "+to.Name, func() error { return reach(t, from, to.Addrs()[0], patience) })
		}
	}
}

func checkStored(t *testing.T, l *lab.Lab, want string) {
	t.Helper()
	client, err := l.Etcd().Client()
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(context30(t), lab.EtcdPrefix+"/config")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("the stored config: %v, %v", got, err)
	}
	if diff := cmp.Diff(want, string(got.Kvs[0].Value)); diff != "" {
		t.Error(diff)
	}
}

func TestSwitchToWhatCannotBe(t *testing.T) {
	l, _ := bare(t, "noswitch", 1)
	never := func(lab.Switched) error { t.Error("a node was switched"); return nil }
	if err := l.SwitchRouting(context30(t), lab.Routing{Backend: lab.BGP, Reflectors: 2}, never); err == nil || !strings.Contains(err.Error(), "2 reflectors") {
		t.Errorf("more reflectors than nodes: %v", err)
	}
	if err := l.SetNetworkConfig(context30(t), []byte("no JSON")); err != nil {
		t.Fatal(err)
	}
	if err := l.SwitchRouting(context30(t), lab.Routing{Backend: lab.BGP}, never); err == nil || !strings.Contains(err.Error(), "read the network config") {
		t.Errorf("a network config that is none: %v", err)
	}
}
