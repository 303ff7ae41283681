package kernel

import (
	"crypto/sha256"
	"net/netip"
	"strings"
)

// StableMAC derives a locally administered unicast address from the seeds: the same seeds yield the same address on every
// run and on every host, so a device keeps its address when it has to be made again.
func StableMAC(seeds ...string) MAC {
	sum := sha256.Sum256([]byte("twill\x00" + strings.Join(seeds, "\x00")))
	mac := MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered (IEEE 802-2014, 8.4)
	return mac
}

// BridgeMAC is the address of a pods' bridge that is made: plugin and daemon agree on it, and a bridge that has to be made again has
// the address that pods know.
func BridgeMAC(name string, gateways []netip.Prefix) MAC {
	seeds := []string{"bridge", name}
	for _, g := range gateways {
		seeds = append(seeds, g.String())
	}
	return StableMAC(seeds...)
}
