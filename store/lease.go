package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// MaxLeaseSize is the size in bytes above which a lease's value is refused, in either direction. A vxlan lease has some 150.
const MaxLeaseSize = 32 << 10

// MaxKeySize is the size in bytes above which a lease's key is refused; the longest valid one has 63.
const MaxKeySize = 128

// noIPv4 stands in a key for the IPv4 subnet of a node that has none. flannel's nodes write it and cannot read a key
// without an IPv4 part.
const noIPv4 = "0.0.0.0-0"

// Key returns the name that a lease with these subnets has in a datastore, as flannel forms it:
//
//	10.5.52.0-24                     IPv4
//	10.5.52.0-24&fd00:0:0:34::-64    dual stack
//	0.0.0.0-0&fd00:0:0:34::-64       IPv6
func (s Subnets) Key() string {
	var b [MaxKeySize]byte
	key := b[:0]
	if s.IPv4.IsValid() {
		key = appendSubnet(key, s.IPv4)
	} else {
		key = append(key, noIPv4...)
	}
	if s.IPv6.IsValid() {
		key = appendSubnet(append(key, '&'), s.IPv6)
	}
	return string(key)
}

func appendSubnet(b []byte, p netip.Prefix) []byte {
	b = p.AppendTo(b)
	b[bytes.LastIndexByte(b, '/')] = '-'
	return b
}

// Compare orders subnets by IPv4, then by IPv6.
func (s Subnets) Compare(o Subnets) int {
	if c := s.IPv4.Compare(o.IPv4); c != 0 {
		return c
	}
	return s.IPv6.Compare(o.IPv6)
}

// Overlaps reports whether s and o share an address.
func (s Subnets) Overlaps(o Subnets) bool { return s.IPv4.Overlaps(o.IPv4) || s.IPv6.Overlaps(o.IPv6) }

func (s Subnets) String() string {
	switch {
	case !s.IPv6.IsValid():
		return s.IPv4.String()
	case !s.IPv4.IsValid():
		return s.IPv6.String()
	}
	return s.IPv4.String() + " and " + s.IPv6.String()
}

// ParseKey is the inverse of Subnets.Key. Another spelling of the same subnets is an error, so that no two keys name one lease.
func ParseKey(key string) (Subnets, error) {
	s, err := parseKey(key)
	if err != nil {
		return Subnets{}, fmt.Errorf("lease key %q: %w", clip(key), err)
	}
	return s, nil
}

func parseKey(key string) (s Subnets, err error) {
	if len(key) > MaxKeySize {
		return s, fmt.Errorf("%d bytes are more than the %d that are allowed", len(key), MaxKeySize)
	}
	v4, v6, dual := strings.Cut(key, "&")
	if v4 != noIPv4 {
		if s.IPv4, err = parseSubnet(v4); err != nil {
			return s, err
		}
	}
	if dual {
		if s.IPv6, err = parseSubnet(v6); err != nil {
			return s, err
		}
	}
	switch {
	case s.IPv4.IsValid() && !s.IPv4.Addr().Is4():
		return s, errors.New("its first part is no IPv4 subnet")
	case s.IPv6.IsValid() && (!s.IPv6.Addr().Is6() || s.IPv6.Addr().Is4In6()):
		return s, errors.New("its second part is no IPv6 subnet")
	case !s.IPv4.IsValid() && !s.IPv6.IsValid():
		return s, errors.New("it names no subnet")
	case s.Key() != key:
		return s, fmt.Errorf("it should read %q", s.Key())
	}
	return s, nil
}

func parseSubnet(text string) (netip.Prefix, error) {
	addr, bits, ok := strings.Cut(text, "-")
	if !ok {
		return netip.Prefix{}, errors.New("want ADDRESS-LENGTH")
	}
	p, err := netip.ParsePrefix(addr + "/" + bits)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no subnet", text)
	}
	if p != p.Masked() || p.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("%q is not the base address of a subnet", text)
	}
	return p, nil
}

// NewLease returns the lease of a node with the given attributes and subnets.
func NewLease(s Subnets, a Attributes) *Lease {
	return &Lease{
		Subnet: s.IPv4, IPv6Subnet: s.IPv6,
		PublicIP: a.PublicIP, PublicIPv6: a.PublicIPv6,
		BackendType: a.BackendType, BackendData: a.BackendData, BackendV6Data: a.BackendV6Data,
	}
}

// Subnets returns the lease's subnets.
func (l *Lease) Subnets() Subnets { return Subnets{l.Subnet, l.IPv6Subnet} }

// Key returns the lease's name in a datastore; see Subnets.Key.
func (l *Lease) Key() string { return l.Subnets().Key() }

