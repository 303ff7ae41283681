//go:build linux

package resolver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/twill-cni/twill/dns/zone"
)

// Options say what a Server answers with.
type Options struct {
	Zone       *zone.Zone
	Port       uint16           // of its addresses; 0: 53
	Upstreams  []netip.AddrPort // for names that are none of the Zone's; none: those of ResolvConf
	ResolvConf string           // followed as long as the Server runs
	Metrics    *Metrics
	Log        *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Place is where a Server answers, and whom.
type Place struct {
	Addrs   []netip.Addr
	Clients []netip.Prefix
}

// Server is a node's DNS server.
type Server struct {
	options   Options
	upstreams upstreams
	cache     *cache
	flights   flights

	place   atomic.Pointer[Place]
	moved   chan struct{}
	serving atomic.Pointer[error] // points to nil while it answers
}

var errNowhere = errors.New("DNS is not answered yet: the node has no subnet")

// New returns a Server that is nowhere; see Move.
func New(o Options) *Server {
	if o.Port == 0 {
		o.Port = 53
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{options: o, cache: newCache(maxEntries), flights: newFlights(), moved: make(chan struct{}, 1)}
	s.upstreams.set(o.Upstreams)
	s.place.Store(&Place{})
	s.serving.Store(&errNowhere)
	return s
}

// Move has the Server answer at other addresses, or other clients. It may be called at any time, from any goroutine.
func (s *Server) Move(p Place) {
	old := s.place.Swap(&Place{Addrs: slices.Clone(p.Addrs), Clients: slices.Clone(p.Clients)})
	if slices.Equal(old.Addrs, p.Addrs) {
		return
	}
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// Ready returns why clients get no answers; nil: they do.
func (s *Server) Ready() error {
	if err := *s.serving.Load(); err != nil {
		return err
	}
	if !s.options.Zone.Loaded() {
		return errors.New("DNS does not know yet which Services and pods there are")
	}
	return nil
}

// relisten is how long a Server waits when it cannot listen, since somebody else has the port for example.
const relisten = 2 * time.Second

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if len(s.options.Upstreams) == 0 {
		g.Go(func() error {
			s.followResolvConf(ctx)
			return nil
		})
	}
	g.Go(func() error {
		s.settle(ctx)
		return nil
	})
	return g.Wait()
}

// settle answers at one place after the other.
func (s *Server) settle(ctx context.Context) {
	for said := ""; ctx.Err() == nil; {
		err := s.stay(ctx)
		if err != nil && ctx.Err() == nil {
			s.serving.Store(&err)
			if err.Error() != said {
				s.options.Log.Error("names are not answered; trying again", "err", err)
			}
			said = err.Error()
			select {
			case <-ctx.Done():
			case <-s.moved:
			case <-time.After(relisten):
			}
			continue
		}
		said = ""
	}
}

// stay answers at the present place until it is another one.
func (s *Server) stay(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-s.moved: // before, to where it is going now
	default:
	}
	var at []netip.AddrPort
	for _, a := range s.place.Load().Addrs {
		at = append(at, netip.AddrPortFrom(a, s.options.Port))
	}
	if len(at) == 0 {
		s.serving.Store(&errNowhere)
		select {
		case <-ctx.Done():
		case <-s.moved:
		}
		return nil
	}
	all, err := listen(ctx, at, dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) { s.answer(ctx, w, req) }))
	if err != nil {
		return err
	}
	var none error
	s.serving.Store(&none)
	s.options.Log.Info("names are answered", "at", at, "domain", s.options.Zone.Domain())
	go func() {
		select {
		case <-s.moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	return all.serve(ctx)
}

// answer answers one question.
func (s *Server) answer(ctx context.Context, w dns.ResponseWriter, req *dns.Msg) {
	start := s.options.Now()
	client, udp := clientOf(w.RemoteAddr())
	var resp *dns.Msg
	from := fromNobody
	if s.allowed(client) {
		resp, from = s.respond(ctx, req)
	} else {
		resp = new(dns.Msg).SetRcode(req, dns.RcodeRefused)
	}
	fit(resp, sizeFor(req, udp))
	s.options.Metrics.answered(from, resp, s.options.Now().Sub(start))
	if err := w.WriteMsg(resp); err != nil {
		s.options.Log.Debug("an answer was not sent", "client", client, "err", err)
	}
}

func clientOf(addr net.Addr) (client netip.Addr, udp bool) {
	switch a := addr.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap().WithZone(""), true
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap().WithZone(""), false
	}
	return netip.Addr{}, true
}

// allowed reports whether a client is answered: a pod, or the node by an address at which the Server answers or a loopback one.
func (s *Server) allowed(client netip.Addr) bool {
	p := s.place.Load()
	return client.IsLoopback() || slices.Contains(p.Addrs, client) ||
		slices.ContainsFunc(p.Clients, func(n netip.Prefix) bool { return n.Contains(client) })
}
