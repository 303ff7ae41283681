package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Network is the cluster's network configuration, as flannel keeps it: the value of <prefix>/config in etcd, net-conf.json
// in Kubernetes. It is validated; see ParseNetwork.
type Network struct {
	EnableIPv4    bool
	EnableIPv6    bool
	IPv4          Pool            // the zero Pool when IPv4 is not enabled
	IPv6          Pool            // the zero Pool when IPv6 is not enabled
	BackendType   string          // Backend.Type in lower case; "udp" when there is no Backend, as flannel has it
	BackendConfig json.RawMessage // the whole Backend object
	Unknown       []string        // top-level keys that have no meaning here, sorted; worth a warning
}

// networkJSON takes the document apart; each value is read by itself, so that an error can name its key. Names match in any
// case, as they do in flannel.
type networkJSON struct {
	EnableIPv4, EnableIPv6, EnableNFTables json.RawMessage
	Network, SubnetLen                     json.RawMessage
	SubnetMin, SubnetMax                   json.RawMessage
	IPv6Network, IPv6SubnetLen             json.RawMessage
	IPv6SubnetMin, IPv6SubnetMax           json.RawMessage
	Backend                                json.RawMessage
}

var networkKeys = []string{
	"EnableIPv4", "EnableIPv6", "EnableNFTables", "Network", "SubnetLen", "SubnetMin", "SubnetMax",
	"IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend",
}

// MaxNetworkSize is the size in bytes above which ParseNetwork refuses a document.
const MaxNetworkSize = 64 << 10

// ParseNetwork reads a network configuration in flannel's JSON form, with flannel's defaults:
//
//   - IPv4 is enabled unless EnableIPv4 is false; IPv6 only when EnableIPv6 is true.
//   - SubnetLen is 24 (IPv6SubnetLen 64), or the network's length + 2 where that leaves fewer than four subnets.
//   - SubnetMin is the network's second subnet (the first has the network's own address), SubnetMax the last one.
//   - Backend.Type is "udp" when there is no Backend; its case does not matter.
//   - EnableNFTables is accepted and has no meaning: nftables are always used.
//
// The keys of a family that is not enabled are not looked at. Stricter than flannel, a range whose minimum lies above its maximum is an error. A key that is unknown is none, since flannel accepts
// it; it is listed in Unknown. The error names the key that is wrong.
func ParseNetwork(data []byte) (Network, error) {
	n, err := parseNetwork(data)
	if err != nil {
		return Network{}, fmt.Errorf("network config: %w", err)
	}
	return n, nil
}

func parseNetwork(data []byte) (n Network, err error) {
	if len(data) > MaxNetworkSize {
		return n, fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxNetworkSize)
	}
	var doc networkJSON
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return n, fmt.Errorf("not a JSON object: %w", err)
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return n, err
	}
	n.Unknown = unknownKeys(all)
	if n.EnableIPv4, err = parseValue("EnableIPv4", doc.EnableIPv4, true); err != nil {
		return n, err
	}
	if n.EnableIPv6, err = parseValue("EnableIPv6", doc.EnableIPv6, false); err != nil {
		return n, err
	}
	if _, err = parseValue("EnableNFTables", doc.EnableNFTables, false); err != nil {
		return n, err
	}
	if !n.EnableIPv4 && !n.EnableIPv6 {
		return n, errors.New("neither EnableIPv4 nor EnableIPv6 is true")
	}
	if n.EnableIPv4 {
		n.IPv4, err = parsePool(ipv4Pool, doc.Network, doc.SubnetLen, [2]json.RawMessage{doc.SubnetMin, doc.SubnetMax})
		if err != nil {
			return n, err
		}
	}
	if n.EnableIPv6 {
		n.IPv6, err = parsePool(ipv6Pool, doc.IPv6Network, doc.IPv6SubnetLen, [2]json.RawMessage{doc.IPv6SubnetMin, doc.IPv6SubnetMax})
		if err != nil {
			return n, err
		}
	}
	n.BackendType, n.BackendConfig, err = parseBackend(doc.Backend)
	return n, err
}

