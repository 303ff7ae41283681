package matrix

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/ping"
)

// Kind says between whom a probe goes.
type Kind string

// The kinds of probes.
const (
	PodToPod     Kind = "pod-to-pod"
	NodeToPod    Kind = "node-to-pod"
	PodToGateway Kind = "pod-to-gateway"
)

// Probe is one question and its answer: does From reach To at Address?
type Probe struct {
	Kind     Kind       `json:"kind"`
	From     string     `json:"from"`
	To       string     `json:"to"`
	Address  netip.Addr `json:"address"`
	Sent     int        `json:"sent"`
	Received int        `json:"received"`
	MinMS    float64    `json:"min_ms"` // round-trip times in milliseconds
	AvgMS    float64    `json:"avg_ms"`
	Error    string     `json:"error,omitempty"` // why a request got no reply

	source netns.Namespace
}

// OK reports whether every request got its reply.
func (p Probe) OK() bool { return p.Sent > 0 && p.Received == p.Sent }

// Report is what Run found.
type Report struct {
	Lab    string  `json:"lab"`
	Total  int     `json:"total"`
	Failed int     `json:"failed"`
	Probes []Probe `json:"probes"`
}

// together is how many probes are under way at one time: more would measure the processor's queue.
const together = 8

// Run sends echo requests between all pods, from each node to each pod, and from each pod to its gateways. An error means that the
// measuring failed; who does not reach whom is in the report.
func Run(ctx context.Context, l *lab.Lab, options ping.Options) (*Report, error) {
	report := &Report{Lab: l.Name(), Probes: plan(l)}
	report.Total = len(report.Probes)
	sources := &sources{conns: map[source]*ping.Conn{}}
	defer sources.close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for i := range report.Probes {
		p := &report.Probes[i]
		g.Go(func() error {
			conn, err := sources.conn(p)
			if err != nil {
				return fmt.Errorf("ping from %s: %w", p.From, err)
			}
			p.fill(conn.Ping(ctx, p.Address, options))
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, p := range report.Probes {
		if !p.OK() {
			report.Failed++
		}
	}
	return report, nil
}

// plan lists the probes of a lab.
func plan(l *lab.Lab) []Probe {
	var probes []Probe
	pods := l.Pods()
	for _, from := range pods {
		for _, to := range pods {
			for _, a := range to.Addrs() {
				if from != to {
					probes = append(probes, Probe{Kind: PodToPod, From: from.Name, To: to.Name, Address: a, source: from.Netns()})
				}
			}
		}
	}
	for _, from := range l.Nodes() {
		for _, to := range pods {
			for _, a := range to.Addrs() {
				probes = append(probes, Probe{Kind: NodeToPod, From: from.Name, To: to.Name, Address: a, source: from.Netns()})
			}
		}
	}
	for _, from := range pods {
		for _, a := range from.Gateways() {
			probes = append(probes, Probe{Kind: PodToGateway, From: from.Name, To: from.Node.Name, Address: a, source: from.Netns()})
		}
	}
	return probes
}

func (p *Probe) fill(s ping.Stats) {
	p.Sent, p.Received = s.Sent, s.Received
	p.MinMS, p.AvgMS = milliseconds(s.Min), milliseconds(s.Avg)
	if s.Err != nil {
		p.Error = s.Err.Error()
	}
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// sources are the open sockets, one for each namespace and family.
type sources struct {
	mu    sync.Mutex
	conns map[source]*ping.Conn
}

type source struct {
	namespace netns.Namespace
	v6        bool
}

func (s *sources) conn(p *Probe) (*ping.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := source{namespace: p.source, v6: p.Address.Is6()}
	if conn := s.conns[key]; conn != nil {
		return conn, nil
	}
	err := p.source.Do(func() (err error) {
		s.conns[key], err = ping.Listen(p.Address)
		return err
	})
	if err != nil {
		delete(s.conns, key)
	}
	return s.conns[key], err
}

func (s *sources) close() {
	for _, conn := range s.conns {
		_ = conn.Close() // it only ever sent what was answered or given up
	}
}
