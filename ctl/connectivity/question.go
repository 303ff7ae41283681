package connectivity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/store"
)

// Question is what is asked of an address.
type Question struct {
	Protocol store.Protocol // TCP, UDP, or probe's ICMP and ICMPv6
	// To is the address; with ICMP it has no port. With Lookup it is a name server.
	To     netip.AddrPort
	Size   int      // of an echo request, in bytes, with the header of IP; 0: small
	Lookup string   // a name to look up
	V6     bool     // look up addresses of IPv6
	Want   []string // who may answer, or the addresses that the name has; empty: anything
}

// Ask asks from inside a place, and waits for as long as patience for an answer. Somebody else's answer is a failure.
func (q Question) Ask(ctx context.Context, from probe.Place, patience time.Duration) probe.Answer {
	switch {
	case q.Lookup != "":
		found, answer := probe.Resolve(ctx, from, q.To, q.Lookup, q.V6, patience)
		texts := make([]string, len(found))
		for i, a := range found {
			texts[i] = a.String()
		}
		if answer.Outcome == probe.Reached && !slices.Equal(slices.Sorted(slices.Values(texts)), slices.Sorted(slices.Values(q.Want))) {
			return probe.Answer{Outcome: probe.Failed, Detail: fmt.Sprintf("the name has %s, want %s", strings.Join(texts, ", "), strings.Join(q.Want, ", "))}
		}
		return answer
	case q.Size > 0:
		return probe.AskLarge(ctx, from, q.To.Addr(), q.Size, patience)
	case len(q.Want) == 0:
		return probe.Ask(ctx, from, q.Protocol, q.To, patience)
	}
	who, answer := probe.Who(ctx, from, q.Protocol, q.To, patience)
	if answer.Outcome == probe.Reached && !slices.Contains(q.Want, who) {
		return probe.Answer{Outcome: probe.Failed, Detail: fmt.Sprintf("%q answered, want %s", who, strings.Join(q.Want, " or "))}
	}
	return answer
}

// String says what is asked.
func (q Question) String() string {
	switch {
	case q.Lookup != "" && q.V6:
		return q.Lookup + " AAAA"
	case q.Lookup != "":
		return q.Lookup + " A"
	case q.Size > 0:
		return fmt.Sprintf("%s, %d bytes", q.To.Addr(), q.Size)
	case q.isEcho():
		return q.To.Addr().String()
	}
	return q.To.String() + "/" + strings.ToLower(q.Protocol.String())
}

// Target is where it goes, as twillctl trace and policy test want it: an echo request is taken for one to the port of the pods' servers, which leads the same way.
func (q Question) Target() string {
	to := q.To
	if to.Port() == 0 {
		to = netip.AddrPortFrom(to.Addr(), Port)
	}
	if q.Protocol == store.UDP {
		return to.String() + "/udp"
	}
	return to.String()
}

func (q Question) isEcho() bool { return q.Protocol == probe.ICMP || q.Protocol == probe.ICMPv6 }

// Family is "IPv4" or "IPv6".
func (q Question) Family() string {
	if q.V6 || q.Lookup == "" && q.To.Addr().Is6() {
		return "IPv6"
	}
	return "IPv4"
}