func unknownKeys(doc map[string]json.RawMessage) []string {
	var unknown []string
	for key := range doc {
		if !slices.ContainsFunc(networkKeys, func(k string) bool { return strings.EqualFold(k, key) }) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}

func parseBackend(raw json.RawMessage) (string, json.RawMessage, error) {
	if isAbsent(raw) {
		return "udp", nil, nil
	}
	var b struct{ Type *string }
	if err := json.Unmarshal(raw, &b); err != nil {
		return "", nil, fmt.Errorf("key Backend: %w", err)
	}
	if b.Type == nil || *b.Type == "" {
		return "", nil, errors.New("no Backend.Type is given")
	}
	return strings.ToLower(*b.Type), raw, nil
}

// isAbsent reports whether a key is not given: left out, or null.
func isAbsent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// parseValue reads the value of key, or returns absent when there is none.
func parseValue[T any](key string, raw json.RawMessage, absent T) (T, error) {
	if isAbsent(raw) {
		return absent, nil
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return absent, fmt.Errorf("%s: %s is not a %T", key, clip(raw), v)
	}
	return v, nil
}

// clip shortens what an error quotes.
func clip[T ~string | ~[]byte](s T) string {
	const most = 100
	if len(s) > most {
		return string(s[:most]) + "..."
	}
	return string(s)
}

// poolKeys are the names of a pool's keys and flannel's limits for its family.
type poolKeys struct {
	network, subnetLen, subnetMin, subnetMax string

	bits       int // of an address
	defaultLen int // of a subnet where the network is large enough
}

var (
	ipv4Pool = poolKeys{"Network", "SubnetLen", "SubnetMin", "SubnetMax", 32, 24}
	ipv6Pool = poolKeys{"IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", 128, 64}
)

func parsePool(k poolKeys, network, subnetLen json.RawMessage, bounds [2]json.RawMessage) (Pool, error) {
	var p Pool
	text, err := parseValue(k.network, network, "")
	if err != nil {
		return p, err
	}
	if text == "" {
		return p, fmt.Errorf("%s is missing", k.network)
	}
	p.Network, err = netip.ParsePrefix(text)
	if err != nil || p.Network.Addr().BitLen() != k.bits || p.Network.Addr().Is4In6() {
		return p, fmt.Errorf("%s: %q is not an IPv%d network", k.network, clip(text), map[int]int{32: 4, 128: 6}[k.bits])
	}
	p.Network = p.Network.Masked()
	if p.Network.Bits() == 0 {
		return p, fmt.Errorf("%s: %s is the whole address space", k.network, p.Network)
	}
	if p.SubnetLen, err = parseSubnetLen(k, p.Network, subnetLen); err != nil {
		return p, err
	}
	size := u128{lo: 1}.shl(k.bits - p.SubnetLen)
	base := addrValue(p.Network.Addr())
	last := base.add(u128{lo: 1}.shl(k.bits - p.Network.Bits())).sub(size)
	if p.Min, err = parseBound(k.subnetMin, p, bounds[0], base.add(size)); err != nil {
		return p, err
	}
	if p.Max, err = parseBound(k.subnetMax, p, bounds[1], last); err != nil {
		return p, err
	}
	if p.Max.Less(p.Min) {
		return p, fmt.Errorf("%s %s is above %s %s", k.subnetMin, p.Min, k.subnetMax, p.Max)
	}
	return p, nil
}

func parseSubnetLen(k poolKeys, network netip.Prefix, raw json.RawMessage) (int, error) {
	given, err := parseValue(k.subnetLen, raw, uint(0))
	if err != nil {
		return 0, err
	}
	// Four subnets are the least: the first is skipped, and a node's subnet needs room for a gateway and a pod.
	switch {
	case given > uint(k.bits-2):
		return 0, fmt.Errorf("%s: %d is more than %d", k.subnetLen, given, k.bits-2)
	case given > 0 && int(given) < network.Bits()+2:
		return 0, fmt.Errorf("%s: %d leaves fewer than four subnets in %s %s", k.subnetLen, given, k.network, network)
	case given > 0:
		return int(given), nil
	case network.Bits() > k.bits-4:
		return 0, fmt.Errorf("%s: %s is too small, a /%d is the least", k.network, network, k.bits-4)
	}
	return max(k.defaultLen, network.Bits()+2), nil
}

// parseBound reads the base address of the first or the last subnet; absent or unspecified means def.
func parseBound(key string, p Pool, raw json.RawMessage, def u128) (netip.Addr, error) {
	v4 := p.Network.Addr().Is4()
	unspecified := netip.IPv6Unspecified()
	if v4 {
		unspecified = netip.IPv4Unspecified()
	}
	text, err := parseValue(key, raw, unspecified.String())
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return addr, fmt.Errorf("%s: %q is not an address", key, clip(text))
	case addr == unspecified:
		return def.addr(v4), nil
	case !p.Network.Contains(addr):
		return addr, fmt.Errorf("%s: %s is not in the network %s", key, addr, p.Network)
	case netip.PrefixFrom(addr, p.SubnetLen).Masked().Addr() != addr:
		return addr, fmt.Errorf("%s: %s is not the base address of a /%d", key, addr, p.SubnetLen)
	}
	return addr, nil
}
