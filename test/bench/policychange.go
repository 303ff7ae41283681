package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/store"
)

func runPolicyChange(b bench) error { return b.withPolicies(b.labelChanges) }

// The pod whose labels change. It is on no node of the lab: of its own packets, some come in front of each node.
var relabelled = []netip.Addr{netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("fd09::9")}

// A door is a pod of a node, with what knocks there from the changing pod's address.
//
//	outside 10.9.0.9 ── node ── pod
//
// As with proxyNode, the kernel carries a packet within the call that sends it.
type door struct {
	node    *lab.Node
	outside netns.Namespace
	in      int // the pod's socket
	to      netip.AddrPort
	known   int // a flow that both sides have sent in; -1: none
	number  uint32
}

// relabelling is what label changes took, until the last node was done, and cost.
type relabelling struct {
	opened, closed, cut samples // from the start of the write: a new flow gets through, a new one does not, an old one does not any more
	elements            float64 // of one family, for a change, on the node that wrote most
}

// labelChanges changes a remote pod's label forth and back.
func (b bench) labelChanges(ctx context.Context) error {
	const nodes = 5
	rows := [][]string{{fmt.Sprintf("a label changes, until the last of %d nodes", nodes), "opens p50", "p99", "closes p50", "p99", "cuts p50", "p99", "elements a change and family"}}
	l, err := b.policyLab(ctx, lab.Options{Name: "change", Nodes: nodes, Family: lab.DualStack}, "on")
	if err != nil {
		return err
	}
	var doors []*door
	for _, n := range l.Nodes() {
		d, err := newDoor(ctx, n)
		if err != nil {
			return err
		}
		doors = append(doors, d)
	}
	for _, policies := range []int{10, 1000} {
		if err := l.enforce(ctx, policies); err != nil {
			return err
		}
		for _, alone := range []bool{false, true} {
			if err := l.companions(ctx, !alone); err != nil {
				return err
			}
			r, err := l.relabel(ctx, doors, max(b.scale(200), 5))
			if err != nil {
				return fmt.Errorf("%d policies: %w", policies, err)
			}
			name := fmt.Sprintf("%d policies", policies)
			if alone {
				name += ", the only pod with these labels"
			}
			row := []string{name}
			for _, s := range []samples{r.opened, r.closed, r.cut} {
				row = append(row, ms(s.quantile(.5)), ms(s.quantile(.99)))
			}
			rows = append(rows, append(row, fmt.Sprintf("%.2f", r.elements)))
		}
	}
	table(rows...)
	return nil
}

// newDoor makes a pod of the node, and the namespace from which it is called.
func newDoor(ctx context.Context, n *lab.Node) (*door, error) {
	pod, err := n.AddPod(ctx, lab.PodOptions{Labels: map[string]string{"role": "server"}})
	if err != nil {
		return nil, err
	}
	outside, err := netns.Create(n.Netns().Name() + "-out")
	if err != nil {
		return nil, err
	}
	node, out := n.Netns().Name(), outside.Name()
	err = runLines(ctx,
		fmt.Sprintf("ip -n %s link add outside type veth peer name eth0 netns %s", node, out),
		fmt.Sprintf("ip -n %s addr add 169.254.1.1/32 dev outside", node),
		fmt.Sprintf("ip -n %s link set outside up", node),
		fmt.Sprintf("ip -n %s addr add %s/32 dev eth0", out, relabelled[0]),
		fmt.Sprintf("ip -n %s link set eth0 up", out),
		fmt.Sprintf("ip -n %s route add default via 169.254.1.1 dev eth0 onlink", out),
		fmt.Sprintf("ip -n %s route add %s dev outside", node, relabelled[0]))
	if err != nil {
		return nil, err
	}
	d := &door{node: n, outside: outside, to: netip.AddrPortFrom(addrOf(pod), endpointPort), known: -1}
	d.in, err = udpSocket(pod.Do, d.to, time.Millisecond)
	return d, err
}

