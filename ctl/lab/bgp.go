package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// The numbers of the lab's autonomous systems, both for private use (RFC 6996).
const (
	nodesAS  = 64512 // of all nodes
	routerAS = 65000 // of the router between the subnets
)

// clusterID is that of the lab's route reflectors: a route that one of them has reflected is of no use to another (RFC 4456, section 7).
var clusterID = netip.MustParseAddr("1.0.0.1")

// bgpConfig is what the lab says in twilld's --bgp-config.
type bgpConfig struct {
	AS      uint32    `json:"as"`
	Overlay Overlay   `json:"overlay"`
	Nodes   []bgpNode `json:"nodes,omitempty"`
	Peers   []bgpPeer `json:"peers,omitempty"`
}

type bgpNode struct {
	Match struct {
		Names []string `json:"names"`
	} `json:"match"`
	Reflector struct {
		ClusterID netip.Addr `json:"clusterID"`
	} `json:"reflector"`
}

type bgpPeer struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	AS      uint32     `json:"as"`
}

// bgpConfig renders the configuration of a node in the given subnet.
func (o Options) bgpConfig(s subnet) ([]byte, error) {
	config := bgpConfig{AS: nodesAS, Overlay: o.Overlay}
	if o.Reflectors > 0 {
		var n bgpNode
		for number := range o.Reflectors {
			n.Match.Names = append(n.Match.Names, nodeName(1+number))
		}
		n.Reflector.ClusterID = clusterID
		config.Nodes = []bgpNode{n}
	}
	if o.ToR {
		gateway := o.families(s.v4, s.v6)[0].Addr()
		config.Peers = []bgpPeer{{Name: "tor", Address: gateway, AS: routerAS}}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("render the BGP configuration: %w", err)
	}
	return text, nil
}

// BGPConfigFile returns the file that the daemon has as --bgp-config when its backend is BGP. The lab writes it when the node is made and when
// the lab's routing changes.
func (n *Node) BGPConfigFile() string { return filepath.Join(n.dir(), "bgp.yaml") }

// SetBGPConfig replaces the file as a whole; a daemon that runs reads it again.
func (n *Node) SetBGPConfig(text []byte) error {
	path := n.BGPConfigFile()
	if err := os.WriteFile(path+temporary, text, 0o644); err != nil {
		return fmt.Errorf("write the BGP configuration of %s: %w", n.Name, err)
	}
	if err := os.Rename(path+temporary, path); err != nil {
		return fmt.Errorf("write the BGP configuration of %s: %w", n.Name, err)
	}
	return nil
}

// writeBGPConfig makes the file what the lab's routing asks for: none without BGP.
func (n *Node) writeBGPConfig(o Options) error {
	if o.Backend != BGP {
		if err := os.Remove(n.BGPConfigFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the BGP configuration of %s: %w", n.Name, err)
		}
		return nil
	}
	text, err := o.bgpConfig(n.subnet())
	if err != nil {
		return err
	}
	return n.SetBGPConfig(text)
}
