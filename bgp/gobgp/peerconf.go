package gobgp

import (
	"errors"
	"fmt"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/twill-cni/twill/bgp"
)

const (
	// deferral is how long, in seconds, a restarted speaker waits for the End-of-RIB of all neighbours before it announces anything (RFC 4724,
	// section 4.1). What a node announces is its own, hence little depends on what others say; but a reflector should not
	// withdraw what it has not yet heard again.
	deferral = 3
	// allowOwnAS makes the library leave loops to the import policy.
	allowOwnAS = 255
	// passwordMax is the kernel's TCP_MD5SIG_MAXKEYLEN.
	passwordMax = 80
)

// check finds settings that cannot be had.
func check(s bgp.Settings) error {
	var errs []error
	if s.AS == 0 {
		errs = append(errs, errors.New("the AS is missing"))
	}
	if len(s.Password) > passwordMax {
		errs = append(errs, fmt.Errorf("the password has more than %d bytes", passwordMax))
	}
	if s.MultihopTTL > 1 && s.TTLSecurity > 0 {
		errs = append(errs, errors.New("multihop and TTL security exclude each other"))
	}
	if s.Timers.Hold < 3*time.Second {
		errs = append(errs, fmt.Errorf("a hold time of %v is not supported, 3s is the least", s.Timers.Hold))
	}
	return errors.Join(append(errs, checkRules(s))...)
}

// peerOf translates a peer. Rules and BFD are not in it, see filter.go and bfd.go.
func peerOf(p bgp.Peer, families []packet.Family, restarting bool) *api.Peer {
	g := groupOf(p.Settings, families)
	out := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(), PeerAsn: p.AS, AuthPassword: p.Password, Description: p.Name, AllowOwnAsn: allowOwnAS,
		},
		Timers: g.Timers, Transport: g.Transport, EbgpMultihop: g.EbgpMultihop, TtlSecurity: g.TtlSecurity,
		RouteReflector: g.RouteReflector, GracefulRestart: g.GracefulRestart, AfiSafis: g.AfiSafis,
	}
	out.Transport.RemotePort = uint32(p.Port)
	if out.GracefulRestart != nil {
		out.GracefulRestart.LocalRestarting = restarting
	}
	return out
}

// groupOf translates the settings of a range, or those parts that a peer has too.
func groupOf(s bgp.Settings, families []packet.Family) *api.PeerGroup {
	out := &api.PeerGroup{
		Conf: &api.PeerGroupConf{PeerAsn: s.AS, AuthPassword: s.Password, AllowOwnAsn: allowOwnAS},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:          uint64(s.Timers.Hold / time.Second),
			KeepaliveInterval: uint64(s.Timers.Keepalive / time.Second),
			ConnectRetry:      uint64(s.Timers.ConnectRetry / time.Second),
		}},
		Transport: &api.Transport{PassiveMode: s.Passive},
	}
	if s.LocalAddress.IsValid() {
		out.Transport.LocalAddress = s.LocalAddress.String()
	}
	if s.MultihopTTL > 1 {
		out.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(s.MultihopTTL)}
	}
	if s.TTLSecurity > 0 {
		out.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(s.TTLSecurity)}
	}
	if s.Reflector != nil {
		out.RouteReflector = &api.RouteReflector{RouteReflectorClient: true}
		if s.Reflector.ClusterID.IsValid() {
			out.RouteReflector.RouteReflectorClusterId = s.Reflector.ClusterID.String()
		}
	}
	if g := s.Graceful; g != nil {
		out.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(g.RestartTime / time.Second), DeferralTime: deferral,
		}
	}
	for _, f := range families {
		family := apiutil.ToApiFamily(f.Afi(), f.Safi())
		af := &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: family, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.Graceful != nil}},
		}
		if s.MaxPrefixes > 0 {
			af.PrefixLimits = &api.PrefixLimit{Family: family, MaxPrefixes: s.MaxPrefixes}
		}
		out.AfiSafis = append(out.AfiSafis, af)
	}
	return out
}
