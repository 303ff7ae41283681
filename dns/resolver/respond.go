//go:build linux

package resolver

import (
	"context"
	"math/rand/v2"
	"strings"

	"github.com/miekg/dns"
)

// udpSize is the largest answer by UDP that goes through every network without fragments (DNS flag day 2020), whatever the client says that it takes.
const udpSize = 1232

// maxChain bounds how many CNAMEs of ExternalNames one answer follows.
const maxChain = 8

// Where an answer came from.
const (
	fromNobody   = "refused"
	fromZone     = "zone"
	fromCache    = "cache"
	fromUpstream = "upstream"
)

// respond makes the answer to a question of somebody who is answered.
func (s *Server) respond(ctx context.Context, req *dns.Msg) (resp *dns.Msg, from string) {
	resp = new(dns.Msg).SetReply(req)
	resp.RecursionAvailable = true
	opt := req.IsEdns0()
	if opt != nil {
		resp.SetEdns0(udpSize, opt.Do())
		if opt.Version() != 0 {
			resp.Rcode = dns.RcodeBadVers
			return resp, fromNobody
		}
	}
	if rcode := unanswerable(req); rcode != dns.RcodeSuccess {
		resp.Rcode = rcode
		return resp, fromNobody
	}
	q := req.Question[0]
	l := lookup{name: strings.ToLower(q.Name), qtype: q.Qtype, dnssec: opt != nil && opt.Do(), unchecked: req.CheckingDisabled}
	if a, ours := s.options.Zone.Answer(q.Name, q.Qtype); ours {
		resp.Authoritative = true
		resp.Rcode, resp.Answer, resp.Ns = a.Rcode, a.Records, a.Authority
		resp.Extra = append(a.Extra, resp.Extra...)
		if a.Target != "" {
			s.follow(ctx, resp, l, a.Target)
		}
		rotate(resp.Answer)
		return resp, fromZone
	}
	switch {
	case q.Qtype == dns.TypeANY: // asked for by nobody but to amplify (RFC 8482)
		resp.Rcode = dns.RcodeNotImplemented
		return resp, fromNobody
	case !req.RecursionDesired:
		resp.Rcode = dns.RcodeRefused
		return resp, fromNobody
	}
	found, from := s.resolve(ctx, l, q.Name)
	resp.Rcode, resp.Answer, resp.Ns = found.Rcode, found.Answer, found.Ns
	resp.AuthenticatedData = found.AuthenticatedData && (req.AuthenticatedData || l.dnssec)
	rotate(resp.Answer)
	return resp, from
}

// unanswerable returns the code for what is no question that anybody here answers.
func unanswerable(req *dns.Msg) int {
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case len(req.Question) != 1:
		return dns.RcodeFormatError
	case req.Question[0].Qclass != dns.ClassINET, req.Question[0].Qtype == dns.TypeAXFR, req.Question[0].Qtype == dns.TypeIXFR:
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// follow adds what a CNAME's target has. The code is that of the last name (RFC 6604, 3).
func (s *Server) follow(ctx context.Context, resp *dns.Msg, l lookup, target string) {
	for range maxChain {
		a, ours := s.options.Zone.Answer(target, l.qtype)
		if !ours {
			l.name = strings.ToLower(target)
			found, _ := s.resolve(ctx, l, target)
			resp.Rcode, resp.Ns = found.Rcode, found.Ns
			resp.Answer = append(resp.Answer, found.Answer...)
			return
		}
		resp.Rcode, resp.Ns = a.Rcode, a.Authority
		resp.Answer = append(resp.Answer, a.Records...)
		if target = a.Target; target == "" {
			return
		}
	}
	resp.Rcode = dns.RcodeServerFailure // they lead to each other
}

// rotate puts the addresses of each name into a random order: most clients take the first.
func rotate(records []dns.RR) {
	for first := 0; first < len(records); {
		h := records[first].Header()
		end := first + 1
		for end < len(records) && records[end].Header().Rrtype == h.Rrtype && records[end].Header().Name == h.Name {
			end++
		}
		if set := records[first:end]; h.Rrtype == dns.TypeA || h.Rrtype == dns.TypeAAAA {
			rand.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		}
		first = end
	}
}

// sizeFor returns how many bytes an answer may have.
func sizeFor(req *dns.Msg, udp bool) int {
	if !udp {
		return dns.MaxMsgSize
	}
	if opt := req.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
	}
	return dns.MinMsgSize
}

// fit cuts an answer down to a size. The additional section goes without a word, as a client can ask for it (RFC 2181, 9); after that whole sets of
// records go, and the TC bit says so.
func fit(resp *dns.Msg, size int) {
	resp.Compress = true
	if resp.Len() <= size {
		return
	}
	opt := resp.IsEdns0()
	resp.Extra = nil
	if opt != nil {
		resp.Extra = []dns.RR{opt}
	}
	if resp.Len() <= size {
		return
	}
	resp.Truncated, resp.Ns = true, nil
	for len(resp.Answer) > 0 && resp.Len() > size {
		last := len(resp.Answer) - 1
		h := resp.Answer[last].Header()
		for last > 0 && resp.Answer[last-1].Header().Rrtype == h.Rrtype && resp.Answer[last-1].Header().Name == h.Name {
			last--
		}
		resp.Answer = resp.Answer[:last]
	}
}
