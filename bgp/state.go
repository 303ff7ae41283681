package bgp

import (
	"net/netip"
	"time"
)

// NotCounted stands for a number of prefixes that is not known yet.
const NotCounted = -1

// SessionState is what is known of one session.
type SessionState struct {
	Name      string     `json:"name"` // of the Peer or Range
	Address   netip.Addr `json:"address"`
	AS        uint32     `json:"as"`
	RouterID  netip.Addr `json:"routerID,omitzero"`   // of the neighbour; zero before it was established
	Dynamic   bool       `json:"dynamic,omitempty"`   // of a Range
	State     string     `json:"state"`               // RFC 4271's: Idle, Connect, Active, OpenSent, OpenConfirm, Established
	Since     time.Time  `json:"since"`               // of the state being Established or not
	Flaps     int        `json:"flaps"`               // how many times it left Established
	LastError string     `json:"lastError,omitempty"` // why it ended last, or does not come up; empty when that is unknown
	Restarted bool       `json:"restarted,omitempty"` // the neighbour is gone and its routes are kept (graceful restart helper)
	EndOfRIB  bool       `json:"endOfRIB"`            // the neighbour has said all that it had to say, for each family

	Received   int    `json:"received"`
	Accepted   int    `json:"accepted"`
	Announced  int    `json:"announced"` // prefixes
	UpdatesIn  uint64 `json:"updatesIn"`
	UpdatesOut uint64 `json:"updatesOut"`

	BFD string `json:"bfd,omitempty"` // Down, Init, Up, AdminDown; empty: off
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
	Prefix           netip.Prefix     `json:"prefix"`
	NextHop          netip.Addr       `json:"nextHop"`
	From             netip.Addr       `json:"from,omitzero"` // the neighbour; zero: this node
	ASPath           []uint32         `json:"asPath,omitempty"`
	Origin           string           `json:"origin"` // IGP, EGP, incomplete
	LocalPref        uint32           `json:"localPref"`
	MED              uint32           `json:"med"`
	Communities      []Community      `json:"communities,omitempty"`
	LargeCommunities []LargeCommunity `json:"largeCommunities,omitempty"`
	Originator       netip.Addr       `json:"originator,omitzero"` // RFC 4456; zero: none
	ClusterList      []netip.Addr     `json:"clusterList,omitempty"`
	Age              time.Duration    `json:"age"`
	Best             bool             `json:"best"`
	Stale            bool             `json:"stale,omitempty"`    // kept for a neighbour that restarts
	Rejected         string           `json:"rejected,omitempty"` // why it is not used; empty: it is
}
