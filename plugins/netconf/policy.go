package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/twill-cni/twill/policy/gate"
)

// policyJSON is the key "policy".
type policyJSON struct {
	Networks []netip.Prefix `json:"networks"`
	CutMark  uint32         `json:"cutMark"`
	LogGroup uint16         `json:"logGroup"`
	LogRate  uint32         `json:"logRate"`
	LogBurst uint32         `json:"logBurst"`
}

// parsePolicy reads what the table of a node with policies depends on. Networks are needed: without them the table closes nothing.
func parsePolicy(data []byte) (*gate.Config, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p policyJSON
	if err := dec.Decode(&p); err != nil {
		return nil, err
	}
	if len(p.Networks) == 0 {
		return nil, errors.New("networks: is missing; want the networks of this node's pods")
	}
	for _, n := range p.Networks {
		if !n.IsValid() || n != n.Masked() || n.Addr().Is4In6() {
			return nil, fmt.Errorf("networks: %q is no network; want an address and its prefix length, without bits beyond that", n)
		}
	}
	return &gate.Config{NodePods: p.Networks, CutMark: p.CutMark, LogGroup: p.LogGroup, LogRate: p.LogRate, LogBurst: p.LogBurst}, nil
}
