package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Contains reports whether the port is in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ServiceConfig says which addresses and node ports Services are given where no Kubernetes does that.
type ServiceConfig struct {
	// Networks are at most one of each family. The first is of the family that a Service gets which asks for none.
	Networks  []netip.Prefix
	NodePorts PortRange
}

// DefaultNodePorts is the range where none is configured: Kubernetes' own.
var DefaultNodePorts = PortRange{30000, 32767}

// defaultServiceNetworks are what Kubernetes' installers choose.
var defaultServiceNetworks = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}

// MaxServiceConfigSize is the size in bytes above which ParseServiceConfig refuses a document.
const MaxServiceConfigSize = 64 << 10

// The bounds of a Service network's length: the shortest is Kubernetes', the longest leaves two addresses.
const (
	minServiceBits     = 8
	minServiceBitsIPv6 = 64
)

// ParseServiceConfig reads what a datastore holds of Services' addresses:
//
//	{"serviceNetworks": ["10.96.0.0/16", "fd00:96::/112"], "nodePorts": "30000-32767"}
//
// Both keys may be left out, and so may be the document (nil). Without serviceNetworks they are those of the example, as far as pods have
// addresses of the family; all of them when network, that of the pods, is the zero Network. It is an error when a Service network and a pod
// network overlap, and when a key is unknown.
func ParseServiceConfig(data []byte, network Network) (ServiceConfig, error) {
	c, err := parseServiceConfig(data, network)
	if err != nil {
		return ServiceConfig{}, fmt.Errorf("service config: %w", err)
	}
	return c, nil
}

func parseServiceConfig(data []byte, network Network) (ServiceConfig, error) {
	c := ServiceConfig{NodePorts: DefaultNodePorts}
	if len(data) > MaxServiceConfigSize {
		return c, fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxServiceConfigSize)
	}
	var doc struct {
		ServiceNetworks *[]string `json:"serviceNetworks"`
		NodePorts       *string   `json:"nodePorts"`
	}
	if data != nil {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&doc); err != nil {
			return c, fmt.Errorf("want an object with serviceNetworks and nodePorts: %w", err)
		}
		if decoder.More() {
			return c, errors.New("want one JSON object")
		}
	}
	var err error
	if doc.NodePorts != nil {
		if c.NodePorts, err = parsePortRange(*doc.NodePorts); err != nil {
			return c, fmt.Errorf("nodePorts: %w", err)
		}
	}
	if doc.ServiceNetworks == nil {
		unknown := !network.EnableIPv4 && !network.EnableIPv6
		for _, p := range defaultServiceNetworks {
			if unknown || p.Addr().Is4() && network.EnableIPv4 || p.Addr().Is6() && network.EnableIPv6 {
				c.Networks = append(c.Networks, p)
			}
		}
	} else if c.Networks, err = parseServiceNetworks(*doc.ServiceNetworks); err != nil {
		return c, err
	}
	for _, p := range c.Networks {
		for _, pods := range []netip.Prefix{network.IPv4.Network, network.IPv6.Network} {
			if pods.IsValid() && p.Overlaps(pods) {
				return c, fmt.Errorf("serviceNetworks: %s overlaps the pod network %s: set other serviceNetworks", p, pods)
			}
		}
	}
	return c, nil
}

func parseServiceNetworks(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for i, text := range texts {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || p.Addr().Is4In6():
			return nil, fmt.Errorf("serviceNetworks[%d]: %q is no network", i, clip(text))
		case p.Masked() != p:
			return nil, fmt.Errorf("serviceNetworks[%d]: %s should read %s", i, p, p.Masked())
		case p.Addr().Is4() && p.Bits() < minServiceBits, p.Addr().Is6() && p.Bits() < minServiceBitsIPv6, p.Addr().BitLen()-p.Bits() < 2:
			return nil, fmt.Errorf("serviceNetworks[%d]: %s: want a /%d to /30, or for IPv6 a /%d to /126", i, p, minServiceBits, minServiceBitsIPv6)
		case slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }):
			return nil, fmt.Errorf("serviceNetworks[%d]: %s is the second of its family", i, p)
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePortRange(text string) (PortRange, error) {
	first, last, _ := strings.Cut(text, "-")
	a, errA := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	b, errB := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return PortRange{}, fmt.Errorf("%q: want FIRST-LAST, such as 30000-32767", clip(text))
	}
	return PortRange{uint16(a), uint16(b)}, nil
}
