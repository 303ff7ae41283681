package netconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that a port can be mapped for.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// MarshalText makes records readable.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes. Case does not matter.
func (p *Protocol) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "tcp":
		*p = TCP
	case "udp":
		*p = UDP
	case "sctp":
		*p = SCTP
	default:
		return fmt.Errorf("%q is not tcp, udp or sctp", text)
	}
	return nil
}

// PortMapping makes a port of the node lead to a port of the pod.
type PortMapping struct {
	Protocol      Protocol   `json:"protocol"`
	HostIP        netip.Addr `json:"hostIP,omitzero"` // one address of the node; 0.0.0.0 or ::, all of that family; zero, all
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

func (m PortMapping) String() string {
	host := "*"
	if m.HostIP.IsValid() {
		host = m.HostIP.String()
	}
	return fmt.Sprintf("%s %s port %d", m.Protocol, host, m.HostPort)
}

type portMappingJSON struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// parsePortMappings validates the mappings. One without a host port asks for nothing and is left out, as runtimes
// pass such for every port that a pod declares.
func parsePortMappings(in []portMappingJSON) ([]PortMapping, error) {
	var out []PortMapping
	type place struct {
		protocol Protocol
		ip       netip.Addr
		port     uint16
	}
	seen := map[place]int{}
	for i, m := range in {
		if m.HostPort == 0 {
			continue
		}
		parsed, err := parsePortMapping(m)
		if err != nil {
			return nil, fmt.Errorf("runtimeConfig.portMappings[%d].%w", i, err)
		}
		at := place{parsed.Protocol, parsed.HostIP, parsed.HostPort}
		if other, twice := seen[at]; twice {
			return nil, fmt.Errorf("runtimeConfig.portMappings[%d]: %s is mapped by portMappings[%d] already", i, parsed, other)
		}
		seen[at] = i
		out = append(out, parsed)
	}
	return out, nil
}

func parsePortMapping(m portMappingJSON) (PortMapping, error) {
	var out PortMapping
	for _, p := range []struct {
		key  string
		port int
		to   *uint16
	}{{"hostPort", m.HostPort, &out.HostPort}, {"containerPort", m.ContainerPort, &out.ContainerPort}} {
		if p.port < 1 || p.port > 65535 {
			return out, fmt.Errorf("%s: %d is not between 1 and 65535", p.key, p.port)
		}
		*p.to = uint16(p.port)
	}
	out.Protocol = TCP
	if m.Protocol != "" {
		if err := out.Protocol.UnmarshalText([]byte(m.Protocol)); err != nil {
			return out, fmt.Errorf("protocol: %w", err)
		}
	}
	if m.HostIP == "" {
		return out, nil
	}
	ip, err := netip.ParseAddr(m.HostIP)
	if err != nil || ip.Zone() != "" {
		return out, fmt.Errorf("hostIP: %q is not an IP address", m.HostIP)
	}
	out.HostIP = ip.Unmap()
	return out, nil
}
