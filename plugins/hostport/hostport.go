package hostport

import (
	"errors"
	"net/netip"

	"github.com/twill-cni/twill/plugins/netconf"
)

// ErrTaken says that a port of the node leads to another pod already.
var ErrTaken = errors.New("host port is taken")

// Pod is one pod's mappings and the addresses that they lead to.
type Pod struct {
	Bridge    string
	Mappings  []netconf.PortMapping
	Addresses []netip.Prefix
}
