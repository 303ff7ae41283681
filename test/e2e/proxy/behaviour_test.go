package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twill-cni/twill/ctl/lab"
)

// TestBehaviour is about Twill alone: what it does while Services change, while it is not there, and while others meddle. Its parts share a rig, one
// after the other: first, with no other test beside them, those that measure times.
func TestBehaviour(t *testing.T) {
	r := newRig(t, twill)
	number := 0
	run := func(name string, test func(*testing.T, *rig, variables)) {
		v := r.vars(t, number)
		number++
		t.Run(name, func(t *testing.T) {
			must(t, r.Apply(t.Context(), v.expand(t, "{apiVersion: v1, kind: Namespace, metadata: {name: $ns}}", "")))
			test(t, r, v)
		})
	}
	run("connections survive", connectionsSurvive)
	run("datagrams leave an endpoint that is gone", datagramsLeave)
	run("datagrams find the first endpoint", datagramsArrive)
	run("what others change is repaired", repaired)
	t.Parallel()
	run("the API server is away", apiServerAway)
	run("decisions are balanced", balanced)
	run("schedulers choose", schedulersChoose)
	run("schedulers steer", schedulersSteer)
	run("one address, two Services", oneAddress)
	run("random changes", randomChanges)
	run("a node's address changes", addressChanges)
}

// apply makes objects, and returns when all nodes know them.
func (r *rig) apply(t *testing.T, v variables, manifests string) {
	t.Helper()
	must(t, r.Apply(t.Context(), v.expand(t, manifests, "")))
	r.barrier(t)
}

// want makes probes in both families, all at once.
func (r *rig) want(t *testing.T, v variables, probes ...probe) {
	t.Helper()
	var group sync.WaitGroup
	for _, p := range probes {
		for _, one := range v.probes(t, p) {
			group.Go(func() {
				if have := r.judge(one.probe); have != one.want {
					t.Errorf("%s (%s): have %q, want %q", one, p.to, have, one.want)
				}
			})
		}
	}
	group.Wait()
}

// soon makes probes in both families, one after the other, each until it has the answer that is wanted.
func (r *rig) soon(t *testing.T, v variables, probes ...probe) {
	t.Helper()
	for _, p := range probes {
		for _, one := range v.probes(t, p) {
			within(t, patience, func() error {
				if have := r.judge(one.probe); have != one.want {
					return fmt.Errorf("%s: have %q, want %q", one, have, one.want)
				}
				return nil
			})
		}
	}
}

func (r *rig) judge(p probe) string {
	m, answer := r.machines[p.from], make(chan string, 1)
	m.queue <- func() { answer <- m.judge(p) }
	return <-answer
}

// conversation is a client that goes on using one socket.
type conversation struct {
	net.Conn
	udp bool
}

