package lab_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

func TestRouterComesAndGoes(t *testing.T) {
	o := options(t, "tor")
	o.Family, o.Subnets, o.Routing = lab.DualStack, 2, lab.Routing{Backend: lab.BGP, ToR: true}
	l := up(t, o)
	n, err := l.AddNode(context30(t), lab.NodeOptions{NoDaemon: true})
	if err != nil {
		t.Fatal(err)
	}
	listens := func() error {
		conn, err := n.Netns().Dial(context30(t), "tcp", l.Subnets()[0][0].Addr().String()+":179")
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	r := l.Router()
	if err := listens(); err != nil || !r.Running() {
		t.Errorf("after the start: %v", err)
	}
	if err := r.Start(context30(t)); err != nil {
		t.Errorf("started again while it runs: %v", err)
	}
	if err := r.Kill(context30(t)); err != nil || r.Running() || listens() == nil {
		t.Errorf("a killed router: %v", err)
	}
	if err := r.Start(context30(t)); err != nil {
		t.Fatal(err)
	}
	if err := listens(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	learn := []string{"route add 10.244.9.0/24 via 172.30.1.1 proto 84", "route add 203.0.113.0/24 via 172.30.1.1 proto static",
		"-6 route add fd00:244:0:9::/64 via fd00:30:0:1::1 proto 84"}
	if err := r.Kill(context30(t)); err != nil { // it would take those routes away
		t.Fatal(err)
	}
	for _, args := range learn {
		if out, err := lab.Command(context30(t), l.Underlay(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	if err := r.Remove(context30(t)); err != nil {
		t.Fatal(err)
	}
	out, err := lab.Command(context30(t), l.Underlay(), "sh", "-c", "ip route; ip -6 route").Output()
	if text := string(out); err != nil || strings.Contains(text, "244:0:9") || strings.Contains(text, "10.244.9") || !strings.Contains(text, "203.0.113.0") {
		t.Errorf("the routes of a removed router, and others: %s, %v", text, err)
	}
}

func TestPodsReachEachOtherThroughTheRouter(t *testing.T) {
	o := options(t, "torpods")
	o.Family, o.Nodes, o.PodsPerNode = lab.DualStack, 2, 1
	o.Subnets, o.Routing = 2, lab.Routing{Backend: lab.BGP, ToR: true}
	l := up(t, o)
	a, b := l.Pods()[0], l.Pods()[1]
	work := func(when string) {
		t.Helper()
		for _, to := range b.Addrs() {
			eventually(t, when+": reach "+to.String(), func() error { return reach(t, a, to, time.Second) })
		}
	}
	work("at first")
	out, err := a.Node.Command(context30(t), "ip", "-o", "link").Output()
	if err != nil || strings.Contains(string(out), "flannel") {
		t.Errorf("there is an overlay: %s, %v", out, err)
	}
	if err := l.Router().Kill(context30(t)); err != nil {
		t.Fatal(err)
	}
	for _, to := range b.Addrs() {
		if err := reach(t, a, to, patience); err != nil {
			t.Errorf("after the router's speaker was killed: %v", err)
		}
	}
	if err := l.Router().Start(context30(t)); err != nil {
		t.Fatal(err)
	}
	work("after its restart")
}

func TestRouterThatCannotStart(t *testing.T) {
	o := options(t, "notor")
	l := up(t, o)
	if err := l.Router().Stop(context30(t)); err != nil {
		t.Errorf("a router that never ran is stopped: %v", err)
	}
	var taken net.Listener
	err := l.Underlay().Do(func() (err error) {
		taken, err = net.Listen("tcp4", "0.0.0.0:179")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := l.Router().Start(context30(t)); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("on a port that is taken: %v", err)
	}
}
