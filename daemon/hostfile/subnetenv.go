package hostfile

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/twill-cni/twill/daemon/node"
	"github.com/twill-cni/twill/store"
)

// SubnetEnv is what subnet.env says, in flannel's words.
type SubnetEnv struct {
	Network, IPv6Network netip.Prefix // of the cluster; the zero Prefix for a family that is not enabled
	Subnets              store.Subnets
	MTU                  int // of the pod network, bytes
	IPMasq               bool
}

// Encode returns the file as flannel writes it: subnets appear as the address of the gateway, the first one after the base.
func (e SubnetEnv) Encode() []byte {
	var b []byte
	if e.Subnets.IPv4.IsValid() {
		b = fmt.Appendf(b, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", e.Network, node.Gateway(e.Subnets.IPv4))
	}
	if e.Subnets.IPv6.IsValid() {
		b = fmt.Appendf(b, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", e.IPv6Network, node.Gateway(e.Subnets.IPv6))
	}
	return fmt.Appendf(b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
}

// ParseSubnets reads the subnets out of a subnet.env. A family that it does not mention has the zero Prefix. The error names
// the key that is wrong.
func ParseSubnets(data []byte) (store.Subnets, error) {
	var s store.Subnets
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		var field *netip.Prefix
		switch key {
		case "FLANNEL_SUBNET":
			field = &s.IPv4
		case "FLANNEL_IPV6_SUBNET":
			field = &s.IPv6
		default:
			continue
		}
		prefix, err := netip.ParsePrefix(strings.Trim(value, `"'`))
		if err != nil || prefix.Addr().Is6() != (field == &s.IPv6) || prefix.Addr().Is4In6() {
			return store.Subnets{}, fmt.Errorf("%s: %q is no subnet of its family", key, value)
		}
		*field = prefix.Masked()
	}
	return s, nil
}