// talk begins a conversation from a machine.
func (r *rig) talk(t *testing.T, from, protocol, to string) *conversation {
	t.Helper()
	c := &conversation{udp: protocol == "udp"}
	must(t, r.machines[from].ns.Do(func() (err error) {
		c.Conn, err = net.DialTimeout(protocol, to, hesitant)
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	if !c.udp {
		name, _, err := greeted(c.Conn, hesitant)
		must(t, err)
		t.Logf("%s talks to %s by way of %s", from, name, to)
	}
	return c
}

// say sends one packet and returns who answers, or how the connection ended, which of TCP is known after hesitant at the latest, of UDP when patience is over. At the
// other end of TCP is always the same one.
func (c *conversation) say(patience time.Duration) (string, error) {
	if c.udp {
		name, _, err := greeted(c.Conn, patience)
		return name, err
	}
	if err := c.SetDeadline(time.Now().Add(hesitant)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("word")); err != nil {
		return "", err
	}
	buffer := make([]byte, 16)
	n, err := c.Read(buffer)
	return string(buffer[:n]), err
}

func connectionsSurvive(t *testing.T, r *rig, v variables) {
	r.apply(t, v, service("web", dual, "type: NodePort, ports: [{name: t, port: 80, nodePort: $np}, {name: u, port: 80, nodePort: $np, protocol: UDP}]")+
		slice{ports: "{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}", endpoints: "a b c d"}.yaml())
	var all []*conversation
	names := map[*conversation]string{}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, p := range []probe{{from: "a", to: "$vip:80"}, {from: "node1", to: "$vip:80"}, {from: "out1", to: "$node1:$np"}} {
			for _, one := range v.probes(t, probe{from: p.from, to: protocol + " " + p.to}) {
				_, to, _ := strings.Cut(one.to, " ")
				c := r.talk(t, p.from, protocol, to)
				name, err := c.say(silence)
				must(t, err)
				all, names[c] = append(all, c), name
			}
		}
	}
	goOn := func(what string) {
		t.Helper()
		for _, c := range all {
			if name, err := c.say(silence); err != nil || name != names[c] {
				t.Errorf("%s: %v to %v has %q, %v; want %q", what, c.LocalAddr(), c.RemoteAddr(), name, err, names[c])
			}
		}
	}
	n := r.machines["node1"].node
	for _, end := range []struct {
		name string
		how  func(context.Context) error
	}{{"SIGTERM", n.StopDaemon}, {"SIGKILL", n.KillDaemon}} {
		before := settled(t, n)
		must(t, end.how(t.Context()))
		goOn("after " + end.name)
		r.want(t, v, probe{"a", "tcp $vip:80", "a~ b c d"}) // new ones, too
		must(t, n.StartDaemon())
		must(t, n.Ready(t.Context()))
		goOn("after " + end.name + " and a start")
		if now := contents(t, n); now != before {
			t.Errorf("after %s and a start, the tables differ:\n%s", end.name, differing(before, now))
		}
	}
	other := r.vars(t, 50)
	other["ns"] = v["ns"]
	more := strings.NewReplacer("web", "other").Replace(web("type: NodePort") + backed("a c"))
	r.apply(t, other, more)
	goOn("after another Service came")
	must(t, r.Delete(t.Context(), other.expand(t, more, "")))
	r.barrier(t)
	goOn("after another Service went")
	sh(t, n.Netns(), "nft delete table ip twill-proxy; nft delete table ip6 twill-proxy")
	goOn("after the tables were deleted")
}

// udpWeb is a Service of UDP, port 53.
func udpWeb(fields ...string) string {
	return service("web", append([]string{dual, "ports: [{port: 53, nodePort: $np, protocol: UDP}]"}, fields...)...)
}

func udpBacked(endpoints string) string {
	return slice{ports: "{port: 8080, protocol: UDP}", endpoints: endpoints}.yaml()
}

func datagramsLeave(t *testing.T, r *rig, v variables) {
	r.apply(t, v, udpWeb("type: NodePort")+udpBacked("b c d"))
	before := map[*conversation]string{}
	for range 8 {
		for _, p := range []probe{{from: "a", to: "udp $vip:53"}, {from: "out1", to: "udp $node1:$np"}} {
			for _, one := range v.probes(t, p) {
				c := r.talk(t, p.from, "udp", strings.TrimPrefix(one.to, "udp "))
				name, err := c.say(silence)
				must(t, err)
				before[c] = name
			}
		}
	}
	begin := time.Now()
	must(t, r.Apply(t.Context(), v.expand(t, udpBacked("b c"), "")))
	moved := 0
	for c, name := range before {
		if name != "d" {
			continue
		}
		moved++
		within(t, patience, func() error {
			if now, err := c.say(silence); now != "b" && now != "c" {
				return fmt.Errorf("%v has %q, %v", c.LocalAddr(), now, err)
			}
			return nil
		})
	}
	t.Logf("%d of %d flows moved within %v", moved, len(before), time.Since(begin).Round(time.Millisecond))
	for c, name := range before {
		if now, err := c.say(silence); name != "d" && now != name {
			t.Errorf("%v has %q, %v; it had %q, which is still there", c.LocalAddr(), now, err, name)
		}
	}
	if moved == 0 || moved == len(before) {
		t.Errorf("of %d flows, %d went to one of three endpoints", len(before), moved)
	}
}

func datagramsArrive(t *testing.T, r *rig, v variables) {
	var all []*conversation
	for _, p := range []probe{{from: "a", to: "udp $vip:53"}, {from: "a", to: "udp $ext:53"}, {from: "node1", to: "udp $ext:53"}, {from: "out1", to: "udp $node1:$np"},
		{from: "out1", to: "udp $ext:53"}} {
		for _, one := range v.probes(t, p) {
			c := r.talk(t, p.from, "udp", strings.TrimPrefix(one.to, "udp "))
			_, _ = c.say(silence) // nobody answers yet; what that leaves in connection tracking is the question
			all = append(all, c)
		}
	}
	arrive := func(what string) {
		t.Helper()
		for _, c := range all {
			took := within(t, patience, func() error {
				if now, err := c.say(silence); now != "c" {
					return fmt.Errorf("%s: %v to %v has %q, %v", what, c.LocalAddr(), c.RemoteAddr(), now, err)
				}
				return nil
			})
			if took > 5*time.Second {
				t.Errorf("%s: %v to %v took %v", what, c.LocalAddr(), c.RemoteAddr(), took)
			}
		}
	}
	fields := "type: NodePort, externalIPs: [$ext4, '$ext6']"
	must(t, r.Apply(t.Context(), v.expand(t, udpWeb(fields)+udpBacked("c"), "")))
	arrive("from no Service to one")
	r.apply(t, v, udpBacked(""))
	for _, c := range all {
		within(t, time.Second, func() error { // connection tracking forgets flows beside the sync, a moment later
			if now, err := c.say(silence); err == nil {
				return fmt.Errorf("%v to %v has %q without endpoints", c.LocalAddr(), c.RemoteAddr(), now)
			}
			return nil
		})
	}
	must(t, r.Apply(t.Context(), v.expand(t, udpBacked("c"), "")))
	arrive("from no endpoint to one")
}

func apiServerAway(t *testing.T, r *rig, v variables) {
	r.apply(t, v, web("type: NodePort")+backed("b c"))
	n1, n2 := r.machines["node1"].node, r.machines["node2"].node
	before := map[*lab.Node]string{n1: settled(t, n1), n2: settled(t, n2)}
	unchanged := func(what string) {
		t.Helper()
		r.want(t, v, probe{"a", "tcp $vip:80", "b c"}, probe{"node1", "tcp $vip:80", "b~ c~"}, probe{"out1", "tcp $node1:$np", "b~ c~"},
			probe{"out2", "tcp $node2:$np", "b~ c~"})
		for n, was := range before {
			if now := contents(t, n); now != was {
				t.Errorf("%s: the tables of %s changed:\n%s", what, n.Name, differing(was, now))
			}
		}
	}
	r.Cluster.Kill()
	begin := time.Now()
	unchanged("the API server is gone")
	must(t, n1.KillDaemon(t.Context()))
	must(t, n1.StartDaemon())
	const away = 20 * time.Second
	for time.Since(begin) < away {
		unchanged("the API server is away, and one daemon has started anew")
		if t.Failed() {
			break
		}
	}
	must(t, r.Cluster.Restart(t.Context()))
	must(t, n1.Ready(t.Context()))
	unchanged("the API server is back")
	back := time.Now()
	must(t, r.Apply(t.Context(), v.expand(t, backed("d"), "")))
	r.soon(t, v, probe{"a", "tcp $vip:80", "d"}, probe{"out1", "tcp $node1:$np", "d~"}, probe{"out2", "tcp $node2:$np", "d~"})
	took := time.Since(back).Round(time.Millisecond)
	t.Logf("a change arrived %v after the API server was back", took)
	if took > 12*time.Second {
		t.Errorf("a change arrived only after %v: how long does the daemon wait until it asks again?", took)
	}
}

func addressChanges(t *testing.T, r *rig, v variables) {
	r.apply(t, v, web("type: NodePort")+backed("a c"))
	for i, name := range nodeNames { // one with the default, one with nodePortAddresses
		m := r.machines[name]
		sh(t, m.ns, fmt.Sprintf("ip addr del 172.30.77.%d/16 dev eth0", i+1))
		new4, new6 := netip.AddrFrom4([4]byte{172, 30, 1, byte(221 + i)}), netip.MustParseAddr(fmt.Sprintf("fd00:30::1:%x", 221+i))
		must(t, m.node.SetAddrs(new4, new6))
		begin := time.Now()
		for _, from := range []string{"out1", name} {
			for _, to := range []netip.Addr{new4, new6} {
				r.soon(t, v, probe{from, fmt.Sprintf("tcp %v", netip.AddrPortFrom(to, port(v))), "a~ c~"})
			}
		}
		t.Logf("node ports answer at the new address of %s after %v", name, time.Since(begin).Round(time.Millisecond))
		within(t, patience, func() error {
			text, err := tryContents(t.Context(), m.node)
			for _, old := range m.addrs {
				if strings.Contains(text, fmt.Sprintf("%q", old)) {
					err = fmt.Errorf("the tables of %s still hold %v, which is the node's no more", name, old)
				}
			}
			return err
		})
	}
}

func port(v variables) uint16 {
	var n uint16
	if _, err := fmt.Sscan(v["np"], &n); err != nil {
		panic(err) // of the variable that vars made
	}
	return n
}
