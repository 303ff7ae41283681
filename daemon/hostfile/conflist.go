package hostfile

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twill-cni/twill/policy/gate"
	"github.com/twill-cni/twill/store"
)

// ConflistName is the file's name in the runtime's configuration directory. Runtimes take the first name in sorting order.
const ConflistName = "10-twill.conflist"

// NetworkName is the CNI name of the pod network.
const NetworkName = "twill"

// Conflist is what the network configuration is made from.
type Conflist struct {
	Bridge  string
	MTU     int // bytes
	Subnets store.Subnets
	RunDir  string // of the plugins' own records
	DataDir string // of the address allocations

	HostLocalDir string // records of another IPAM plugin, whose addresses are passed over; empty for none

	Policy *gate.Config // what the plugin needs to keep new pods closed; nil: nobody enforces policies

	ClusterDomain string // that pods are told the node answers for; empty: it does not
}

type conflistJSON struct {
	CNIVersion  string       `json:"cniVersion"`
	CNIVersions []string     `json:"cniVersions"`
	Name        string       `json:"name"`
	Plugins     []pluginJSON `json:"plugins"`
}

type pluginJSON struct {
	Type   string      `json:"type"`
	Bridge string      `json:"bridge"`
	MTU    int         `json:"mtu"`
	RunDir string      `json:"runDir"`
	IPAM   ipamJSON    `json:"ipam"`
	Policy *policyJSON `json:"policy,omitempty"`
	DNS    *dnsJSON    `json:"dns,omitempty"`

	ClusterDomain string `json:"clusterDomain,omitempty"`

	Capabilities map[string]bool `json:"capabilities"`
}

type ipamJSON struct {
	Type    string        `json:"type"`
	Ranges  [][]rangeJSON `json:"ranges"` // one address is taken of each
	DataDir string        `json:"dataDir"`

	HostLocalDir string `json:"hostLocalDir,omitempty"`
}

type dnsJSON struct {
	Nameservers []netip.Addr `json:"nameservers"`
	Search      []string     `json:"search"`
	Options     []string     `json:"options"`
}

type policyJSON struct {
	Networks []netip.Prefix `json:"networks"`
	CutMark  uint32         `json:"cutMark"`
	LogGroup uint16         `json:"logGroup"`
	LogRate  uint32         `json:"logRate"`
	LogBurst uint32         `json:"logBurst"`
}

type rangeJSON struct {
	Subnet netip.Prefix `json:"subnet"`
}

// Encode returns the file.
func (c Conflist) Encode() ([]byte, error) {
	plugin := pluginJSON{
		Type:   "twill",
		Bridge: c.Bridge,
		MTU:    c.MTU,
		RunDir: c.RunDir,
		IPAM:   ipamJSON{Type: "twill-ipam", DataDir: c.DataDir, HostLocalDir: c.HostLocalDir},
		Capabilities: map[string]bool{
			"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true,
		},
	}
	for _, subnet := range prefixes(c.Subnets) {
		plugin.IPAM.Ranges = append(plugin.IPAM.Ranges, []rangeJSON{{Subnet: subnet}})
	}
	if p := c.Policy; p != nil {
		plugin.Policy = &policyJSON{p.NodePods, p.CutMark, p.LogGroup, p.LogRate, p.LogBurst}
	}
	if c.ClusterDomain != "" {
		plugin.ClusterDomain = c.ClusterDomain
		plugin.DNS = &dnsJSON{Gateways(c.Subnets), []string{"svc." + c.ClusterDomain, c.ClusterDomain}, []string{"ndots:5"}} // as kubelet's
	}
	// cniVersions lets a runtime choose the newest that it knows; one that does not know the key takes cniVersion.
	data, err := json.MarshalIndent(conflistJSON{
		CNIVersion:  "1.0.0",
		CNIVersions: []string{"0.4.0", "1.0.0", "1.1.0"},
		Name:        NetworkName,
		Plugins:     []pluginJSON{plugin},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", ConflistName, err)
	}
	return append(data, '\n'), nil
}

// Gateways returns the addresses of the bridge that pods with these subnets have for their gateways: the first of each.
func Gateways(s store.Subnets) []netip.Addr {
	var out []netip.Addr
	for _, p := range prefixes(s) {
		out = append(out, p.Masked().Addr().Next())
	}
	return out
}

// prefixes returns the subnets that there are.
func prefixes(s store.Subnets) []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{s.IPv4, s.IPv6}, func(p netip.Prefix) bool { return !p.IsValid() })
}