// Equal reports whether l and o say the same, byte for byte in their backend data.
func (l *Lease) Equal(o *Lease) bool {
	return l == o || l != nil && o != nil &&
		l.Subnet == o.Subnet && l.IPv6Subnet == o.IPv6Subnet &&
		l.PublicIP == o.PublicIP && l.PublicIPv6 == o.PublicIPv6 && l.BackendType == o.BackendType &&
		bytes.Equal(l.BackendData, o.BackendData) && bytes.Equal(l.BackendV6Data, o.BackendV6Data)
}

// SameNode reports whether the lease is that of the node with these attributes: they agree in a public address.
func (l *Lease) SameNode(a Attributes) bool {
	return l.PublicIP.IsValid() && l.PublicIP == a.PublicIP || l.PublicIPv6.IsValid() && l.PublicIPv6 == a.PublicIPv6
}

// SameBackend reports whether the lease has backend data of a family that are, byte for byte, those of the attributes.
func (l *Lease) SameBackend(a Attributes) bool {
	return l.BackendType == a.BackendType &&
		(len(a.BackendData) > 0 && bytes.Equal(l.BackendData, a.BackendData) ||
			len(a.BackendV6Data) > 0 && bytes.Equal(l.BackendV6Data, a.BackendV6Data))
}

// leaseJSON is a lease's value in flannel's form: an IPv4 address is always written, as 0.0.0.0 when there is none; an IPv6
// address is null when there is none.
type leaseJSON struct {
	PublicIP      *string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
}

// Value returns what a datastore holds for the lease: byte for byte what flannel would write for it. It is an error when
// DecodeLease would refuse it.
func (l *Lease) Value() ([]byte, error) {
	value, err := l.value()
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", l.Key(), err)
	}
	return value, nil
}

func (l *Lease) value() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	v4 := netip.IPv4Unspecified().String()
	doc := leaseJSON{PublicIP: &v4, BackendType: l.BackendType, BackendData: l.BackendData, BackendV6Data: l.BackendV6Data}
	if l.PublicIP.IsValid() {
		v4 = l.PublicIP.String()
	}
	if l.PublicIPv6.IsValid() {
		v6 := l.PublicIPv6.String()
		doc.PublicIPv6 = &v6
	}
	value, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	if len(value) > MaxLeaseSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that are allowed", len(value), MaxLeaseSize)
	}
	return value, nil
}

// DecodeLease returns the lease that a datastore holds under the key of these subnets. It needs a public address of at least one of
// the families that it has a subnet of. It keeps nothing of value's memory. Fields that it does not know are skipped.
func DecodeLease(s Subnets, value []byte) (*Lease, error) {
	l, err := decodeLease(s, value)
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", s.Key(), err)
	}
	return l, nil
}

func decodeLease(s Subnets, value []byte) (*Lease, error) {
	if len(value) > MaxLeaseSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that are allowed", len(value), MaxLeaseSize)
	}
	var doc leaseJSON
	if err := json.Unmarshal(value, &doc); err != nil {
		return nil, fmt.Errorf("its value is not a lease: %w", err)
	}
	l := &Lease{Subnet: s.IPv4, IPv6Subnet: s.IPv6, BackendType: doc.BackendType}
	var err error
	if l.PublicIP, err = parsePublic("PublicIP", doc.PublicIP); err != nil {
		return nil, err
	}
	if l.PublicIPv6, err = parsePublic("PublicIPv6", doc.PublicIPv6); err != nil {
		return nil, err
	}
	l.PublicIP = l.PublicIP.Unmap() // flannel reads ::ffff:192.0.2.1 as IPv4 too
	if !isAbsent(doc.BackendData) {
		l.BackendData = doc.BackendData
	}
	if !isAbsent(doc.BackendV6Data) {
		l.BackendV6Data = doc.BackendV6Data
	}
	return l, l.Validate()
}

// parsePublic reads an address; the unspecified one stands for none.
func parsePublic(key string, text *string) (netip.Addr, error) {
	if text == nil {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(*text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s: %q is not an address", key, clip(*text))
	}
	if addr.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return addr, nil
}

// Validate returns an error when a datastore must not hold the lease: when an address is not one of a node, or none is given of a family that it
// has a subnet of.
func (l *Lease) Validate() error {
	v4, v6 := l.PublicIP, l.PublicIPv6
	switch {
	case v4.IsValid() && !v4.Is4():
		return fmt.Errorf("PublicIP: %s is not an IPv4 address", v4)
	case v6.IsValid() && (!v6.Is6() || v6.Is4In6() || v6.Zone() != ""):
		return fmt.Errorf("PublicIPv6: %s is not an IPv6 address", v6)
	}
	for _, addr := range []netip.Addr{v4, v6} {
		if addr.IsMulticast() || addr.IsLoopback() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return fmt.Errorf("public address: %s is not one of a node", addr)
		}
	}
	if l.Subnet.IsValid() && v4.IsValid() || l.IPv6Subnet.IsValid() && v6.IsValid() {
		return nil
	}
	return errors.New("it has no public address")
}
