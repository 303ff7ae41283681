package gobgp

import (
	"strings"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

// answer is how soon a neighbour that has accepted a connection should have answered.
const answer = 3 * time.Second

// opening is told the states on the way to a session. A connection that the library makes itself has none of its own before the neighbour's OPEN
// is there, see connected.
func (p *session) opening(state packet.FSMState, at time.Time) {
	if state != packet.BGP_FSM_OPENSENT && state != packet.BGP_FSM_OPENCONFIRM {
		p.disconnected(at)
	} else if p.opened.IsZero() {
		p.opened = at
	}
}

// connected is told that there is a connection on which the neighbour has to answer.
func (p *session) connected(at time.Time) {
	p.disconnected(at)
	p.opened = at
}

// disconnected is told that there is none.
func (p *session) disconnected(at time.Time) {
	if p.unanswered(at) {
		p.attempt = p.silence()
	}
	p.opened = time.Time{}
}

// unanswered reports whether the neighbour should have answered long ago.
func (p *session) unanswered(now time.Time) bool {
	return !p.opened.IsZero() && now.Sub(p.opened) > answer
}

func (p *session) silence() string { return "connected, but the neighbour does not answer" + p.hint }

// hintOf names the settings for which a neighbour that lives looks dead: the kernel drops what does not fit them, and says nothing.
func hintOf(s bgp.Settings) string {
	var causes []string
	if s.Password != "" {
		causes = append(causes, "with another password")
	}
	if s.TTLSecurity > 0 {
		causes = append(causes, "without TTL security")
	}
	if len(causes) == 0 {
		return ""
	}
	return "; a neighbour " + strings.Join(causes, " or ") + " looks like this"
}
