package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab"
)

func runPolicyRate(b bench) error { return b.withPolicies(b.policyRates) }

// rateKinds are what is measured in each lab.
var rateKinds = []string{"TCP, one node", "TCP, two nodes", "UDP, one node", "UDP, two nodes"}

// rated is a lab with its rates in connections a second, a turn each.
type rated struct {
	name   string
	client *lab.Pod
	calls  [4]func(n int) error
	rates  [4][]float64
}

// policyRates measures connections between pods in labs that differ in their policies. The labs take turns.
func (b bench) policyRates(ctx context.Context) error {
	var labs []*rated
	for _, kind := range []struct {
		name, policy string
		policies     int
	}{{"--policy=off", "off", 0}, {"no policies", "on", 0}, {"10 policies", "on", 10}, {"1000 policies", "on", 1000}} {
		r, err := b.newRated(ctx, fmt.Sprintf("rate%d", len(labs)), kind.policy, kind.policies)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		r.name = kind.name
		labs = append(labs, r)
	}
	const batch = 50 // as little as that is seldom interrupted
	for turn := range max(b.scale(400), 100) {
		for i := range labs {
			r := labs[(i+turn)%len(labs)]
			for kind, call := range r.calls {
				start := time.Now()
				if err := call(batch); err != nil {
					return fmt.Errorf("%s, %s: %w", r.name, rateKinds[kind], err)
				}
				r.rates[kind] = append(r.rates[kind], batch/time.Since(start).Seconds())
			}
		}
	}
	rateTable(labs, labs[1])
	return nil
}

// rateTable prints the rates of the fastest tenth of the turns, which nothing else on the machine has slowed, and of the middle ones.
func rateTable(labs []*rated, none *rated) {
	for _, part := range []struct {
		what     string
		quantile float64
	}{{"a second, fastest tenth of the turns", .9}, {"a second, median of the turns", .5}} {
		rows := [][]string{append([]string{part.what}, rateKinds...)}
		var ratios [][]string
		for _, r := range labs {
			row, against := []string{r.name}, []string{"  " + r.name + " / " + none.name}
			for kind, rates := range r.rates {
				rate := quantile(rates, part.quantile)
				row = append(row, fmt.Sprintf("%.0f", rate))
				against = append(against, fmt.Sprintf("%.3fx", rate/quantile(none.rates[kind], part.quantile)))
			}
			rows = append(rows, row)
			if r != none {
				ratios = append(ratios, against)
			}
		}
		table(append(rows, ratios...)...)
	}
}

// quantile returns the q-quantile (0 to 1) by the nearest rank.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// newRated makes a lab of two nodes with a client on the first and servers on both.
func (b bench) newRated(ctx context.Context, name, policy string, policies int) (*rated, error) {
	l, err := b.policyLab(ctx, lab.Options{Name: name, Nodes: 2}, policy)
	if err != nil {
		return nil, err
	}
	r := &rated{}
	if r.client, err = l.Nodes()[0].AddPod(ctx, lab.PodOptions{Labels: clientLabels}); err != nil {
		return nil, err
	}
	for i, n := range l.Nodes() {
		server, err := n.AddPod(ctx, lab.PodOptions{Labels: map[string]string{"role": "server"}})
		if err != nil {
			return nil, err
		}
		tcp, udp, err := r.callers(server)
		if err != nil {
			return nil, err
		}
		r.calls[i], r.calls[2+i] = tcp, udp
	}
	if policies > 0 {
		if err := l.enforce(ctx, policies); err != nil {
			return nil, err
		}
	}
	return r, r.settled(ctx)
}

// settled waits until all calls succeed: neighbours are known, and so are the pods' labels on the other node.
func (r *rated) settled(ctx context.Context) error {
	for kind, call := range r.calls {
		var last error
		err := eventually(ctx, rateKinds[kind], func() (bool, error) {
			last = call(1)
			return last == nil, nil
		})
		if err != nil {
			return errors.Join(err, last)
		}
	}
	return nil
}

// callers has a pod answer, and returns what makes connections to it.
func (r *rated) callers(server *lab.Pod) (tcp, udp func(n int) error, err error) {
	pair := &proxyNode{name: server.Name, client: r.client.Netns(), endpoints: server.Netns()}
	if err := pair.listen(); err != nil {
		return nil, nil, err
	}
	from, to := addrOf(r.client), netip.AddrPortFrom(addrOf(server), endpointPort)
	tcp = func(n int) error {
		return pair.inClient(func() error {
			for range n {
				if _, err := pair.call(from, to, time.Second); err != nil {
					return err
				}
			}
			return nil
		})
	}
	in, err := udpSocket(server.Do, netip.AddrPortFrom(to.Addr(), endpointPort), time.Second)
	if err != nil {
		return nil, nil, err
	}
	udp = func(n int) error {
		return pair.inClient(func() error {
			for range n {
				if err := exchange(in, to); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return tcp, udp, nil
}

// exchange sends a datagram from a new port, and an answer back.
func exchange(in int, to netip.AddrPort) error {
	fd, err := openUDP(netip.AddrPort{}, time.Second)
	if err != nil {
		return err
	}
	buf := make([]byte, 64)
	err = uninterrupted(func() error { return unix.Sendto(fd, buf[:8], 0, sockaddr(to)) })
	var from unix.Sockaddr
	if err == nil {
		err = uninterrupted(func() (err error) { _, from, err = unix.Recvfrom(in, buf, 0); return err })
	}
	if err == nil {
		err = uninterrupted(func() error { return unix.Sendto(in, buf[:8], 0, from) })
	}
	if err == nil {
		err = uninterrupted(func() (err error) { _, _, err = unix.Recvfrom(fd, buf, 0); return err })
	}
	return errors.Join(err, unix.Close(fd))
}

// udpSocket opens a socket in a namespace.
func udpSocket(do func(func() error) error, at netip.AddrPort, patience time.Duration) (fd int, err error) {
	err = do(func() error {
		fd, err = openUDP(at, patience)
		return err
	})
	return fd, err
}

// openUDP opens a socket in the thread's namespace, which receives for so long; without an address the kernel chooses when it sends.
func openUDP(at netip.AddrPort, patience time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return 0, err
	}
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	if err == nil && at.IsValid() {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

// uninterrupted repeats a call that a signal of the Go runtime has interrupted.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