// companions are other pods with the labels that the changing pod has in turn.
func (l *policyLab) companions(ctx context.Context, wanted bool) error {
	for i, labels := range []map[string]string{clientLabels, otherLabels} {
		p := elsewhere(fmt.Sprintf("companion%d", i), labels, netip.AddrFrom4([4]byte{10, 9, 0, byte(100 + i)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x09, 15: byte(100 + i)}))
		if !wanted {
			p.Labels = nil
		}
		if err := l.putPods(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere is a pod on a node that is not in the lab.
func elsewhere(name string, labels map[string]string, addrs ...netip.Addr) *store.Pod {
	return &store.Pod{Name: store.ObjectName{Namespace: policyNamespace, Name: name}, Node: "elsewhere", Addrs: addrs, Labels: labels, Ready: true}
}

// relabel changes the labels so often, forth and back.
func (l *policyLab) relabel(ctx context.Context, doors []*door, times int) (r relabelling, err error) {
	change := func(labels map[string]string, wait func(*door) ([2]time.Time, error)) ([2]time.Duration, error) {
		began := time.Now()
		if err := l.putPods(ctx, elsewhere("changing", labels, relabelled...)); err != nil {
			return [2]time.Duration{}, err
		}
		return lastOf(doors, began, wait)
	}
	both := func() error { // first it gets in, then it does not
		opened, err := change(clientLabels, (*door).opens)
		if err != nil {
			return err
		}
		closed, err := change(otherLabels, (*door).closes)
		r.opened, r.closed, r.cut = append(r.opened, opened[0]), append(r.closed, closed[0]), append(r.cut, closed[1])
		return err
	}
	if err := both(); err != nil {
		return r, err
	}
	r = relabelling{}
	before, err := elementsWritten(ctx, doors)
	if err != nil {
		return r, err
	}
	for range times {
		if err := both(); err != nil {
			return r, err
		}
	}
	after, err := elementsWritten(ctx, doors)
	for i := range after {
		r.elements = max(r.elements, (after[i]-before[i])/float64(2*times)/float64(len(relabelled)))
	}
	return r, err
}

// lastOf waits at all doors and returns how long after began the last of them was done, for each of two things.
func lastOf(doors []*door, began time.Time, wait func(*door) ([2]time.Time, error)) (took [2]time.Duration, err error) {
	done := make([][2]time.Time, len(doors))
	var g errgroup.Group
	for i, d := range doors {
		g.Go(func() error {
			return d.outside.Do(func() (err error) {
				if done[i], err = wait(d); err != nil {
					return fmt.Errorf("%s: %w", d.node.Name, err)
				}
				return nil
			})
		})
	}
	err = g.Wait()
	for _, at := range done {
		for k := range took {
			took[k] = max(took[k], at[k].Sub(began))
		}
	}
	return took, err
}

func elementsWritten(ctx context.Context, doors []*door) ([]float64, error) {
	var all []float64
	for _, d := range doors {
		n, err := figure(ctx, d.node, "twill_policy_elements_written_total")
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// opens knocks with new flows until one gets through, and has it answered: what is established, policies ask no more.
func (d *door) opens() (at [2]time.Time, err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		fd, err := openUDP(netip.AddrPortFrom(relabelled[0], 0), time.Second)
		if err != nil {
			return at, err
		}
		from, err := d.knock(fd)
		if err == nil && from != nil {
			at[0], at[1] = time.Now(), time.Now()
			d.known = fd
			return at, d.answer(from)
		}
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return at, err
		}
	}
	return at, fmt.Errorf("still closed after %s", patience)
}

// surely is how many packets in a row have to be lost for a flow to count as refused: on a busy machine one may come late.
const surely = 4

// knockPause is between packets that get through: each new flow is one more that the node tracks.
const knockPause = time.Millisecond

// closes knocks with new flows and with the known one until neither gets through.
func (d *door) closes() (at [2]time.Time, err error) {
	var lost [2]int
	for end := time.Now().Add(patience); time.Now().Before(end); {
		for k := range lost {
			if lost[k] == surely {
				continue
			}
			sent, through, err := d.attempt(k == 1)
			if err != nil {
				return at, err
			}
			if lost[k]++; through {
				lost[k] = 0
			} else if lost[k] == 1 {
				at[k] = sent
			}
		}
		if lost == [2]int{surely, surely} {
			return at, unix.Close(d.known)
		}
		time.Sleep(knockPause)
	}
	return at, fmt.Errorf("still open after %s", patience)
}

// attempt sends a packet of the known flow or of a new one.
func (d *door) attempt(known bool) (sent time.Time, through bool, err error) {
	fd := d.known
	if !known {
		if fd, err = openUDP(netip.AddrPortFrom(relabelled[0], 0), time.Second); err != nil {
			return sent, false, err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
	}
	sent = time.Now()
	from, err := d.knock(fd)
	return sent, from != nil, err
}

// knock sends a packet and returns from where it came; nil: it did not arrive.
func (d *door) knock(fd int) (from unix.Sockaddr, err error) {
	d.number++
	packet := []byte{byte(d.number), byte(d.number >> 8), byte(d.number >> 16), byte(d.number >> 24)}
	if err := uninterrupted(func() error { return unix.Sendto(fd, packet, 0, sockaddr(d.to)) }); err != nil {
		return nil, err
	}
	buf := make([]byte, len(packet))
	for {
		err := uninterrupted(func() (err error) { _, from, err = unix.Recvfrom(d.in, buf, 0); return err })
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil, nil
		case err != nil:
			return nil, err
		case slices.Equal(buf, packet): // else it is a late one
			return from, nil
		}
	}
}

// answer sends a packet back in the flow.
func (d *door) answer(to unix.Sockaddr) error {
	buf := make([]byte, 4)
	if err := uninterrupted(func() error { return unix.Sendto(d.in, buf, 0, to) }); err != nil {
		return err
	}
	return uninterrupted(func() error { _, _, err := unix.Recvfrom(d.known, buf, 0); return err })
}
