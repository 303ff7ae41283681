package hostfile

import (
	"encoding/json"
	"fmt"
	"net/netip"

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
}

type conflistJSON struct {
	CNIVersion  string       `json:"cniVersion"`
	CNIVersions []string     `json:"cniVersions"`
	Name        string       `json:"name"`
	Plugins     []pluginJSON `json:"plugins"`
}

type pluginJSON struct {
	Type         string          `json:"type"`
	Bridge       string          `json:"bridge"`
	MTU          int             `json:"mtu"`
	RunDir       string          `json:"runDir"`
	IPAM         ipamJSON        `json:"ipam"`
	Capabilities map[string]bool `json:"capabilities"`
}

type ipamJSON struct {
	Type    string        `json:"type"`
	Ranges  [][]rangeJSON `json:"ranges"` // one address is taken of each
	DataDir string        `json:"dataDir"`

	HostLocalDir string `json:"hostLocalDir,omitempty"`
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
	for _, subnet := range []netip.Prefix{c.Subnets.IPv4, c.Subnets.IPv6} {
		if subnet.IsValid() {
			plugin.IPAM.Ranges = append(plugin.IPAM.Ranges, []rangeJSON{{Subnet: subnet}})
		}
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
