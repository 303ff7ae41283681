package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// recordVersion is raised when the meaning of a field changes; new fields alone do not raise it.
const recordVersion = 1

// record is a lease as it is stored. Fields that a later version adds are ignored, so that a downgrade can read them.
type record struct {
	Version     int             `json:"version"`
	ContainerID string          `json:"containerID"`
	IfName      string          `json:"ifName"`
	Addresses   []recordAddress `json:"addresses"`
	Netns       string          `json:"netns,omitempty"`
	NetnsInode  uint64          `json:"netnsInode,omitempty"`
	Pod         string          `json:"pod,omitempty"`
	Created     time.Time       `json:"created,omitzero"`
}

type recordAddress struct {
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// EncodeLease returns the stored form of a lease: one line of JSON.
func EncodeLease(l Lease) ([]byte, error) {
	rec := record{
		Version: recordVersion, ContainerID: l.Owner.ContainerID, IfName: l.Owner.IfName,
		Netns: l.Netns, NetnsInode: l.NetnsInode, Pod: l.Pod, Created: l.Created.UTC(),
	}
	for _, a := range l.Addresses {
		rec.Addresses = append(rec.Addresses, recordAddress{Address: a.Prefix, Gateway: a.Gateway})
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode lease of %s: %w", l.Owner, err)
	}
	return append(data, '\n'), nil
}

// DecodeLease reads what EncodeLease wrote. Anything that EncodeLease would not have written for a valid lease is an error
// that wraps ErrDamaged.
func DecodeLease(data []byte) (Lease, error) {
	var rec record
	if len(data) == 0 {
		return Lease{}, fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		return Lease{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if rec.Version != recordVersion {
		return Lease{}, fmt.Errorf("%w: version %d, want %d", ErrDamaged, rec.Version, recordVersion)
	}
	l := Lease{
		Owner: Owner{ContainerID: rec.ContainerID, IfName: rec.IfName},
		Netns: rec.Netns, NetnsInode: rec.NetnsInode, Pod: rec.Pod, Created: rec.Created,
	}
	if err := l.Owner.Validate(); err != nil {
		return Lease{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(rec.Addresses) == 0 {
		return Lease{}, fmt.Errorf("%w: it has no addresses", ErrDamaged)
	}
	for _, a := range rec.Addresses {
		if !plain(a.Address.Addr()) || !a.Address.IsValid() {
			return Lease{}, fmt.Errorf("%w: address %q", ErrDamaged, a.Address)
		}
		if a.Gateway.IsValid() && (!plain(a.Gateway) || a.Gateway.Is4() != a.Address.Addr().Is4()) {
			return Lease{}, fmt.Errorf("%w: gateway %q of %s", ErrDamaged, a.Gateway, a.Address)
		}
		l.Addresses = append(l.Addresses, Address{Prefix: a.Address, Gateway: a.Gateway})
	}
	return l, nil
}

// plain reports whether ip is an address that ParseConfig could have led to: no zone, not IPv4 written as IPv6.
func plain(ip netip.Addr) bool { return ip.IsValid() && ip.Zone() == "" && !ip.Is4In6() }
