package bgp

import (
	"net/netip"
	"time"
)

// SessionState is what is known of one session.
type SessionState struct {
	Name      string // of the Peer or Range
	Address   netip.Addr
	AS        uint32
	RouterID  netip.Addr // of the neighbour; zero before it was established
	Dynamic   bool       // of a Range
	State     string     // RFC 4271's: Idle, Connect, Active, OpenSent, OpenConfirm, Established
	Since     time.Time  // of the state being Established or not
	Flaps     int        // how many times it left Established
	LastError string     // why it ended last, or does not come up; empty when that is unknown
	Restarted bool       // the neighbour is gone and its routes are kept (graceful restart helper)
	EndOfRIB  bool       // the neighbour has said all that it had to say, for each family

	Received, Accepted, Announced int // prefixes
	UpdatesIn, UpdatesOut         uint64

	BFD string // Down, Init, Up, AdminDown; empty: off
}

// Established reports whether prefixes are exchanged.
func (s SessionState) Established() bool { return s.State == "Established" }

// PathQuery chooses paths.
type PathQuery struct {
	Prefix netip.Prefix // zero: all
	Peer   netip.Addr   // zero: of the table that routes are chosen from; else what this neighbour announced, rejected paths among it
	To     netip.Addr   // zero, or the neighbour whose announcements from this node are wanted
}

// Path is one announcement of a prefix.
type Path struct {
	Prefix           netip.Prefix
	NextHop          netip.Addr
	From             netip.Addr // the neighbour; zero: this node
	ASPath           []uint32
	Origin           string // IGP, EGP, incomplete
	LocalPref, MED   uint32
	Communities      []Community
	LargeCommunities []LargeCommunity
	Originator       netip.Addr // RFC 4456; zero: none
	ClusterList      []netip.Addr
	Age              time.Duration
	Best             bool
	Stale            bool   // kept for a neighbour that restarts
	Rejected         string // why it is not used; empty: it is
}
