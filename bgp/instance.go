package bgp

import (
	"fmt"
	"net/netip"
	"time"
)

// Instance is all that a speaker should be. The order of its slices carries no meaning, except within the rules of a filter. An Instance is
// never changed after it was made.
type Instance struct {
	AS       uint32
	RouterID netip.Addr   // IPv4
	Port     uint16       // TCP, of the listener; 0 for no listener
	Listen   []netip.Addr // empty: all of the node's addresses

	IPv4, IPv6 bool // the families of the prefixes that are exchanged

	// Restarting says that the kernel still forwards by what an earlier run of the daemon learned: the Restart State and Forwarding State
	// bits of RFC 4724, section 3. It counts when a peer is added. A node that lost its routes must not say it, since its
	// peers wait for it with their own announcements.
	Restarting bool

	Peers         []Peer
	Ranges        []Range
	Announcements []Announcement
}

// Peer is one neighbour.
type Peer struct {
	Name    string     // for people, such as "node b" or "tor-1"
	Address netip.Addr // identifies the peer
	Port    uint16     // TCP; 0 is 179
	Settings
}

// Range accepts sessions from neighbours that are not known by address (dynamic neighbours).
type Range struct {
	Name   string
	Prefix netip.Prefix // identifies the range; the longest match wins
	Settings
}

// Settings say how a session is held. The zero value of each field but AS and Timers is a sensible default.
type Settings struct {
	AS           uint32     // the neighbour's; another than the Instance's makes the session external
	LocalAddress netip.Addr // source address; zero: the kernel's choice
	Passive      bool       // wait for the neighbour to connect
	Password     string     // TCP MD5 signature (RFC 2385); a secret: never logged
	Timers       Timers

	MultihopTTL uint8 // external sessions over routers: the TTL to send with; 0 and 1: directly connected
	// TTLSecurity is the number of hops, at most, that the neighbour is away (GTSM, RFC 5082): 1 is directly connected. Packets with a
	// lower TTL than follows from it are dropped. 0: off. Not together with MultihopTTL.
	TTLSecurity uint8

	Reflector   *Reflector       // the neighbour is a client of this route reflector
	NextHopSelf bool             // announce this node as the next hop of what other neighbours announced
	Graceful    *GracefulRestart // nil: off
	BFD         *BFD             // nil: off

	// MaxPrefixes ends the session when the neighbour announces more of a family (Cease, RFC 4486); 0: no limit.
	MaxPrefixes uint32

	Import []Rule // what of the neighbour's announcements is accepted: the first rule that matches decides; none: accepted
	Export []Rule // what is announced to the neighbour: likewise
}

// Timers are the intervals of a session (RFC 4271, section 10). All are whole seconds.
type Timers struct {
	Hold         time.Duration // 0 or at least 3 s
	Keepalive    time.Duration // at most a third of Hold
	ConnectRetry time.Duration
}

// Reflector makes the neighbour a client (RFC 4456).
type Reflector struct {
	ClusterID netip.Addr // IPv4 form
}

// GracefulRestart is RFC 4724.
type GracefulRestart struct {
	RestartTime time.Duration // for how long peers keep this node's routes without a session; whole seconds, at most 4095
	// StaleTime is for how long at most this node waits, after a restart of its own, for peers to say what they have to say.
	StaleTime time.Duration
}

// BFD detects a dead path (RFC 5880, asynchronous mode, single hop: RFC 5881).
type BFD struct {
	Transmit, Receive time.Duration
	Multiplier        uint8
}

// Announcement is a prefix that this node originates.
type Announcement struct {
	Prefix           netip.Prefix // identifies the announcement; masked
	NextHop          netip.Addr   // zero: the session's local address; needed where the session is of the other family
	Communities      []Community
	LargeCommunities []LargeCommunity
	LocalPref        uint32 // internal sessions; 0: 100
	MED              *uint32

	// Aggregate says that the prefix stands for more specific ones: the kernel drops packets that none of those fits.
	Aggregate bool
	// Translated says that this node translates packets to the prefix. One that it did not is for nobody, and must not be sent on.
	Translated bool
	Origin     Origin // for people
}

// Community is a standard community (RFC 1997).
type Community uint32

func (c Community) String() string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }

// LargeCommunity is RFC 8092's.
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

func (c LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2) }

// Rule decides about the announcements that meet all of its conditions, and changes those that it accepts.
type Rule struct {
	// Conditions; a zero one is met by everything. Within a list, one of its items has to be met.
	Prefixes         []PrefixMatch
	Communities      []Community
	LargeCommunities []LargeCommunity
	ASPath           []string // regular expressions over the AS path as in "65001 65002"
	Originated       bool     // announcements of this node's own
	External         bool     // learned over an external session; export only

	Reject bool

	AddCommunities      []Community
	AddLargeCommunities []LargeCommunity
	LocalPref           *uint32
	MED                 *uint32
	Prepend             uint8 // how many times more this node's AS goes before the path
}

// PrefixMatch is met by the prefixes within Prefix whose length is from Min to Max.
type PrefixMatch struct {
	Prefix   netip.Prefix
	Min, Max int
}
