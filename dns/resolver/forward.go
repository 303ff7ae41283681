//go:build linux

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// Limits of questions to upstreams.
const (
	tryTimeout   = 1500 * time.Millisecond
	totalTimeout = 4500 * time.Millisecond // clients ask again after 5 s
	rounds       = 2                       // over all upstreams
	maxFlights   = 512
)

// flights are the questions under way to upstreams.
type flights struct {
	group *singleflight.Group
	slots chan struct{}
}

func newFlights() flights {
	return flights{group: &singleflight.Group{}, slots: make(chan struct{}, maxFlights)}
}

// resolve returns what others answer to a question that was asked by that name. What fails is an answer, too: a server failure.
func (s *Server) resolve(ctx context.Context, l lookup, name string) (msg *dns.Msg, from string) {
	now := s.options.Now()
	if e, ok := s.cache.get(l, now); ok {
		return e.answer(name, now), fromCache
	}
	key := fmt.Sprint(l.qtype, l.dnssec, l.unchecked, l.name)
	found, err, _ := s.flights.group.Do(key, func() (any, error) {
		select {
		case s.flights.slots <- struct{}{}:
			defer func() { <-s.flights.slots }()
		default:
			return nil, errors.New("too many questions are under way")
		}
		answer, err := s.exchange(ctx, l, name)
		if err != nil {
			s.options.Metrics.failed()
			s.options.Log.Debug("no upstream answers", "name", name, "err", err)
			answer = new(dns.Msg)
			answer.Question = []dns.Question{{Name: l.name, Qtype: l.qtype, Qclass: dns.ClassINET}}
			answer.Rcode = dns.RcodeServerFailure
		}
		e := s.cache.put(l, answer, s.options.Now())
		s.options.Metrics.cached(s.cache.len())
		return e, nil
	})
	if err != nil {
		return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}, fromUpstream
	}
	return found.(*entry).answer(name, s.options.Now()), fromUpstream
}

// exchange asks one upstream after the other until one answers. One that says that it failed, or refuses, is as one that does not answer, but its
// answer is the last resort.
func (s *Server) exchange(ctx context.Context, l lookup, name string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	all := s.upstreams.others(s.place.Load().Addrs)
	if len(all) == 0 {
		return nil, errors.New("there is no upstream to ask: give --dns-upstream, or a nameserver in the host's resolv.conf that is not this server")
	}
	var resort *dns.Msg
	var errs []error
	start := int(s.upstreams.first.Load())
	for i := range rounds * len(all) {
		if ctx.Err() != nil {
			break
		}
		at := (start + i) % len(all)
		answer, err := ask(ctx, all[at], l, name)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("ask %s: %w", all[at], err))
		case answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused || answer.Rcode == dns.RcodeNotImplemented:
			resort = answer
		default:
			s.upstreams.first.Store(uint32(at))
			return answer, nil
		}
	}
	if resort != nil {
		return resort, nil
	}
	return nil, errors.Join(errs...)
}

// ask asks one upstream, by TCP when its answer does not fit.
func ask(ctx context.Context, upstream netip.AddrPort, l lookup, name string) (*dns.Msg, error) {
	req := new(dns.Msg).SetQuestion(name, l.qtype)
	req.CheckingDisabled = l.unchecked
	req.AuthenticatedData = true // we understand the bit (RFC 6840, 5.7)
	req.SetEdns0(udpSize, l.dnssec)
	answer, err := transfer(ctx, "udp", upstream, req)
	if err != nil || !answer.Truncated {
		return answer, err
	}
	if answer, err = transfer(ctx, "tcp", upstream, req); err != nil {
		return nil, fmt.Errorf("after an answer that was cut off: %w", err)
	}
	return answer, nil
}

func transfer(ctx context.Context, network string, upstream netip.AddrPort, req *dns.Msg) (*dns.Msg, error) {
	client := &dns.Client{Net: network, UDPSize: udpSize, Timeout: tryTimeout}
	answer, _, err := client.ExchangeContext(ctx, req, upstream.String())
	if err != nil {
		return nil, err
	}
	if !answer.Response || len(answer.Question) != 1 || answer.Question[0].Qtype != req.Question[0].Qtype ||
		answer.Question[0].Qclass != dns.ClassINET || !strings.EqualFold(answer.Question[0].Name, req.Question[0].Name) {
		return nil, errors.New("it answers another question")
	}
	return answer, nil
}

// upstreams are whom to ask.
type upstreams struct {
	list  atomic.Pointer[[]netip.AddrPort]
	first atomic.Uint32 // the one that answered last
}

func (u *upstreams) set(list []netip.AddrPort) {
	list = slices.Clone(list)
	u.list.Store(&list)
	u.first.Store(0)
}

// others returns the upstreams without those that are we ourselves.
func (u *upstreams) others(own []netip.Addr) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(*u.list.Load()), func(a netip.AddrPort) bool { return slices.Contains(own, a.Addr()) })
}
