package dnat

import (
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/proxy/service"
)

const (
	localPod  = "10.1.1.9:1"
	remotePod = "10.1.2.9:1"
	outsider  = "203.0.113.9:1"
	theNode   = "192.0.2.1:1"
)

// scenario is a Service and where its clients get to. The tracer and real packets go through the same ones.
type scenario struct {
	name      string
	frontends func(family) []service.Frontend
	to        string
	want      map[string]string // client -> targets, separated by commas
}

func scenarios() []scenario {
	type frontends = []service.Frontend
	local := func(f family, fe service.Frontend) service.Frontend { // externalTrafficPolicy Local
		fe.Kind, fe.Masquerade, fe.Empty = service.LoadBalancer, service.MasqueradeNever, service.Drop
		fe.Inside = &service.Backends{Endpoints: f.backends("10.1.1.2:8080", "10.1.2.2:8080")}
		return fe
	}
	return []scenario{
		{"a ClusterIP", func(f family) frontends {
			return frontends{f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080")}
		}, "10.96.0.1:80",
			map[string]string{localPod: "10.1.1.2:8080,10.1.2.2:8080", remotePod: "10.1.1.2:8080,10.1.2.2:8080",
				outsider: "10.1.1.2:8080 masqueraded,10.1.2.2:8080 masqueraded", theNode: "10.1.1.2:8080 masqueraded,10.1.2.2:8080 masqueraded"}},
		{"a pod that reaches itself", func(f family) frontends { return frontends{f.frontend("10.96.0.1:80", "10.1.1.9:8080")} }, "10.96.0.1:80",
			map[string]string{localPod: "10.1.1.9:8080 masqueraded", remotePod: "10.1.1.9:8080"}},
		{"no endpoint", func(f family) frontends { return frontends{f.frontend("10.96.0.1:80")} }, "10.96.0.1:80",
			map[string]string{localPod: "reject", outsider: "reject", theNode: "reject"}},
		{"an unknown port", func(f family) frontends { return frontends{f.frontend("10.96.0.1:80", "10.1.1.2:8080")} }, "10.96.0.1:81",
			map[string]string{localPod: "reject", theNode: "reject"}},
		{"a ClusterIP that nobody has", func(f family) frontends { return frontends{f.frontend("10.96.0.1:80", "10.1.1.2:8080")} }, "10.96.0.2:80",
			map[string]string{localPod: "drop", theNode: "drop"}},
		{"no Service", func(f family) frontends { return nil }, "198.51.100.7:80", map[string]string{localPod: "pass", theNode: "pass"}},
		{"an external address", func(f family) frontends {
			fe := f.frontend("198.51.100.7:80", "10.1.1.2:8080")
			fe.Kind, fe.Masquerade = service.ExternalIP, service.MasqueradeAlways
			return frontends{fe}
		}, "198.51.100.7:80", map[string]string{outsider: "10.1.1.2:8080 masqueraded", localPod: "10.1.1.2:8080 masqueraded"}},
		{"another port of an external address", func(f family) frontends {
			fe := f.frontend("198.51.100.7:80", "10.1.1.2:8080")
			fe.Kind = service.ExternalIP
			return frontends{fe}
		}, "198.51.100.7:81", map[string]string{outsider: "pass"}},
		{"external policy Local", func(f family) frontends { return frontends{local(f, f.frontend("198.51.100.7:80", "10.1.1.2:8080"))} }, "198.51.100.7:80",
			map[string]string{outsider: "10.1.1.2:8080", localPod: "10.1.1.2:8080,10.1.2.2:8080",
				remotePod: "10.1.1.2:8080 masqueraded,10.1.2.2:8080 masqueraded", theNode: "10.1.1.2:8080 masqueraded,10.1.2.2:8080 masqueraded"}},
		{"external policy Local, none here", func(f family) frontends { return frontends{local(f, f.frontend("198.51.100.7:80"))} }, "198.51.100.7:80",
			map[string]string{outsider: "drop", localPod: "10.1.1.2:8080,10.1.2.2:8080"}},
		{"external policy Local, none at all", func(f family) frontends {
			fe := local(f, f.frontend("198.51.100.7:80"))
			fe.Inside = &service.Backends{}
			return frontends{fe}
		}, "198.51.100.7:80", map[string]string{outsider: "drop", localPod: "reject", theNode: "reject"}},
		{"internal policy Local, none here", func(f family) frontends {
			fe := f.frontend("10.96.0.1:80")
			fe.Empty = service.Drop
			return frontends{fe}
		}, "10.96.0.1:80", map[string]string{localPod: "drop", theNode: "drop"}},
		{"source ranges that overlap", func(f family) frontends {
			fe := f.frontend("198.51.100.7:80", "10.1.1.2:8080")
			fe.Kind, fe.Masquerade = service.LoadBalancer, service.MasqueradeAlways
			fe.Allowed = []netip.Prefix{netip.PrefixFrom(f.addr("203.0.113.9"), f.addr("203.0.113.9").BitLen()), netip.PrefixFrom(f.addr("203.0.113.9"), f.addr("203.0.113.9").BitLen()-8)}
			return frontends{fe}
		}, "198.51.100.7:80", map[string]string{outsider: "10.1.1.2:8080 masqueraded", localPod: "drop", theNode: "drop"}},
		{"source ranges before the way inside", func(f family) frontends {
			fe := local(f, f.frontend("198.51.100.7:80"))
			fe.Allowed = f.config.NodePodNetworks
			return frontends{fe}
		}, "198.51.100.7:80", map[string]string{outsider: "drop", localPod: "10.1.1.2:8080,10.1.2.2:8080", remotePod: "drop"}},
		{"source ranges without anybody", func(f family) frontends {
			fe := f.frontend("198.51.100.7:80", "10.1.1.2:8080")
			fe.Allowed = []netip.Prefix{}
			return frontends{fe}
		}, "198.51.100.7:80", map[string]string{outsider: "drop", localPod: "drop"}},
		{"round robin", func(f family) frontends {
			fe := f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080", "10.1.2.3:8080")
			fe.Scheduler = service.RoundRobin
			return frontends{fe}
		}, "10.96.0.1:80", map[string]string{localPod: "10.1.1.2:8080,10.1.2.2:8080,10.1.2.3:8080"}},
		{"Maglev", func(f family) frontends {
			fe := f.frontend("10.96.0.1:80", "10.1.1.2:8080", "10.1.2.2:8080", "10.1.2.3:8080")
			fe.Scheduler = service.Maglev
			return frontends{fe}
		}, "10.96.0.1:80", map[string]string{localPod: "10.1.1.2:8080,10.1.2.2:8080,10.1.2.3:8080"}},
	}
}

// targets returns what want says for a client, in f's addresses.
func (s scenario) targets(f family, client string) (out []string) {
	for one := range strings.SplitSeq(s.want[client], ",") {
		if at, flag, _ := strings.Cut(one, " "); strings.Contains(at, ":") {
			one = strings.TrimSpace(f.at(at).String() + " " + flag)
		}
		out = append(out, one)
	}
	return out
}
