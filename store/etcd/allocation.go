package etcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
)

// ErrExhausted says that everything in a range is allocated.
var ErrExhausted = errors.New("all are allocated")

// The keys below allocationPrefix. The value of each is the name of the Service that has it.
const (
	clusterIPsFolder = "clusterips/"
	nodePortsFolder  = "nodeports/"
)

func addrClaim(addr netip.Addr) string            { return clusterIPsFolder + addr.String() }
func portClaim[P ~int32 | ~uint16](port P) string { return nodePortsFolder + strconv.Itoa(int(port)) }

// claimsOf returns what a Service has of the ranges, by key below allocationPrefix; the value is the field that says so.
func claimsOf(svc *corev1.Service) map[string]string {
	claims := map[string]string{}
	if svc == nil {
		return claims
	}
	for i, text := range svc.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(text); err == nil {
			claims[addrClaim(addr)] = fmt.Sprintf("spec.clusterIPs[%d]", i)
		}
	}
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		claims[portClaim(port)] = "spec.healthCheckNodePort"
	}
	for i, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			claims[portClaim(p.NodePort)] = fmt.Sprintf("spec.ports[%d].nodePort", i)
		}
	}
	return claims
}

// pool is a range that something is allocated from, as numbers from 0 on.
type pool struct {
	what   string // for errors
	folder string
	size   uint64
	band   uint64 // numbers below are for those who choose by hand, and given out last (KEP-3070, KEP-3668)
	key    func(n uint64) string
	number func(name string) (uint64, bool) // the inverse of key, without the folder
}

// maxPool bounds how much of a large IPv6 network is used.
const maxPool = 1 << 32

// addressPool leaves out a network's own address, and for IPv4 that of broadcast.
func addressPool(network netip.Prefix) pool {
	host := network.Addr().BitLen() - network.Bits()
	size := uint64(maxPool)
	if host < 32 {
		size = 1 << host
	}
	size--
	if network.Addr().Is4() {
		size--
	}
	base := network.Addr().As16()
	low := binary.BigEndian.Uint64(base[8:])
	at := func(n uint64) netip.Addr {
		b := base
		binary.BigEndian.PutUint64(b[8:], low+n+1)
		return netip.AddrFrom16(b).Unmap()
	}
	return pool{
		what: "Service network " + network.String(), folder: clusterIPsFolder, size: size, band: band(size, 16, 256),
		key: func(n uint64) string { return addrClaim(at(n)) },
		number: func(name string) (uint64, bool) {
			addr, err := netip.ParseAddr(name)
			if err != nil || !network.Contains(addr) {
				return 0, false
			}
			b := addr.As16()
			return binary.BigEndian.Uint64(b[8:]) - low - 1, true
		},
	}
}

func portPool(r store.PortRange) pool {
	size := uint64(r.Last-r.First) + 1
	return pool{
		what: "node port range " + r.String(), folder: nodePortsFolder, size: size, band: band(size, 32, 128),
		key: func(n uint64) string { return portClaim(r.First + uint16(n)) },
		number: func(name string) (uint64, bool) {
			port, err := strconv.ParseUint(name, 10, 16)
			return port - uint64(r.First), err == nil && r.Contains(uint16(port))
		},
	}
}

// band returns how many numbers at the start of a range are for those who choose by hand: a part of it, at least 16 and at most most, and none where
// the range is too small for that.
func band(size, part, most uint64) uint64 {
	n := min(max(16, size/part), most)
	if n >= size {
		return 0
	}
	return n
}

// choose returns a number that is not taken, drawn at random from those above the band, and from those below when none is left there.
func (p pool) choose(taken map[uint64]bool) (uint64, error) {
	for _, part := range []struct{ first, size uint64 }{{p.band, p.size - p.band}, {0, p.band}} {
		if part.size == 0 {
			continue
		}
		start := rand.Uint64N(part.size)
		for i := range min(part.size, uint64(len(taken))+1) {
			if n := part.first + (start+i)%part.size; !taken[n] {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: %w: %d of %d", p.what, ErrExhausted, len(taken), p.size)
}

// allocation draws what one Service lacks.
type allocation struct {
	store *Store
	own   map[string]bool // keys that the Service has or was given in this round
	full  bool            // look at what is taken first: drawing blindly has failed
	taken map[string]map[uint64]bool
}

// draw returns the key below allocationPrefix of something in the pool that nobody is known to have.
func (a *allocation) draw(ctx context.Context, p pool) (string, error) {
	if a.taken[p.what] == nil {
		a.taken[p.what] = map[uint64]bool{}
		if err := a.look(ctx, p); err != nil {
			return "", err
		}
	}
	n, err := p.choose(a.taken[p.what])
	if err != nil {
		return "", err
	}
	a.taken[p.what][n] = true
	a.own[p.key(n)] = true
	return p.key(n), nil
}

// look notes what of the pool is taken: the Service's own, and everybody's when drawing blindly has failed.
func (a *allocation) look(ctx context.Context, p pool) error {
	note := func(name string) {
		if n, ok := p.number(name); ok && n < p.size {
			a.taken[p.what][n] = true
		}
	}
	for key := range a.own {
		if name, ok := strings.CutPrefix(key, p.folder); ok {
			note(name)
		}
	}
	if !a.full {
		return nil
	}
	_, err := a.store.scan(ctx, a.store.allocationPrefix()+p.folder, func(name string, _ *mvccpb.KeyValue) { note(name) })
	return err
}
